"""What can be said of the workflow files without running them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlops.cli import group
from tests.support.checkout import ROOT
from tests.workflows import command_lines
from tests.workflows.runner.bridge import Bridge
from tests.workflows.runner.files import read_action, read_workflow
from tests.workflows.runner.language import LanguageServer

PLACE = ROOT / ".github"
WORKFLOWS = sorted(str(path.relative_to(ROOT)) for path in PLACE.glob("workflows/*.y*ml"))
ACTIONS = sorted(str(path.relative_to(ROOT)) for path in PLACE.glob("actions/*/action.y*ml"))
Diagnose = Callable[[Path], list[str]]


def diagnose(packages: Path, root: Path) -> list[str]:
    """The language server's findings below a root."""
    server = LanguageServer(packages, root)
    try:
        files = [str(path.relative_to(root)) for path in sorted((root / ".github").glob("workflows/*.y*ml"))]
        files += [str(path.relative_to(root)) for path in sorted((root / ".github").glob("actions/*/action.y*ml"))]
        return [
            f"{each.path}:{each.line}: {each.message}"
            for each in server.diagnose(files)
            if "dependabot" not in each.path
        ]
    finally:
        server.close()


def test_githubs_language_server_finds_nothing(packages: Path) -> None:
    assert diagnose(packages, ROOT) == []


@pytest.mark.parametrize("path", WORKFLOWS)
def test_the_runner_knows_all_that_a_workflow_uses(github: Bridge, path: str) -> None:
    assert read_workflow(github, ROOT, path).jobs


@pytest.mark.parametrize("path", ACTIONS)
def test_the_runner_knows_all_that_an_action_uses(github: Bridge, path: str) -> None:
    assert read_action(github, ROOT, str(Path(path).parent)).steps


def test_every_command_line_is_one_that_mlops_takes() -> None:
    assert command_lines.problems(group, PLACE) == []
    lines = [arguments for text in scripts() for arguments in command_lines.command_lines(text)]
    assert len(lines) >= 8


def scripts() -> Iterator[str]:
    import yaml

    for path in (*WORKFLOWS, *ACTIONS):
        yield from command_lines.scripts(yaml.safe_load((ROOT / path).read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('mlops deploy "$VERSION" --stepz "$STEPS"', "no such option '--stepz'"),
        ("mlops deplyo", "no such command 'deplyo'"),
        ("true && mlops cleanup ${X:+--dry}", "no such option '--dry'"),
        ("mlops data", "a command is missing"),
        ("mlops register one two", "unexpected"),
        ("mlops wait --timeout", "requires an argument"),
    ],
)
def test_a_wrong_command_line_is_seen(tmp_path: Path, line: str, message: str) -> None:
    folder = tmp_path / "workflows"
    folder.mkdir()
    (folder / "one.yml").write_text(f"jobs: {{one: {{steps: [{{run: '{line}'}}]}}}}\n", encoding="utf-8")
    problems = command_lines.problems(group, tmp_path)
    assert len(problems) == 1
    assert message in problems[0]
