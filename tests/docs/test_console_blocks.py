"""Every console block of the documents, typed into a shell as a reader would, in a clone of what a commit would hold.

What the reader has and this machine has not is played: GitHub is a bare repository, `az` and `gh` are small programs,
and the Azure that one logs in to is a second local workspace whose subscription is empty. Installing is not repeated:
the clone has a finished virtual environment. `make test` runs one file of the suite.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs.documents import commands, documents
from tests.docs.terminal import Terminal
from tests.support.checkout import ROOT
from tests.support.virtual_environment import VENV, virtual_environment
from tests.unit.setup.gh import FakeGitHub
from tests.workflows.runner.repository import Repository

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # 5 minutes where four processes share two cores

FIRST = "README.md"
"""The others go on where it ends: with a model that is deployed on this laptop."""
ENVIRONMENT_NAMES = ("USER", "LANG", "LC_ALL", "TMPDIR", "SHELL")
DELAYS = ("RETRY_AFTER_S", "ENDPOINT_S", "DEPLOYMENT_S", "COMPUTE_S", "DELETE_S")
GITHUB = "octo/chat"
ABOUT_AZURE = ("AZURE_SUBSCRIPTION_ID", "AZURE_RESOURCE_GROUP", "AZUREML_WORKSPACE_NAME", "AZURE_REGION")
LONGEST_S = 1800
AZ = """#!/usr/bin/env bash
case "$*" in
  login) ;;
  "account show --query id -o tsv") echo "$PLAYED_SUBSCRIPTION" ;;
  "account show --query tenantId -o tsv") echo "$AZURE_TENANT_ID" ;;
  *) echo "not played: az $*" >&2; exit 2 ;;
esac
"""


@dataclass
class Reader:
    """Somebody with a clone and a shell."""

    terminal: Terminal
    clone: Path
    origin: Path
    github: FakeGitHub

    def read(self, path: Path) -> None:
        """Type what a document says."""
        for command in commands(path):
            start = time.monotonic()
            result = self.terminal.type(command.text, timeout_s=LONGEST_S)
            print(f"{time.monotonic() - start:6.1f} s  {command}", flush=True)
            assert result.code == command.code, f"{command}\nexit code {result.code}\n{result.output[-4000:]}"
            assert "Traceback (most recent call last)" not in result.output, f"{command}\n{result.output[-4000:]}"


@contextmanager
def played_azure(home: Path, environ: dict[str, str]) -> Iterator[dict[str, str]]:
    """A subscription in which nothing is yet, and the login that `az` would give."""
    named = {"MLOPS_LOCAL_RESOURCE_GROUP": "mlops", "MLOPS_LOCAL_WORKSPACE": "mlops"}  # as the README names them
    environ = environ | {"MLOPS_HOME": str(home)} | named
    mlops = [sys.executable, "-m", "mlops", "local"]
    subprocess.run([*mlops, "start", "--empty"], cwd=ROOT, env=environ, check=True, capture_output=True)
    try:
        done = subprocess.run(
            [*mlops, "env", "--format", "json"], cwd=ROOT, env=environ, check=True, capture_output=True
        )
        variables = {name: value for name, value in json.loads(done.stdout).items() if value is not None}
        login = {name: value for name, value in variables.items() if name not in ABOUT_AZURE}
        yield login | {"PLAYED_SUBSCRIPTION": variables["AZURE_SUBSCRIPTION_ID"]}
    finally:
        subprocess.run([*mlops, "stop"], cwd=ROOT, env=environ, check=True, capture_output=True)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    workdir = tmp_path_factory.mktemp("reader")
    source = Repository.of(ROOT, workdir / "source")
    origin, clone = workdir / "origin.git", workdir / "mlops"
    for arguments in (("--bare", str(source.folder), str(origin)), (str(origin), str(clone))):
        subprocess.run(["git", "clone", "--quiet", *arguments], check=True, capture_output=True)
    virtual_environment(clone / ".venv")
    github = FakeGitHub(workdir / "github", GITHUB)
    az = github.folder / "bin" / "az"
    az.write_text(AZ, encoding="utf-8")
    az.chmod(0o755)
    (workdir / "home").mkdir()
    elsewhere = [folder for folder in os.environ["PATH"].split(os.pathsep) if not Path(folder).is_relative_to(VENV)]
    environ = {name: os.environ[name] for name in ENVIRONMENT_NAMES if name in os.environ}
    environ |= {f"MLOPS_LOCAL_{name}": "0.05" for name in DELAYS}
    environ |= {
        "HOME": str(workdir / "home"),
        "PATH": os.pathsep.join([str(github.folder / "bin"), *elsewhere]),
        "MLOPS_CACHE": os.environ.get("MLOPS_CACHE", str(ROOT / ".mlops" / "cache")),
        "PYTEST_ADDOPTS": "tests/unit/rollout/test_plan.py",
        "GH_REPO": GITHUB,
    }
    with played_azure(workdir / "azure", environ) as azure:
        terminal = Terminal(clone, environ | azure)
        try:
            yield Reader(terminal, clone, origin, github)
        finally:
            terminal.type(".venv/bin/mlops local stop")
            terminal.close()


def test_the_readme_from_top_to_bottom(reader: Reader) -> None:
    reader.read(ROOT / FIRST)

    assert set(reader.github.state["environments"]["staging"]) == {
        *ABOUT_AZURE,
        "AZURE_CLIENT_ID",
        "AZURE_TENANT_ID",
    }


@pytest.mark.parametrize(
    "name",
    [path.relative_to(ROOT).as_posix() for path in documents() if path != ROOT / FIRST and commands(path)],
)
def test_a_document_that_goes_on_from_there(reader: Reader, name: str) -> None:
    reader.read(ROOT / name)
