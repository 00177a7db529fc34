"""Rollouts from the endpoint's ledger, each with its gate report where that lies on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from mlops import gate, ledger

if TYPE_CHECKING:
    from mlops.azure.session import Session

PICTURES = {
    "latency.png": "How long answers took",
    "scores.png": "Quality against the live slot",
    "traffic.png": "Where the traffic went",
}
"""The pictures of a report's folder; no other file of it is served."""


@dataclass(frozen=True, kw_only=True)
class StoredReport:
    """A report and the folder that it lies in."""

    report: gate.Report
    folder: Path

    @property
    def pictures(self) -> dict[str, str]:
        """The pictures that are there, with what they show."""
        return {name: title for name, title in PICTURES.items() if (self.folder / name).is_file()}


@dataclass(frozen=True, kw_only=True)
class Release:
    """One rollout, what was written down of it, and its report."""

    entry: ledger.Entry
    records: tuple[ledger.Record, ...]
    gate_report: StoredReport | None


@dataclass(frozen=True, kw_only=True)
class Releases:
    """The rollouts of an endpoint, newest first; ``locked`` where one is under way."""

    endpoint: str
    locked: bool
    releases: tuple[Release, ...]

    def of(self, rollout: str) -> Release | None:
        """The rollout of that id."""
        return next((item for item in self.releases if item.entry.rollout == rollout), None)


def read_releases(session: Session) -> Releases:
    """Read the ledger, and the reports below ``.mlops/reports``."""
    name = session.settings.endpoint.name
    records, locked = ledger.Ledger(session, name).inspect()
    reports = [stored for stored in reports_in(session.settings.home / "reports") if stored.report.endpoint == name]
    releases = tuple(
        Release(
            entry=entry,
            records=tuple(record for record in records if record.rollout == entry.rollout),
            gate_report=report_of(entry, reports),
        )
        for entry in ledger.history(records, locked=locked)
    )
    return Releases(endpoint=name, locked=locked, releases=releases)


def report_of(entry: ledger.Entry, reports: Sequence[StoredReport]) -> StoredReport | None:
    """The report that a rollout has written: of its model and slot, from its time."""
    until = entry.ended or datetime.now(UTC)
    for stored in reports:
        report = stored.report
        is_of_entry = (report.model, report.candidate.slot) == (f"{entry.model}:{entry.version}", entry.slot)
        if is_of_entry and report.at is not None and entry.started <= report.at <= until:
            return stored
    return None


def reports_in(folder: Path) -> list[StoredReport]:
    """Every report that can be read; a folder without one, or with one of another version, is passed over."""
    reports = [
        _read(file.parent, file.stat().st_mtime_ns) for file in sorted(folder.glob("*/report.json"), reverse=True)
    ]
    return [item for item in reports if item is not None]


@lru_cache(maxsize=256)
def _read(folder: Path, _changed: int) -> StoredReport | None:
    try:
        return StoredReport(report=gate.read(folder), folder=folder)
    except (OSError, ValueError):
        return None
