"""mlops settings check, show: all that is wrong with any target, in one run, with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from mlops.cli import main
from tests.support.checkout import ROOT


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shipped settings, in a repository that is checked out on GitHub."""
    path = tmp_path / "mlops.yaml"
    path.write_text((ROOT / "mlops.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "environments").symlink_to(ROOT / "environments")
    monkeypatch.setenv("MLOPS_SETTINGS", str(path))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "outputs"))
    return path


def change(file: Path, *pairs: tuple[str, str]) -> None:
    text = file.read_text(encoding="utf-8")
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new, 1)
    file.write_text(text, encoding="utf-8")


def test_the_shipped_settings_are_right(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "check"]) == 0
    assert "local, production, staging" in capsys.readouterr().out
    assert "valid" in (file.parent / "summary").read_text(encoding="utf-8")


def test_every_target_is_checked_and_every_problem_named(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(
        file,
        ("    tier: Dedicated", "    tier: Spot"),  # of the defaults: said once, not once per target
        ("    steps: [50, 100]", "    steps: [50, 60]"),  # of local
        ("  production: {}", "  production: {gaet: {}}"),
    )

    assert main(["settings", "check", "--json"]) == 2
    captured = capsys.readouterr()
    problems = json.loads(captured.out)["problems"]
    messages = [item["message"] for item in problems]
    lines = file.read_text(encoding="utf-8").splitlines()
    assert sum("'compute.tier' is 'Spot'" in message for message in messages) == 1
    assert any("must rise and end at 100" in message for message in messages)
    assert any("did you mean 'gate'" in message for message in messages)
    for item, text in zip(problems, ["tier: Spot", "steps: [50, 60]", "production: {gaet"], strict=True):
        assert text in lines[item["place"]["line"] - 1]
        assert f"::error file=mlops.yaml,line={item['place']['line']}::{item['message']}" in captured.err
        assert item["message"].replace("<", "&lt;") in (file.parent / "summary").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "says", "line"),
    [
        ("    dry_run: []", "    dry_run: [ruoge_l]", "unknown check 'ruoge_l'; did you mean 'rouge_l'", "gate:"),
        ("      rouge_l: {min: 0.15", "      rouge: {min: 0.15", "is no metric", "gate:"),
        ("    size: Standard_NC24ads_A100_v4", "    size: Standard_NC6s_v3", "was retired on 2025-09-30", "size:"),
        ("      num_train_epochs: 3", "      train_file_path: x", "cannot be set", "parameters:"),
        (
            "    scoring_script: score.py",
            "    scoring_script: scores.py",
            "no 'environments/serve/scores.py'",
            "scoring",
        ),
    ],
)
def test_what_has_the_right_form_is_looked_through_too(
    file: Path, old: str, new: str, says: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change(file, (old, new))

    assert main(["settings", "check", "--json"]) == 2
    problems = json.loads(capsys.readouterr().out)["problems"]
    hits = [item for item in problems if says in item["message"]]
    assert hits, problems
    assert line in file.read_text(encoding="utf-8").splitlines()[hits[0]["place"]["line"] - 1]


@pytest.mark.parametrize("text", ["targets: {}", "defaults: {}\n", "targets: [a]", "hello: 1\ntargets: {}"])
def test_a_file_without_targets_is_wrong(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")

    assert main(["settings", "check"]) == 2


def test_a_targets_settings_are_shown_whole(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del file
    assert main(["settings", "show", "--target", "staging"]) == 0
    document = yaml.safe_load(capsys.readouterr().out)
    assert document["rollout"]["steps"] == [100]
    assert document["gate"]["max_p95_ms"] == 30000
    assert main(["settings", "show", "--target", "staging", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["target"] == "staging"
