"""A plan, what came of it and what a removal takes, as people see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from mlops.setup.plan import Step

MARKS = {"exists": "✓", "make": "+", "change": "~", "wrong": "✕", "later": "…", "open": "!"}
WORDS = {
    "exists": "exists",
    "make": "make",
    "change": "change",
    "wrong": "in the way",
    "later": "look later",
    "open": "for you",
}


def table(steps: Sequence[Step]) -> Table:
    """One line per part; a long name or note is folded within its column."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, show_header=False)
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    styles = {"exists": "dim", "wrong": "red", "open": "yellow", "make": "green", "change": "green"}
    for step in steps:
        text = Text(step.name, "bold" if step.to_do else "")
        if step.note:
            text.append(f"{'  ' if step.name else ''}{step.note}", "dim" if step.state == "exists" else "")
        state = Text(f"{MARKS[step.state]} {WORDS[step.state]}", styles.get(step.state, ""))
        grid.add_row(state, step.what, text)
    return grid


def markdown(steps: Sequence[Step]) -> str:
    """The same for a job's summary."""
    from mlops.core.console import markdown_table

    return markdown_table(
        ["", "what", "name", "note"], [[WORDS[step.state], step.what, step.name, step.note] for step in steps]
    )


def plain_part(step: Step) -> dict[str, str]:
    """For JSON."""
    return {"what": step.what, "name": step.name, "state": step.state, "note": step.note}


def closing(outcome: str, notes: Sequence[str], lines: Sequence[str]) -> str:
    """The end: what was done, what is left for a person, what GitHub is to be told."""
    blocks = [outcome]
    if notes:
        blocks.append("\n".join(["manual steps:", *(f"  ! {note}" for note in notes)]))
    if lines:
        blocks.append(
            "\n".join(
                ["tell GitHub (--github does it; by hand it takes gh 2.31 or newer):", *(f"  {line}" for line in lines)]
            )
        )
    return "\n\n".join(blocks)


def listed(blocks: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Lines under titles; a title without lines is left out."""
    return "\n".join("\n".join([title, *(f"  {line}" for line in lines)]) for title, lines in blocks if lines)
