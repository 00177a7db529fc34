from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs import documents
from tests.docs.terminal import Terminal


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    shell = Terminal(tmp_path, {"PATH": os.environ["PATH"]})
    yield shell
    shell.close()


def test_what_a_command_sets_stays_for_the_next(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    assert terminal.type("cd inner   # here").code == 0
    assert terminal.type("export WORD='a b'").code == 0
    assert terminal.type('pwd; echo "$WORD"').output == f"{tmp_path}/inner\na b\n"


def test_exit_codes_and_both_streams(terminal: Terminal) -> None:
    result = terminal.type("echo out; echo err >&2; (exit 6)")
    assert (result.output, result.code) == ("out\nerr\n", 6)


def test_a_command_does_not_read_the_next_one(terminal: Terminal) -> None:
    assert terminal.type("cat").output == ""
    assert terminal.type("echo still here").output == "still here\n"


def test_one_that_does_not_end_is_told(terminal: Terminal) -> None:
    with pytest.raises(TimeoutError, match="sleep 60"):
        terminal.type("sleep 60", timeout_s=0.2)


def test_commands_of_console_blocks_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "ROOT", tmp_path)
    block = "```console\n$ one \\\n    two   # exit code 3\n$ three\n```\n"
    text = f"```sh\nmlops x\n```\n\n{block}````text\n```console\n$ no\n```\n````\n"
    (tmp_path / "a.md").write_text(text, encoding="utf-8")

    commands = documents.commands(tmp_path / "a.md")

    assert [(item.line, item.text.split("#")[0].split(), item.code) for item in commands] == [
        (6, ["one", "two"], 3),
        (8, ["three"], 0),
    ]


def test_anchors_are_githubs() -> None:
    text = "# A `b` c, d\n## A & b\n```\n# no\n```\n## A & b\n"
    assert documents.anchors(text) == {"a-b-c-d", "a--b", "a--b-1"}


def test_paths_of_the_checkout_in_inline_code_alone() -> None:
    text = "`mlops/gate/judge.py --all` and `score.py`, not `/score`, `mlops/X/NAME.py`, `a/b`\n```\n`mlops/no`\n```\n"
    assert documents.paths(text, {"mlops"}) == ["mlops/gate/judge.py", "score.py"]
