"""The serving part on a bench of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mlops.local.state.limits import Limits
from tests.unit.local.serving.bench import QUICK, Bench


@pytest.fixture
async def bench(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """A bench; indirect parameters are limits."""
    made = Bench(tmp_path, Limits(**getattr(request, "param", {})), QUICK)
    yield made
    await made.close()
