"""Which report on this machine belongs to which rollout."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mlops import gate, ledger
from mlops.ui.releases import StoredReport, report_of, reports_in
from tests.unit.gate.made import STRICT, answer, judged


def made() -> gate.Report:
    return judged(STRICT, [answer("it is number 0")])


NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def entry(**changes: object) -> ledger.Entry:
    ledger_entry = ledger.Entry(
        rollout="r",
        started=NOW,
        ended=NOW + timedelta(minutes=2),
        action="deploy",
        by="ada",
        model="chat",
        version="7",
        slot="blue",
        verdicts=(),
        outcome=ledger.Outcome.RELEASED,
    )
    return dataclasses.replace(ledger_entry, **changes)  # type: ignore[arg-type]


def report_for(moment: datetime | None = NOW + timedelta(minutes=1), model: str = "chat:7") -> StoredReport:
    report = made()
    candidate = dataclasses.replace(report.candidate, slot="blue")
    return StoredReport(
        report=dataclasses.replace(report, at=moment, model=model, candidate=candidate), folder=Path("x")
    )


def test_a_report_belongs_to_the_rollout_of_its_time_its_slot_and_its_version() -> None:
    own = report_for()
    assert (
        report_of(entry(), [report_for(model="chat:8"), report_for(NOW - timedelta(days=1)), report_for(None), own])
        is own
    )
    assert report_of(entry(slot="green"), [own]) is None
    assert report_of(entry(version="8"), [own]) is None
    assert report_of(entry(ended=None), [own]) is own  # under way, or cut off


def test_what_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    gate.write(made(), tmp_path / "good")
    for name, text in (("empty", ""), ("other", '{"schema_version": 1}'), ("torn", '{"schema')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(text, encoding="utf-8")
    (tmp_path / "job-loss.png").write_bytes(b"")

    (only,) = reports_in(tmp_path)
    assert only.folder == tmp_path / "good"
    assert set(only.pictures) <= {"latency.png", "scores.png", "traffic.png"}
    assert only.pictures
    assert reports_in(tmp_path / "none") == []
