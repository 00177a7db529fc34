"""How the history of an endpoint is shown: a table of 80 columns, and Markdown with links to the workflows' runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from mlops.core.console import markdown_table

if TYPE_CHECKING:
    from rich.table import Table

    from mlops.ledger import Entry, Health

MARKS = {"pass": "✓", "fail": "✕", "inconclusive": "?", "skipped": "–"}
COLOURS: dict[Health, str] = {"good": "green", "doubt": "yellow", "bad": "red", "running": "cyan"}
WHO = 12


def table(entries: Sequence[Entry], *, title: str) -> Table:
    """One row per rollout; the cells are broken where they can be, so that nothing is cut."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for name in ("when", "who", "what", "slot", "verdicts", "traffic", "outcome"):
        grid.add_column(name, no_wrap=name == "when", overflow="fold")
    for entry in entries:
        who = entry.by if len(entry.by) <= WHO else f"{entry.by[: WHO - 1]}…"
        cells = [
            when(entry.started),
            who,
            f"{entry.action}\n{entry.version}".strip(),
            entry.slot,
            verdicts(entry.verdicts, "\n"),
            traffic(entry, "\n"),
        ]
        outcome = Text(entry.outcome.replace("_", " "), style=COLOURS[entry.outcome.health])
        grid.add_row(*(Text(cell) for cell in cells), outcome)
    return grid


def markdown(entries: Sequence[Entry], *, title: str) -> str:
    """The same for a job summary."""
    header = ["when", "who", "what", "version", "slot", "verdicts", "traffic", "outcome", "reason"]
    rows = [
        [
            f"{entry.started:%Y-%m-%d %H:%M} UTC",
            entry.by,
            f"[{entry.action}]({entry.run_url})" if entry.run_url else entry.action,
            entry.version,
            entry.slot,
            verdicts(entry.verdicts, " "),
            traffic(entry, " "),
            entry.outcome.replace("_", " "),
            entry.reason or entry.error,
        ]
        for entry in entries
    ]
    return f"### {title}\n\n{markdown_table(header, rows)}"


def when(moment: datetime, now: datetime | None = None) -> str:
    """A time of here, as short as it is unmistakable."""
    here, today = moment.astimezone(), (now or datetime.now().astimezone())
    if here.date() == today.date():
        return f"{here:%H:%M:%S}"
    return f"{here:%m-%d %H:%M}" if here.year == today.year else f"{here:%Y-%m-%d}"


def verdicts(given: Sequence[str], separator: str) -> str:
    """``gate ✓``, ``soak ✓✓✕``: what decided, and a mark for each verdict."""
    marks: dict[str, str] = {}
    for verdict in given:
        what, _, _ = verdict.partition(" ")
        name = "gate" if what == "skipped" else what
        marks[name] = marks.get(name, "") + MARKS.get(verdict.rpartition(" ")[2], "?")
    return separator.join(f"{name} {signs}" for name, signs in marks.items())


def traffic(entry: Entry, separator: str) -> str:
    """``blue 100 → green 100``; one side where nothing changed."""
    before, after = shares(entry.before), shares(entry.after)
    return before if before == after else f"{before} →{separator}{after}"


def shares(traffic: Mapping[str, int]) -> str:
    """``blue 90 green 10``."""
    return " ".join(f"{slot} {share}" for slot, share in sorted(traffic.items()) if share) or "none"
