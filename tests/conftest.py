"""What every test shares."""

from __future__ import annotations

import os
import signal

import hypothesis
import pytest

# A suite that is started in the background of a shell ignores Ctrl-C, and so would all that it starts: its tests of
# what Ctrl-C does could not pass.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# These machines are shared and noisy: a slow example is no failure.
hypothesis.settings.register_profile("quiet", deadline=None)
hypothesis.settings.load_profile("quiet")


@pytest.fixture(autouse=True)
def _outside_of_github(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that runs in a GitHub job must not write into that job's outputs."""
    for name in [name for name in os.environ if name.startswith("GITHUB_") or name == "MLOPS_TARGET"]:
        monkeypatch.delenv(name)


LONG = (
    "test_main_job.py",
    "workflows",
    "fault_injection",
    "docs",
    "setup",
    "test_reconcile.py",
    "test_ledger.py",
    "test_rollout.py",
    "test_diagnosis.py",
    "doctor",
    "integration",
    "flow",
    "ui",
    "components",
    "arm",
    "chat",
    "serve",
    "serving",
    "local",
)
"""Files and folders with long stories, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long stories first, so that none runs alone at the end on one of the cores.

    A file stays in one process (``--dist loadfile``): its workspace is started once, and its tests may build on each
    other. Groups of pytest-xdist 3.8 do not do that: it writes them where pytest 9.2 no longer looks.
    """

    def rank(item: pytest.Item) -> int:
        found = [place for place, name in enumerate(LONG) if name in item.path.parts]
        return min(found, default=len(LONG))

    items.sort(key=rank)
