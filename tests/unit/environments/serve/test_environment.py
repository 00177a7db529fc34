"""The two environments: what they lock is what the code that runs in them imports."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import yaml

from mlops.local.serving.image import command
from tests.support.checkout import ROOT

ENVIRONMENTS = ROOT / "environments"
DISTRIBUTIONS = {"yaml": "pyyaml", "azureml_inference_server_http": "azureml-inference-server-http"}
FIRST = {"torch", "deepspeed"}
"""Installed by the Dockerfile outside of the lock."""


SERVERS = {
    "score": ("score", "batching", "contract", "payload"),
    "engine": ("engine", "front", "completions", "prompts", "contract", "payload"),
}
"""The two servers of one folder, by their modules."""


def imported(paths: Iterable[Path]) -> Iterator[str]:
    for path in sorted(paths):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module.partition(".")[0]


@pytest.mark.parametrize(
    ("environment", "code"),
    [
        ("serve", [ENVIRONMENTS / "serve" / f"{name}.py" for name in SERVERS["score"]]),
        ("serve/engine", [ENVIRONMENTS / "serve" / f"{name}.py" for name in SERVERS["engine"]]),
        ("finetune", list((ROOT / "components" / "chat_completion").glob("*.py"))),
    ],
)
def test_what_is_imported_is_locked(environment: str, code: list[Path]) -> None:
    own = {path.stem for path in code} | {"chat_completion"}
    needed = set(imported(code)) - own - set(sys.stdlib_module_names) - FIRST
    lines = (ENVIRONMENTS / environment / "requirements.txt").read_text().splitlines()
    locked = {line.partition("==")[0] for line in lines if "==" in line and not line.startswith((" ", "#"))}
    assert {DISTRIBUTIONS.get(name, name.replace("_", "-")) for name in needed} <= locked
    assert ("torch" in locked) == (environment == "serve/engine")


def test_every_module_of_the_folder_belongs_to_a_server() -> None:
    assert {path.stem for path in (ENVIRONMENTS / "serve").glob("*.py")} == {*SERVERS["score"], *SERVERS["engine"]}


@pytest.mark.parametrize("environment", ["serve", "serve/engine", "finetune"])
def test_a_definition_builds_from_its_own_folder(environment: str) -> None:
    folder = ENVIRONMENTS / environment
    definition = yaml.safe_load((folder / "environment.yml").read_text())
    assert definition["name"] == "mlops-" + environment.replace("/", "-")
    assert isinstance(definition["version"], str)
    assert definition["build"] == {"path": ".", "dockerfile_path": "Dockerfile"}
    dockerfile = (folder / "Dockerfile").read_text()
    before = "FROM" if environment == "serve/engine" else "torch=="  # in the engine's lock torch has its place
    assert dockerfile.index(before) < dockerfile.index("--require-hashes")


@pytest.mark.parametrize("folder", ["app root", "app root/serve"])
def test_the_engines_image_finds_the_code_where_azure_mounts_it(tmp_path: Path, folder: str) -> None:
    arguments = command((ENVIRONMENTS / "serve" / "engine" / "Dockerfile").read_text())
    assert arguments is not None
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\necho "$1"\n')
    python.chmod(0o755)
    environment = {"PATH": f"{python.parent}:{os.environ['PATH']}", "AML_APP_ROOT": str(tmp_path / "app root")}
    (tmp_path / folder).mkdir(parents=True)
    lacking = subprocess.run(arguments, env=environment, capture_output=True, text=True)
    assert lacking.returncode != 0
    assert f"no engine.py below {tmp_path / 'app root'}; the deployment needs" in lacking.stderr
    (tmp_path / folder / "engine.py").touch()
    assert subprocess.check_output(arguments, env=environment, text=True) == f"{tmp_path / folder / 'engine.py'}\n"
    del environment["AML_APP_ROOT"]
    unset = subprocess.run(arguments, env=environment, capture_output=True, text=True)
    assert "no engine.py below /var/azureml-app; the deployment needs" in unset.stderr
