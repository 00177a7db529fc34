"""The rules that workflow files are held to: the files keep them, and each breach is told with its line."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.checkout import ROOT

LONG = "run: |\n          true\n          true\n          true\n          true\n          true\n          true\n"


@pytest.fixture(scope="module")
def rules() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rules", ROOT / ".github" / "rules.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_files_keep_them(rules: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert rules.main(ROOT) == 0
    assert "nothing wrong" in capsys.readouterr().out


def test_a_folder_without_workflows_is_no_success(rules: ModuleType, tmp_path: Path) -> None:
    assert rules.main(tmp_path) == 1


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("workflows/deploy.yml", "@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1", "@v7", "not pinned by commit"),
        ("workflows/deploy.yml", " # v7.0.1", "", "the version of the pinned action is missing"),
        ("workflows/deploy.yml", "persist-credentials: false", "persist-credentials: true", "persist-credentials"),
        ("workflows/deploy.yml", "    timeout-minutes: 240\n", "", "the job 'deploy' has no timeout-minutes"),
        ("workflows/deploy.yml", "permissions: {}", "permissions: read-all", "`permissions: {}` is missing"),
        ("workflows/deploy.yml", "permissions: {}\n", "", "`permissions: {}` is missing"),
        (
            "workflows/rollback.yml",
            "      id-token: write # to log in to Azure, without a secret\n",
            "",
            "all of these",
        ),
        (
            "workflows/rollback.yml",
            "    permissions:\n      contents: read\n",
            "    ignored:\n",
            "does not name its permissions",
        ),
        ("workflows/rollback.yml", "    concurrency:\n", "    ignored:\n", "in no concurrency group"),
        ("workflows/rollback.yml", "        description: Where\n", "", "the input 'target' has no description"),
        ("workflows/rollback.yml", "    shell: bash", "    shell: sh", "`defaults.run.shell: bash` is missing"),
        ("workflows/rollback.yml", '"$VERSION"', "${{ inputs.version }}", "an expression inside its shell"),
        ("workflows/rollback.yml", '"$VERSION"', "$VERSION", "'Roll back': note: Double quote to prevent"),
        ("workflows/rollback.yml", "run: mlops", LONG + "#", "longer than 5 lines"),
        ("workflows/rollback.yml", "- name: Roll back\n        id:", "- id:", "a step without a name"),
        ("workflows/train.yml", "$/.github/workflows/deploy.yml", "./.github/workflows/deploy.yml", "write $/.github"),
        ("actions/setup/action.yml", "shell: bash", "shell: sh", "does not run in bash"),
    ],
)
def test_each_breach_is_told(
    rules: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, old: str, new: str, message: str
) -> None:
    shutil.copytree(ROOT / ".github", tmp_path / ".github")
    path = tmp_path / ".github" / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")

    assert rules.main(tmp_path) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if message in line]
    assert lines
    assert all(line.startswith(f".github/{file}:") for line in lines)
