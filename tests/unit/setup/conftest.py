"""Fixtures of setup's tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.setup.gh import FakeGitHub
from tests.unit.setup.subscription import Subscription


@pytest.fixture
def github(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGitHub:
    """A `gh` on the path that knows one repository, octo/chat."""
    fake = FakeGitHub(tmp_path / "github")
    monkeypatch.setenv("PATH", f"{fake.folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return fake


@pytest.fixture(scope="module")
def subscription(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subscription]:
    """An empty subscription of the module's own."""
    folder = tmp_path_factory.mktemp("s")
    fresh_subscription = Subscription(folder, folder / "cache")
    fresh_subscription.open()
    yield fresh_subscription
    fresh_subscription.close()


@pytest.fixture
def fresh(subscription: Subscription) -> Subscription:
    """The same, empty again."""
    subscription.empty()
    return subscription
