"""What every test shares."""

from __future__ import annotations

import os

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
