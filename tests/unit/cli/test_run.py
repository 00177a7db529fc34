"""What `mlops run` says at its end."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mlops.cli.run import activation


def test_a_shell_that_does_not_find_mlops_is_told_how_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment = Path(sys.prefix)
    monkeypatch.setenv("PATH", str(tmp_path))

    monkeypatch.chdir(environment.parent)
    assert [line.split()[:2] for line in activation()] == [["source", f"{environment.name}/bin/activate"]]
    monkeypatch.chdir(tmp_path)
    assert [line.split()[:2] for line in activation()] == [["source", f"{environment}/bin/activate"]]


def test_a_shell_that_finds_mlops_is_told_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command = tmp_path / "mlops"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert activation() == []
