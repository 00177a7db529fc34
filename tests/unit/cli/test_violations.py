"""A pull request with bad data or payloads: ten annotations at the right lines, and all of it in the summary."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mlops.cli import main
from mlops.cli.violations import ANNOTATIONS
from tests.support.checkout import ROOT

ANNOTATION = re.compile(r"^::error file=([^,:\n]+),line=(\d+)::(.*)$", re.MULTILINE)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout in which the step runs, though not from its root."""
    folder = tmp_path / "work"
    (folder / "data" / "payloads").mkdir(parents=True)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(folder))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder / "summary"))
    monkeypatch.setenv("GITHUB_OUTPUT", str(folder / "outputs"))
    monkeypatch.setenv("MLOPS_SETTINGS", str(ROOT / "mlops.yaml"))
    monkeypatch.chdir(folder / "data")
    return folder


def chat(number: int, answer: str = "Grey.") -> dict[str, Any]:
    question = f"Which colour has bird {number}?"
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"prompt": question, "prompt_id": str(number), "messages": messages}


def annotated(text: str) -> list[tuple[str, int, str]]:
    return [(file, int(line), message) for file, line, message in ANNOTATION.findall(text)]


def test_a_bad_payload_is_annotated_at_its_line(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = json.loads((ROOT / "data/payloads/flat.json").read_text(encoding="utf-8"))
    (repository / "data/payloads/good.json").write_text(json.dumps(good), encoding="utf-8")
    good["input_data"]["parameters"] = {"top_p": 7}
    text = json.dumps(good, indent=2)
    (repository / "data/payloads/bad.json").write_text(text, encoding="utf-8")

    assert main(["payload", "validate", "payloads/bad.json", str(repository / "data/payloads/good.json")]) == 4

    ((file, line, message),) = annotated(capsys.readouterr().err)
    assert file == "data/payloads/bad.json"
    assert '"top_p": 7' in text.splitlines()[line - 1]
    assert "must be from 1e-06 to 1" in message
    summary = (repository / "summary").read_text(encoding="utf-8")
    assert "1 wrong" in summary
    assert f"payloads/bad.json:{line}" in summary


def test_files_that_cannot_be_read_come_first_and_every_file_is_seen(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many = {"input_data": {"input_string": [{"role": "user", "content": ""} for _ in range(12)]}}
    for name, text in (("a", json.dumps(many, indent=1)), ("b", json.dumps({"input_data": {}})), ("c", "{oops")):
        (repository / f"data/payloads/{name}.json").write_text(text, encoding="utf-8")

    assert main(["payload", "validate", *(f"payloads/{name}.json" for name in "abc")]) == 4

    annotations = annotated(capsys.readouterr().err)
    assert len(annotations) == ANNOTATIONS
    assert [Path(file).stem for file, *_ in annotations[:3]] == ["c", "a", "b"]
    assert (repository / "summary").read_text(encoding="utf-8").count("is empty") == 12


def test_bad_chats_are_annotated_ten_at_most_and_listed_all(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [chat(number, "" if number % 2 else "Grey.") for number in range(40)]
    rows[10]["prompt"] = "something else"
    lines = [json.dumps(row) for row in rows]
    lines[20] = "{half"
    (repository / "data/train_sft.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (repository / "data/test_sft.jsonl").write_bytes(b"")

    assert main(["data", "validate", "."]) == 4

    annotations = annotated(capsys.readouterr().err)
    whole = (repository / "summary").read_text(encoding="utf-8").splitlines()
    rules = [message.split(":")[0] for _, _, message in annotations]
    assert len(annotations) <= ANNOTATIONS
    assert {"json", "empty_content", "prompt"} <= set(rules)  # one rule's many rows hide no other rule
    assert ("data/train_sft.jsonl", 21) in [(file, line) for file, line, _ in annotations]
    assert ("data/train_sft.jsonl", 11) in [(file, line) for file, line, _ in annotations]
    assert sum("empty_content" in line for line in whole) == 20
    assert any("0 bytes" in line for line in whole)


def test_what_is_valid_is_said_and_annotates_nothing(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "validate", str(ROOT / "data/bundled")]) == 0
    assert main(["payload", "validate", *map(str, sorted((ROOT / "data/payloads").glob("*.json")))]) == 0
    assert "::error" not in capsys.readouterr().err
    assert (repository / "summary").read_text(encoding="utf-8").count(": valid") == 2


def test_a_summary_holds_no_markup_of_the_files_author(repository: Path) -> None:
    bad = {"input_data": {"input_string": [{"role": "<img src=x>|`", "content": "a"}]}}
    (repository / "data/payloads/a.json").write_text(json.dumps(bad), encoding="utf-8")

    assert main(["payload", "validate", "payloads/a.json"]) == 4
    assert "<img" not in (repository / "summary").read_text(encoding="utf-8")
