"""One workspace per test module and process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fault_injection.workspace import Workspace


@pytest.fixture(scope="module")
def fault_workspace() -> Iterator[Workspace]:
    """A workspace of the module's own; its folder's name is short, as a socket's address must be."""
    with tempfile.TemporaryDirectory(prefix="fault-", ignore_cleanup_errors=True) as folder:
        workspace = Workspace(Path(folder))
        try:
            workspace.open()
            yield workspace
        finally:
            workspace.close()
