"""How findings are shown: on a screen of 80 columns, as JSON, to GitHub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlops.cli import main as mlops
from mlops.cli.doctor import annotate, as_data, as_markdown, as_table, conclusion
from mlops.core.console import WIDTH, Console
from mlops.core.errors import FileLocation
from mlops.doctor.findings import Finding, Mark, Report, bad, doubtful, good, skipped
from tests.support.checkout import ROOT

FILE = "mlops.yaml"
REPORT = Report(
    target="staging",
    findings=(
        good("3.11.9").by("python"),
        bad("unknown key 'gait'", "did you mean 'gate'?", location=FileLocation(file=FILE, line=7)).by("values"),
        bad("the size 'x' was retired", location=FileLocation(file=FILE, line=9)).by("values"),
        doubtful("for a training beside two slots: " + "24 vCPUs are missing " * 6, "ask for quota").by("quota"),
        Finding(mark=Mark.DOUBTFUL, what="2 packages differ", details=("click is 1, not [2]",), check="packages"),
        skipped("not looked at: no login").by("rights"),
    ),
    seconds=2.345,
)


def test_a_screen_of_80_columns_has_a_line_per_finding_and_what_to_do_below_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Console().out.print(as_table(REPORT))

    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= WIDTH
    assert lines[0].split() == ["✓", "python", "3.11.9"]
    assert lines[1].split(maxsplit=2) == ["✕", "values", "mlops.yaml:7: unknown key 'gait'"]
    assert lines[2].strip() == "→ did you mean 'gate'?"
    assert lines[3].startswith("✕            mlops.yaml:9")  # the same check's name stands once
    assert any("click is 1, not [2]" in line for line in lines)
    assert lines[-1] == "staging: what is marked ✕ would fail (2 ✕, 2 !, 1 ✓, 1 –; 2.3 s)"


def test_what_was_not_looked_at_for_one_reason_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    lost = [skipped("not looked at: no login").by(name) for name in ("workspace", "region", "quota")]
    other = skipped("not looked at: the program 'gh' is not installed").by("github")
    report = Report(target="staging", findings=(bad("refused").by("login"), *lost, other), seconds=0)
    Console().out.print(as_table(report))

    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[1].split(maxsplit=1) == ["–", "not looked at: no login: workspace, region, quota"]
    assert lines[2].startswith("–  github")
    assert lines[-1].endswith("(1 ✕, 4 –; 0.0 s)")


def test_the_screen_shows_the_beginning_of_what_is_long(capsys: pytest.CaptureFixture[str]) -> None:
    tried = tuple(f"credential {number} " + "x" * 300 for number in range(9))
    report = Report(target="t", findings=(Finding(mark=Mark.BAD, what="no", details=tried),), seconds=0)
    Console().out.print(as_table(report))

    output = capsys.readouterr().out
    assert "credential 3" in output
    assert "credential 4" not in output
    assert as_data(report)["findings"][0].details == tried


def test_the_same_for_machines() -> None:
    document = as_data(REPORT)

    assert (document["sound"], document["seconds"]) == (False, 2.3)
    assert document["counts"] == {"good": 1, "doubtful": 2, "bad": 2, "skipped": 1}
    assert REPORT.findings[0] in document["findings"]


def test_nothing_bad_is_sound_even_where_something_was_not_looked_at() -> None:
    report = Report(target="local", findings=REPORT.findings[3:], seconds=0)

    assert report.sound
    assert "nothing stands in the way" in conclusion(report)


def test_github_gets_annotations_at_their_lines_and_a_summary(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    annotate(Console(), REPORT)

    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "::error file=mlops.yaml,line=7::values: unknown key 'gait'; did you mean 'gate'?"
    assert sum(line.startswith("::error") for line in lines) == 2
    assert sum(line.startswith("::warning") for line in lines) == 2
    assert "| ✕ | values | mlops.yaml:7: unknown key 'gait' · → did you mean 'gate'? |" in as_markdown(REPORT)


def test_outside_of_github_nothing_is_annotated(capsys: pytest.CaptureFixture[str]) -> None:
    annotate(Console(), REPORT)

    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("name", "hint"), [("quotas", "did you mean 'quota'?"), ("zzz", "there are python, settings")])
def test_a_check_that_there_is_not_is_wrong_use(name: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert mlops(["doctor", "--only", name]) == 2
    assert hint in capsys.readouterr().err.replace("\n", " ")


def test_settings_that_cannot_be_read_are_a_finding_with_their_line_and_all_else_is_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "mlops.yaml").read_text(encoding="utf-8")
    file = tmp_path / "mlops.yaml"
    file.write_text(text.replace("    percent: 5\n", "    percent: 500\n"), encoding="utf-8")
    monkeypatch.setenv("MLOPS_SETTINGS", str(file))

    assert mlops(["doctor", "--target", "staging", "--json"]) == 3

    findings = {each["check"]: each for each in json.loads(capsys.readouterr().out)["findings"]}
    assert findings["settings"]["mark"] == "bad"
    assert "'data.percent' is '500'" in findings["settings"]["what"]
    assert findings["settings"]["place"]["line"] == 1 + text[: text.index("percent: 5\n")].count("\n")
    assert findings["python"]["mark"] == "good"
    assert {each["what"] for name, each in findings.items() if name not in ("settings", "python")} == {
        "not looked at: no settings"
    }
