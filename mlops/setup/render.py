"""A plan, what came of it and what a removal takes, as people see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from mlops.setup.plan import Part

MARKS = {"exists": "✓", "make": "+", "change": "~", "wrong": "✕", "later": "…", "open": "!"}
WORDS = {
    "exists": "exists",
    "make": "make",
    "change": "change",
    "wrong": "in the way",
    "later": "look later",
    "open": "for you",
}


def table(parts: Sequence[Part]) -> Table:
    """One line per part; a long name or note is folded within its column."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, show_header=False)
    shown.add_column(no_wrap=True)
    shown.add_column(no_wrap=True)
    shown.add_column(overflow="fold")
    styles = {"exists": "dim", "wrong": "red", "open": "yellow", "make": "green", "change": "green"}
    for part in parts:
        text = Text(part.name, "bold" if part.to_do else "")
        if part.note:
            text.append(f"{'  ' if part.name else ''}{part.note}", "dim" if part.state == "exists" else "")
        state = Text(f"{MARKS[part.state]} {WORDS[part.state]}", styles.get(part.state, ""))
        shown.add_row(state, part.what, text)
    return shown


def markdown(parts: Sequence[Part]) -> str:
    """The same for a job's summary."""
    from mlops.core.console import markdown_table

    return markdown_table(
        ["", "what", "name", "note"], [[WORDS[part.state], part.what, part.name, part.note] for part in parts]
    )


def plain_part(part: Part) -> dict[str, str]:
    """For JSON."""
    return {"what": part.what, "name": part.name, "state": part.state, "note": part.note}


def closing(said: str, notes: Sequence[str], lines: Sequence[str]) -> str:
    """The end: what was done, what is left for a person, what GitHub is to be told."""
    blocks = [said]
    if notes:
        blocks.append("\n".join(["left for you:", *(f"  ! {note}" for note in notes)]))
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
