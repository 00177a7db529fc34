"""Mistakes that a hand makes in a workflow file: for each of them a check goes red.

The checks are those of `make lint`, GitHub's language server, GitHub's parser, the command lines, and for what only
shows when it runs, a short run on the runner.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlops.cli import group
from tests.support.checkout import ROOT
from tests.workflows import command_lines
from tests.workflows.conftest import machine
from tests.workflows.runner.bridge import Bridge
from tests.workflows.runner.events import Event
from tests.workflows.runner.files import Invalid, Unknown, read_action, read_workflow
from tests.workflows.runner.language import LanguageServer
from tests.workflows.runner.repository import Repository
from tests.workflows.runner.workflows import happen
from tests.workflows.runner.world import World

pytestmark = [pytest.mark.slow]
BIN = Path(sys.executable).parent
WORKFLOWS = ".github/workflows"


@dataclass(frozen=True)
class Mistake:
    """One edit of one file, and the check that must see it."""

    title: str
    file: str
    old: str
    new: str
    seen_by: str

    def __str__(self) -> str:
        return self.title.replace(" ", "-")


MISTAKES = [
    Mistake("an option is renamed", "deploy.yml", "--skip-gate", "--without-gate", "command lines"),
    Mistake("a command is renamed", "reconcile.yml", "mlops reconcile", "mlops reconsile", "command lines"),
    Mistake("a needs is dropped", "train.yml", "    needs: train\n", "", "language server"),
    Mistake("a needs names nobody", "reconcile.yml", "needs: reconcile #", "needs: reconciled #", "parser"),
    Mistake("an if is broken", "train.yml", "steps.wait.outputs.finished", "step.wait.outputs.finished", "parser"),
    Mistake("an if is always true", "deploy.yml", "if: ${{ always() &&", "if: always() && ${{", "language server"),
    Mistake("an if asks the wrong way", "train.yml", "finished == 'true'", "finished != 'true'", "run"),
    Mistake(
        "an output is misspelt", "train.yml", "steps.register.outputs.version", "steps.register.outputs.verson", "run"
    ),
    Mistake("a step's id is renamed", "train.yml", "        id: submit\n", "        id: send\n", "language server"),
    Mistake(
        "an action is not pinned", "cleanup.yml", "@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1", "@v7", "zizmor"
    ),
    Mistake("a pin without its version", "rollback.yml", " # v7.0.1", "", "rules"),
    Mistake("a permission of a caller is dropped", "train.yml", "      id-token: write # deploy.yml", "#", "run"),
    Mistake("a permission of a job is dropped", "cleanup.yml", "      id-token: write #", "      #", "rules"),
    Mistake("a permission too many", "pr.yml", "      contents: read\n", "      contents: write\n", "zizmor"),
    Mistake("permissions at the top are gone", "pr.yml", "permissions: {}\n", "", "zizmor"),
    Mistake(
        "credentials stay",
        "deploy.yml",
        "          persist-credentials: false\n",
        "          fetch-depth: 1\n",
        "zizmor",
    ),
    Mistake(
        "an input goes into the shell",
        "rollback.yml",
        '--reason "$REASON"',
        '--reason "${{ inputs.reason }}"',
        "zizmor",
    ),
    Mistake("a time limit is gone", "cleanup.yml", "    timeout-minutes: 60\n", "", "rules"),
    Mistake("a shell without pipefail", "deploy.yml", "defaults:\n  run:\n    shell: bash\n", "", "rules"),
    Mistake(
        "a variable is not quoted", "rollback.yml", 'mlops rollback "$VERSION"', "mlops rollback $VERSION", "rules"
    ),
    Mistake("a key is misspelt", "pr.yml", "    runs-on:", "    run-on:", "schema"),
    Mistake("a cron that is none", "reconcile.yml", "13,43 * * * *", "13,73 * * * *", "language server"),
    Mistake("the path filter is gone", "train.yml", '      - "!**/*.md"\n', "      - README.md\n", "run"),
    Mistake(
        "a deploy is cancelled half way", "deploy.yml", "      queue: max\n", "      cancel-in-progress: true\n", "run"
    ),
    Mistake(
        "caller and called share a group",
        "train.yml",
        "    uses: $/.github/workflows/deploy.yml\n",
        "    uses: $/.github/workflows/deploy.yml\n    concurrency: deploy-staging\n",
        "run",
    ),
    Mistake(
        "an input that the called has not",
        "train.yml",
        "      version: ${{ needs",
        "      versoin: ${{ needs",
        "parser",
    ),
    Mistake("a pull request gets the secrets", "pr.yml", "  pull_request:\n", "  pull_request_target:\n", "zizmor"),
]


def linter(*command: str) -> Callable[[Path], bool]:
    def red(root: Path) -> bool:
        files = [str(path) for path in sorted((root / WORKFLOWS).glob("*.yml"))] if command[-1] == "FILES" else []
        line = [word for word in command if word != "FILES"] + files
        done = subprocess.run([str(BIN / line[0]), *line[1:]], cwd=root, capture_output=True, check=False)
        assert done.returncode in (0, 1) or 10 < done.returncode < 15, done.stderr
        return done.returncode != 0

    return red


zizmor = linter("zizmor", "--quiet", "--offline", "--persona", "auditor", "--strict-collection", ".")
schema = linter("check-jsonschema", "--builtin-schema", "vendor.github-workflows", "FILES")
rules = linter("python", str(ROOT / ".github" / "rules.py"), ".")


def commands(root: Path) -> bool:
    return bool(command_lines.problems(group, root / ".github"))


@pytest.fixture(scope="module")
def server(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageServer]:
    language_server = LanguageServer(packages, ROOT)
    yield language_server
    language_server.close()


@pytest.fixture
def checks(github: Bridge, server: LanguageServer, tmp_path: Path) -> dict[str, Callable[[Path], bool]]:
    def language(root: Path) -> bool:
        return bool(server.diagnose([str(path) for path in sorted((root / WORKFLOWS).glob("*.yml"))]))

    def parser(root: Path) -> bool:
        try:
            for path in sorted((root / WORKFLOWS).glob("*.yml")):
                read_workflow(github, root, str(path.relative_to(root)))
            read_action(github, root, ".github/actions/setup")
        except (Invalid, Unknown):
            return True
        return False

    return {
        "command lines": commands,
        "language server": language,
        "parser": parser,
        "zizmor": zizmor,
        "schema": schema,
        "rules": rules,
        "run": lambda root: not runs_well(github, root, tmp_path / "short"),
    }


def copied(root: Path) -> Path:
    shutil.copytree(ROOT / ".github", root / ".github")
    return root


def test_the_files_as_they_are_pass_every_check(checks: dict[str, Callable[[Path], bool]], tmp_path: Path) -> None:
    root = copied(tmp_path / "copy")
    assert [name for name, red in checks.items() if red(root)] == []


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_a_mistake_is_seen(mistake: Mistake, checks: dict[str, Callable[[Path], bool]], tmp_path: Path) -> None:
    root = copied(tmp_path / "copy")
    path = root / WORKFLOWS / mistake.file
    text = path.read_text(encoding="utf-8")
    assert mistake.old in text, "the file has changed: say the mistake anew"
    path.write_text(text.replace(mistake.old, mistake.new, 1), encoding="utf-8")

    assert checks[mistake.seen_by](root), f"{mistake.seen_by} does not see that {mistake.title}"


MLOPS = """#!/bin/bash
# mlops as the workflows see it: it says what it was asked, and gives the outputs of its command.
echo "mlops $*"
case "$1" in
  data) echo "folder=prepared" ;;
  train) echo "job=ft-1" ;;
  wait) echo "finished=$FINISHED" ;;
  register) echo "version=1001" ;;
  deploy) printf 'endpoint=chat\\nversion=%s\\nurl=https://chat\\nreport=\\n' "$2" ;;
  reconcile) echo "version=" ;;
esac >> "$GITHUB_OUTPUT"
"""
NO_INSTALL = "install install-cli:\n\t@mkdir -p .venv/bin && cp mlops.sh .venv/bin/mlops && chmod +x .venv/bin/mlops\n"


def runs_well(github: Bridge, root: Path, folder: Path) -> bool:
    """The way of a merge, with a stand-in for the command: order, conditions, what is handed from step to step."""
    shutil.copytree(root / ".github", folder / "repository" / ".github")
    files = {"mlops.sh": MLOPS, "Makefile": NO_INSTALL, "environments/cli/requirements.txt": "", "data/a.jsonl": "1"}
    repository = Repository.new(folder / "repository", files)
    return (
        all(way(github, repository, folder / finished, finished) for finished in ("true", "false"))
        and happen(world(github, repository, folder / "docs", "true"), repository.push({"README.md": "words"})) == {}
    )


def world(github: Bridge, repository: Repository, folder: Path, finished: str) -> World:
    variables: dict[str | None, dict[str, str]] = {"staging": {"AZUREML_WORKSPACE_NAME": "ws"}}
    environ = {**machine(), "FINISHED": finished}
    return World(
        github, repository.folder, folder, environ, variables, identity=lambda subject, _: {"TOKEN_FOR": subject}
    )


def way(github: Bridge, repository: Repository, folder: Path, finished: str) -> bool:
    event: Event = repository.push({"data/a.jsonl": finished})
    try:
        run = happen(world(github, repository, folder, finished), event)["train.yml"]
    except (Invalid, Unknown, KeyError):
        return False
    if run.conclusion != "success":
        return False
    deploy, train = run.job("deploy"), run.job("train")
    if finished == "false":
        return (deploy.result, run.job("reconcile").result) == ("skipped", "success")
    done = run.job("deploy/deploy") if deploy.called else deploy
    deployed = re.search(r"mlops deploy 1001 ", done.log) is not None
    queued = done.concurrency == {"group": "deploy-staging", "queue": "max"}
    return deployed and queued and "mlops register ft-1" in train.log and done.url == "https://chat"
