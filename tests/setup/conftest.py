"""Fixtures of setup's tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.setup.gh import FakeGitHub


@pytest.fixture
def github(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGitHub:
    """A `gh` on the path that knows one repository, octo/chat."""
    fake = FakeGitHub(tmp_path / "github")
    monkeypatch.setenv("PATH", f"{fake.folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return fake
