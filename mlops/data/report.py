"""What a look at the rows found."""

from __future__ import annotations

from dataclasses import dataclass, field

from mlops.core.errors import DataInvalid, FileLocation
from mlops.data.rules import BUCKETS, FILE, RULES, Checker

MOST = 500
"""So many rows are remembered for each rule."""


@dataclass(frozen=True)
class Violation:
    """One rule that was broken: how often, and where first."""

    rule: str
    count: int
    first: FileLocation
    reason: str
    rows: tuple[tuple[FileLocation, str], ...] = ()
    """The first of them, each with its reason."""

    def __str__(self) -> str:
        what = "file" if self.rule == FILE else "row"
        return f"{self.rule}: {self.count} {what}{'s' * (self.count != 1)}, first {self.first}: {self.reason}"


@dataclass(frozen=True)
class SplitReport:
    """One split.

    Attributes:
        rows: rows that were looked at.
        invalid: those of them that break a rule.
        lengths: (upper bound in bytes or None, rows) for each bucket of valid rows.
    """

    split: str
    rows: int
    invalid: int
    lengths: tuple[tuple[int | None, int], ...]


@dataclass(frozen=True)
class Report:
    """All splits together."""

    splits: tuple[SplitReport, ...]
    violations: tuple[Violation, ...]
    ignored_columns: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """Rows that were looked at."""
        return sum(split.rows for split in self.splits)

    @property
    def invalid(self) -> int:
        """Rows that break a rule."""
        return sum(split.invalid for split in self.splits)

    @property
    def files(self) -> int:
        """Files that cannot be read at all; none of their rows is counted."""
        return sum(violation.count for violation in self.violations if violation.rule == FILE)

    @property
    def totals(self) -> str:
        """What breaks a rule, counted, as a sentence: "2 of 9 rows and 1 file break a rule"."""
        files = f"{self.files} file{'s' * (self.files != 1)}" if self.files else ""
        rows = f"{self.invalid} of {self.rows} rows" if self.invalid else ""
        one = (self.invalid, self.files) in ((1, 0), (0, 1))
        return f"{' and '.join(filter(None, (rows, files)))} {'breaks' if one else 'break'} a rule"

    def error(self) -> DataInvalid:
        """Returns the error that says all of this."""
        first = self.violations[0]
        return DataInvalid(
            f"{first.reason} ({self.totals})",
            location=first.first,
            details=[str(violation) for violation in self.violations],
            hint="mend the rows, or leave them out: mlops data prepare --drop-invalid",
        )


@dataclass
class Tally:
    """Counts while the rows go by; ``report`` freezes them."""

    checker: Checker
    rows: dict[str, int] = field(default_factory=dict)
    invalid: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    offenders: dict[str, list[tuple[FileLocation, str]]] = field(default_factory=dict)
    columns: set[str] = field(default_factory=set)

    def broken(self, *, split: str, rule: str, reason: str, location: FileLocation) -> None:
        """Counts one row, or one file as a whole, that breaks a rule."""
        if rule != FILE:
            self.invalid[split] = self.invalid.get(split, 0) + 1
        self.counts[rule] = self.counts.get(rule, 0) + 1
        offenders = self.offenders.setdefault(rule, [])
        if len(offenders) < MOST:
            offenders.append((location, reason))

    def report(self) -> Report:
        """Returns what was found."""
        bounds = (*BUCKETS, None)
        splits = tuple(
            SplitReport(
                split=split,
                rows=rows,
                invalid=self.invalid.get(split, 0),
                lengths=tuple(zip(bounds, self.checker.lengths.get(split, [0] * len(bounds)), strict=True)),
            )
            for split, rows in self.rows.items()
        )
        broken = tuple(
            Violation(rule, self.counts[rule], *rows[0], rows=tuple(rows))
            for rule in RULES
            if (rows := self.offenders.get(rule))
        )
        return Report(splits=splits, violations=broken, ignored_columns=tuple(sorted(self.columns)))
