"""What a check has found, and what all of them together mean."""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, replace

from mlops.core.errors import FileLocation, MlopsError


class Mark(enum.Enum):
    """How a finding is to be taken."""

    GOOD = "good"
    DOUBTFUL = "doubtful"
    """Worth knowing; nothing is refused for it."""
    BAD = "bad"
    """What follows would be refused, or fail, for it."""
    SKIPPED = "skipped"
    """Not looked at."""


SIGNS = {Mark.GOOD: "✓", Mark.DOUBTFUL: "!", Mark.BAD: "✕", Mark.SKIPPED: "–"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the screen.

    Attributes:
        check: the name of the check that found it.
        what: was found, with the value in quotes.
        hint: what to do about it.
        details: further lines.
        place: in a file.
    """

    mark: Mark
    what: str
    hint: str | None = None
    details: tuple[str, ...] = ()
    place: FileLocation | None = None
    check: str = ""

    def by(self, check: str) -> Finding:
        """The finding with the name of its check."""
        return replace(self, check=check)


def good(what: str) -> Finding:
    """All is well."""
    return Finding(mark=Mark.GOOD, what=what)


def doubtful(what: str, hint: str | None = None) -> Finding:
    """Worth knowing."""
    return Finding(mark=Mark.DOUBTFUL, what=what, hint=hint)


def bad(what: str, hint: str | None = None, *, location: FileLocation | None = None) -> Finding:
    """Something would fail for it."""
    return Finding(mark=Mark.BAD, what=what, hint=hint, place=location)


def skipped(what: str) -> Finding:
    """Not looked at, and why."""
    return Finding(mark=Mark.SKIPPED, what=what)


def refused(error: MlopsError) -> Finding:
    """What a command would refuse for, as a finding."""
    return Finding(mark=Mark.BAD, what=error.message, hint=error.hint, details=error.details, place=error.location)


@dataclass(frozen=True, kw_only=True)
class Report:
    """Every finding, in the order of the screen, and how long the looking took."""

    target: str
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def sound(self) -> bool:
        """Whether nothing stands in the way."""
        return not any(each.mark is Mark.BAD for each in self.findings)

    def count(self, mark: Mark) -> int:
        """How many findings there are of a kind."""
        return Counter(each.mark for each in self.findings)[mark]
