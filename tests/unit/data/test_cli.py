"""The commands, as people and as workflows call them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlops.cli.data import data
from tests.support.checkout import ROOT


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLOPS_SETTINGS", str(ROOT / "mlops.yaml"))


@pytest.fixture
def source(write: Any, many: Any) -> Path:
    for index, split in enumerate(("train_sft", "test_sft")):
        path = write(f"source/{split}.jsonl", many(20, start=20 * index))
    return Path(path.parent)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(data, [str(argument) for argument in arguments])


def process(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mlops", "data", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)


def test_prepare_with_the_settings_alone(tmp_path: Path) -> None:
    first = json.loads(call("prepare", "--json").stdout)
    assert first["manifest"]["dataset"] == "data/bundled"
    assert Path(first["folder"]).parent == tmp_path / "home/data"
    assert not first["repeated"]
    second = json.loads(call("prepare", "--json").stdout)
    assert second["repeated"]
    assert second["manifest"] == first["manifest"]


def test_prepare_shows_what_it_wrote(source: Path, tmp_path: Path) -> None:
    done = call("prepare", "--dataset", source, "--percent", "50", "--output", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert "train_sft.jsonl" in done.stdout
    assert "20 rows in 2 split(s), 0 invalid" in done.stdout
    assert len((tmp_path / "out/train_sft.jsonl").read_bytes().splitlines()) == 10


def test_prepare_cuts(source: Path, tmp_path: Path) -> None:
    arguments = ("--dataset", source, "--way", "cut", "--percent", "100", "--seed", "3", "--json")
    document = json.loads(call("prepare", *arguments).stdout)
    assert [(entry["name"], entry["rows"]) for entry in document["manifest"]["files"]] == [
        ("train.jsonl", 16),
        ("test.jsonl", 4),
    ]
    assert document["manifest"]["seed"] == 3


def test_prepare_tells_github(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "outputs"))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    assert call("prepare", "--dataset", source, "--percent", "100").exit_code == 0
    outputs = (tmp_path / "outputs").read_text()
    assert all(f"{name}<<" in outputs for name in ("folder", "content_hash", "rows"))
    assert "| train_sft.jsonl | 20 |" in (tmp_path / "summary").read_text()


def test_prepare_says_which_columns_it_left_out(write: Any, many: Any, tmp_path: Path) -> None:
    write("set/train.jsonl", [{**row, "source": "web"} for row in many(2)])
    write("set/test.jsonl", many(2, start=5))
    done = call("prepare", "--dataset", tmp_path / "set", "--percent", "100")
    assert done.exit_code == 0
    assert "source" in done.stderr


def test_bad_rows_end_with_exit_code_4(source: Path, write: Any, chat: Any) -> None:
    write("source/train_sft.jsonl", [chat(), chat("q", "")])
    done = process("prepare", "--dataset", source, "--percent", "100", "--json")
    assert done.returncode == 4, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["place"]["line"] == 2
    assert "train_sft.jsonl:2: messages[1] (assistant) is empty" in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    dropped = process("prepare", "--dataset", source, "--percent", "100", "--drop-invalid", "--json")
    assert dropped.returncode == 0, dropped.stderr
    folder = Path(json.loads(dropped.stdout)["folder"])
    assert json.loads((folder / "rejected.jsonl").read_text())["rule"] == "empty_content"


def test_validate_the_bundled_chats() -> None:
    done = call("validate", ROOT / "data/bundled")
    assert done.exit_code == 0
    assert "700 rows in 4 split(s), 0 invalid" in done.stdout


def test_validate_counts_per_rule_and_annotates(write: Any, chat: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [chat("a", "b"), chat("c", ""), chat("d", " "), chat("a", "x"), chat("e", "f", prompt="g")]
    path = write("train_sft.jsonl", rows)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    done = call("validate", path, "--json")
    assert done.exit_code == 4
    result = json.loads(done.stdout)
    counts = {each["rule"]: (each["count"], each["first"]["line"]) for each in result["report"]["violations"]}
    assert counts == {"empty_content": (2, 2), "duplicate_id": (1, 4), "prompt": (1, 5)}
    assert (result["valid"], result["rows"], result["invalid"]) == (False, 5, 4)
    assert f"::error file={path},line=2::empty_content: messages[1] (assistant) is empty" in done.stderr


def test_validate_looks_across_files(write: Any, many: Any) -> None:
    train, test = write("train_sft.jsonl", many(3)), write("test_sft.jsonl", many(1))
    assert call("validate", train).exit_code == call("validate", test).exit_code == 0
    done = call("validate", test, train, "--json")
    assert done.exit_code == 4
    violation = json.loads(done.stdout)["report"]["violations"][0]
    assert violation["rule"] == "leak"
    assert violation["first"] == {"file": str(test), "line": 1}


def test_validate_lets_derived_columns_pass(write: Any, chat: Any) -> None:
    path = write("train.jsonl", [{"messages": chat()["messages"]}])
    assert call("validate", path).exit_code == 4
    assert call("validate", path, "--derive").exit_code == 0


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "0 bytes"),
        (b"\n", "holds no row"),
        (b"\xff\xfe{\x00", "UTF-16"),
        (b'{"prompt": "a', "breaks off"),
        (b'{"prompt"; 1}\n', "json"),
        (b'{"prompt": "\xe9"}\n', "UTF-8"),
    ],
)
def test_broken_files_are_named(write: Any, raw: bytes, says: str) -> None:
    path = write("train_sft.jsonl", raw)
    done = process("validate", path)
    assert done.returncode == 4, done.stderr
    output = "".join((done.stdout + done.stderr).split())  # a table folds long paths where they come to its edge
    assert "".join(says.split()) in output
    assert path.name in output
    assert "Traceback" not in done.stderr


def test_files_and_rows_that_break_a_rule_are_counted_apart(write: Any, many: Any) -> None:
    rows = write("train_sft.jsonl", many(3))
    rows.write_bytes(rows.read_bytes() + b"no json\n")
    done = process("validate", rows, write("test_sft.jsonl", b""), "--json")
    result = json.loads(done.stdout)
    assert (result["rows"], result["invalid"]) == (4, 1)
    assert "✕ 1 of 4 rows and 1 file break a rule" in done.stderr

    done = process("validate", write("test_sft.jsonl", b""))
    assert "✕ 1 file breaks a rule" in done.stderr


def test_a_row_of_50_mb_is_named(write: Any, many: Any, chat: Any) -> None:
    path = write("train_sft.jsonl", [*many(1), chat("q", "a" * 50_000_000)])
    done = process("validate", path, "--json")
    assert done.returncode == 4
    violation = json.loads(done.stdout)["report"]["violations"][0]
    assert (violation["rule"], violation["first"]["line"]) == ("too_long", 2)
    assert process("validate", path, "--max-row-mb", "60").returncode == 0


def test_what_is_not_there(tmp_path: Path) -> None:
    done = process("validate", tmp_path / "nowhere")
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    assert process("validate").returncode == 2


def test_preview(source: Path) -> None:
    done = call("preview", "--dataset", source, "--rows", "2", "--split", "test_sft")
    assert done.exit_code == 0
    assert "user: Question 20?" in done.stdout
    assert "assistant: Answer 21." in done.stdout
    document = json.loads(call("preview", "--dataset", source, "--rows", "1", "--json").stdout)
    assert [(part["split"], len(part["rows"])) for part in document] == [("train_sft", 1), ("test_sft", 1)]
    missing = process("preview", "--dataset", source, "--split", "dev")
    assert missing.returncode == 2
    assert "it has train_sft, test_sft" in missing.stderr.replace("\n", " ")


def test_preview_of_broken_rows(write: Any) -> None:
    path = write("train.jsonl", b"nonsense\n[1]\n" + b'{"messages": [5]}\n')
    done = call("preview", "--dataset", path)
    assert done.exit_code == 0
    assert "not a chat" in done.stdout
