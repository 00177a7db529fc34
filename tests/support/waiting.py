"""Waiting for what happens, however busy the machine is."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any, TypeVar

Value = TypeVar("Value")
HANG_S = 600.0
"""Ends a wait, or a program, that hangs. It judges no machine: the longest single wait takes less than a tenth of it on
two quiet cores. pytest's own limit (pyproject.toml) is longer, so that what hung is named."""


def until(holds: Callable[[], Value], *, what: str = "it", limit_s: float = HANG_S, every_s: float = 0.02) -> Value:
    """Asks again and again until something holds; what it found.

    Args:
        holds: its truth ends the wait.
        what: the subject of the sentence that a test fails with, "{what} did not happen within ... s".
        limit_s: ends a wait in vain.
        every_s: pause between two looks.
    """
    limit = time.monotonic() + limit_s
    while not (value := holds()):
        assert time.monotonic() < limit, f"{what} did not happen within {limit_s:g} s"
        time.sleep(every_s)
    return value


async def until_async(holds: Callable[[], Any], *, what: str = "it", limit_s: float = HANG_S) -> Any:
    """The same, while the event loop goes on; ``holds`` may be a coroutine function."""
    limit = time.monotonic() + limit_s
    while True:
        value = holds()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < limit, f"{what} did not happen within {limit_s:g} s"
        await asyncio.sleep(0.01)
