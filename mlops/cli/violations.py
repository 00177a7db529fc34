"""What is wrong with files of a pull request: annotations at their lines, and all of it in the job summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlops.core.console import Console
    from mlops.core.errors import FileLocation

ANNOTATIONS = 10
"""GitHub shows no more of one level per step."""
IN_SUMMARY = 2000
"""A job summary holds 1 MiB."""
CHARACTERS = 300


@dataclass(frozen=True)
class Violation:
    """One thing that is wrong, and where."""

    place: FileLocation
    message: str


def tell_github(console: Console, violations: Sequence[Violation], *, what: str, unlisted: int = 0) -> None:
    """Annotate the worst, and list all in the summary; nothing outside GitHub.

    Args:
        console: of the command.
        violations: the worst first.
        what: was looked at, for the heading.
        unlisted: how many more there are than are given.
    """
    from mlops.core.console import markdown_table

    if console.on_github:
        for violation in violations[:ANNOTATIONS]:
            console.annotate("error", violation.message, location=violation.place)
    if not violations:
        console.summary(f"### {what}: valid")
        return
    more = unlisted + max(0, len(violations) - IN_SUMMARY)
    rows = [[f"`{item.place}`", _short(item.message)] for item in violations[:IN_SUMMARY]]
    rows += [["…", f"{more:,} more"]] if more else []
    console.summary(f"### {what}: {len(violations) + unlisted:,} wrong\n\n{markdown_table(['where', 'what'], rows)}")


def _short(text: str) -> str:
    """In one cell, and never Markdown or HTML of whoever wrote the file."""
    cut = text if len(text) <= CHARACTERS else f"{text[: CHARACTERS - 1]}…"
    return cut.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("`", "\\`")
