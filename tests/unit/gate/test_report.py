from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from mlops import gate
from mlops.gate import pictures
from mlops.gate.report import CUT, schema
from tests.unit.gate.made import STRICT, answer, judged, released, sample
from tests.unit.gate.schema import SCHEMA_FILE


@pytest.fixture(scope="module")
def report() -> gate.Report:
    return released()


def test_the_schema_beside_the_code_is_of_this_report() -> None:
    """Make it anew: python -m tests.unit.gate.schema."""
    assert json.loads(SCHEMA_FILE.read_text(encoding="utf-8")) == schema()


def test_a_report_keeps_its_schema_and_can_be_read_again(report: gate.Report, tmp_path: Path) -> None:
    folder = gate.write(report, tmp_path / "reports" / "one", logs={"server": "boom"})

    document = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    jsonschema.validate(document, json.loads(SCHEMA_FILE.read_text(encoding="utf-8")))
    assert (document["schema_version"], document["verdict"]) == (2, "pass")
    assert document["timeline"][0]["at"] == "2026-11-21T12:00:04Z"
    assert gate.read(folder) == report
    files = {"latency.png", "report.json", "report.md", "scores.png", "server.log", "traffic.png"}
    assert {path.name for path in folder.iterdir()} == files
    assert [path.name for path in folder.parent.iterdir()] == ["one"]


def test_what_could_not_be_measured_is_null(tmp_path: Path) -> None:
    folder = gate.write(judged(STRICT, [answer(None)] * 3), tmp_path / "one")

    document = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    jsonschema.validate(document, schema())
    assert document["candidate"]["p50_ms"] is None
    assert {path.name for path in folder.iterdir()} == {"report.json", "report.md"}


def test_a_report_is_replaced_whole(report: gate.Report, tmp_path: Path) -> None:
    folder = gate.write(report, tmp_path / "one", logs={"server": "old"})
    gate.write(replace(report, verdict="fail"), folder)

    assert gate.read(folder).verdict == "fail"
    assert not (folder / "server.log").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_a_report_that_cannot_be_written_leaves_the_one_before(
    report: gate.Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = gate.write(report, tmp_path / "one")

    def broken(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(pictures, "draw", broken)
    with pytest.raises(OSError, match="no space"):
        gate.write(replace(report, verdict="fail"), folder)

    assert gate.read(folder) == report
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_the_five_worst_answers_are_cut_and_begin_with_those_that_break_the_contract() -> None:
    samples = [sample("a long question " * 100, "it is blue")] * 7
    texts = ["it is blue", "it is red", "green", "", "is it blue", "la " * 20, "it is blue too"]

    found = judged(STRICT, [answer(text) for text in texts], samples=samples).worst

    assert [item.flaw for item in found] == ["empty", "repeats", None, None, None]
    assert found[2].answer == "green"
    assert all(len(item.prompt) == CUT and item.prompt.endswith("…") for item in found)
    assert "it is blue" not in {item.answer for item in found}
