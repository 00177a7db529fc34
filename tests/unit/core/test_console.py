from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlops.core.console import Console, markdown_table
from mlops.core.errors import EXIT_CODES, DataInvalid, FileLocation, MlopsError
from mlops.training.curves import draw, mermaid, sparkline


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    return tmp_path


def test_json_is_all_that_stands_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(as_json=True)
    with console.step("work"):
        console.say("busy")
    console.result({"path": Path("a"), "value": 1}, "text for people")

    out, err = capsys.readouterr()
    assert json.loads(out) == {"path": "a", "value": 1}
    assert "✓ work" in err
    assert "busy" in err


def test_a_failed_step_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    with pytest.raises(ValueError, match="no"), console.step("work"):
        raise ValueError("no")

    assert "✕ work" in capsys.readouterr().err
    assert console.steps[0].outcome == "failed"


def test_on_github_steps_fold_errors_annotate_and_outputs_cannot_be_forged(
    github: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console()
    with console.step("outer"), console.step("inner"):
        pass
    console.failure(DataInvalid("100% wrong\nreally", location=FileLocation(file="a,b.jsonl", line=3)))
    console.outputs({"name": "one\nEOF\nforged=yes", "number": 2})
    console.summary("# hello")

    err = capsys.readouterr().err
    assert err.count("::group::") == err.count("::endgroup::") == 1
    assert "::error file=a%2Cb.jsonl,line=3::100%25 wrong%0Areally" in err
    text = (github / "output").read_text(encoding="utf-8")
    fence = text.splitlines()[0].partition("<<")[2]
    assert text.startswith(f"name<<{fence}\none\nEOF\nforged=yes\n{fence}\n")
    assert "# hello" in (github / "summary").read_text(encoding="utf-8")


def test_markup_in_users_text_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    Console().failure(MlopsError("value '[red]x[/red]'", hint="[bold]"))

    assert "value '[red]x[/red]'" in capsys.readouterr().err


def test_every_error_has_an_exit_code_of_its_own() -> None:
    def below(kind: type[MlopsError]) -> list[type[MlopsError]]:
        return [kind, *(item for child in kind.__subclasses__() for item in below(child))]

    ours = [kind for kind in below(MlopsError) if kind.__module__ == "mlops.core.errors"]
    codes = [kind.exit_code for kind in ours]
    assert sorted(codes) == sorted(set(codes))
    assert set(codes) | {0} == set(EXIT_CODES)


def test_a_table_survives_pipes_and_newlines() -> None:
    assert markdown_table(["a"], [["x|y\nz"]]).splitlines()[-1] == "| x\\|y z |"


def test_curves(tmp_path: Path) -> None:
    points = [(step, 10.0 - step) for step in range(100)]

    assert len(sparkline(points)) == 40
    assert sparkline(points)[0] == "█"
    assert sparkline(points)[-1] == "▁"
    assert sparkline([(1, float("nan"))]) == ""
    assert draw({"train_loss": points}, tmp_path / "a" / "loss.png", title="t").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["loss.png"]
    assert "xychart-beta" in mermaid(points, title="t")


def test_what_a_model_says_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    answer = "[INST] a :warning: and [bold]b[/INST] " + "long " * 40
    Console().result({}, answer)

    assert capsys.readouterr().out == answer + "\n"


def test_a_long_address_stays_in_one_piece(capsys: pytest.CaptureFixture[str]) -> None:
    address = "https://ml.azure.com/runs/" + "x" * 200
    Console().say(address)
    Console().failure(MlopsError("no", hint=address))

    assert capsys.readouterr().err.count(address) == 2


def test_numbers_that_json_lacks_become_null(capsys: pytest.CaptureFixture[str]) -> None:
    Console(as_json=True).result({"loss": float("nan"), "curve": [(1, float("inf"))], "at": 1.5}, "")

    assert json.loads(capsys.readouterr().out) == {"loss": None, "curve": [[1, None]], "at": 1.5}


def test_the_summary_of_a_failure_shows_its_details(github: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Console().failure(DataInvalid("broken", details=["line one", "line two"], hint="mend it"))

    text = (github / "summary").read_text(encoding="utf-8")
    assert "**✕ broken**\n\n````text\nline one\nline two\n````\n\nmend it" in text
    assert "::error::broken" in capsys.readouterr().err
