"""GitHub's packages and, on them, a GitHub of the test's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests.workflows.cloud import Cloud
from tests.workflows.runner import bridge

ENVIRONMENT_NAMES = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "SHELL")


@pytest.fixture(scope="session")
def packages() -> Path:
    """Where GitHub's npm packages are; without Node the tests that need them are skipped, in CI they fail."""
    try:
        return bridge.install()
    except bridge.Missing as error:
        without(error)


def without(error: bridge.Missing) -> NoReturn:
    """Say what is missing: in CI as a failure, elsewhere the test is skipped."""
    message = f"the workflows cannot be executed here: {error}"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def github(packages: Path) -> Iterator[bridge.Bridge]:
    """GitHub's parser and evaluator."""
    running_bridge = bridge.Bridge(packages)
    try:
        yield running_bridge
    finally:
        running_bridge.close()


def machine() -> dict[str, str]:
    """What a fresh machine of GitHub's has in its environment."""
    return {name: os.environ[name] for name in ENVIRONMENT_NAMES if name in os.environ}


@pytest.fixture(scope="module")
def cloud(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A workspace of the module's own; the environment of this process is given back afterwards."""
    before = dict(os.environ)
    azure = Cloud(tmp_path_factory.mktemp("home"))
    azure.open()
    try:
        azure.trust()
        yield azure
    finally:
        azure.close()
        os.environ.clear()
        os.environ.update(before)
