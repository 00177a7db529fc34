"""Prompt flow in its own environment, beside an endpoint of a local workspace."""

from __future__ import annotations

import os

import pytest

from mlops.config.settings import load
from mlops.flow import Environment
from mlops.flow.environment import VENV
from tests.integration.conftest import home  # noqa: F401 - a fixture
from tests.support.checkout import ROOT
from tests.unit.chat.conftest import endpoint_home  # noqa: F401 - a fixture


@pytest.fixture(scope="session")
def installed() -> None:
    """Skips where Prompt flow is not installed; in CI that is a failure."""
    if not (ROOT / VENV / "bin" / "python").exists():
        reason = f"Prompt flow is not installed in {VENV}: make flow"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture
def environment(installed: None, endpoint_home: object) -> Environment:  # noqa: F811
    """The environment, its home below the test's own."""
    return Environment.of(load("local", ROOT / "mlops.yaml"))
