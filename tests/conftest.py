"""What every test shares."""

from __future__ import annotations

import os
from typing import Any

import hypothesis
import pytest

# These machines are shared and noisy: a slow example is no failure.
hypothesis.settings.register_profile("quiet", deadline=None)
hypothesis.settings.load_profile("quiet")


@pytest.fixture(autouse=True)
def _outside_of_github(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that runs in a GitHub job must not write into that job's outputs."""
    for name in [name for name in os.environ if name.startswith("GITHUB_") or name == "MLOPS_TARGET"]:
        monkeypatch.delenv(name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest story first, so that it does not run alone at the end on one of the cores."""
    items.sort(key=lambda item: item.path.name != "test_main_job.py")


STORIES = tuple(f"tests/workflows/test_{name}.py" for name in ("train", "release", "pull_request"))
"""Files whose tests build on each other: one workspace, one process."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep each story in one process.

    pytest-xdist 3.8 writes a test's xdist_group where pytest 9.2 no longer looks, so that --dist loadgroup spreads a
    group's tests over the processes.
    """
    from xdist.scheduler import LoadGroupScheduling  # type: ignore[import-not-found,import-untyped,unused-ignore]

    class Stories(LoadGroupScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return path if path in STORIES else super()._split_scope(nodeid)

    return Stories(config, log) if config.getvalue("dist") == "loadgroup" else None
