"""What Azure has said, kept for some seconds: one question at a time for each thing, and an end to waiting.

A question that takes too long is not asked twice: who asks again waits for the same answer. The threads are daemons, so
that Ctrl-C never waits for one.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from mlops.core.errors import AzureError

Value = TypeVar("Value")
AT_ONCE = 8
WAIT_S = 20.0


class NoAnswerYet(AzureError):
    """It still takes; whoever asks again joins the question that is under way."""


class TtlCache:
    """Answers by their names; for one event loop."""

    def __init__(self, *, wait_s: float = WAIT_S, at_once: int = AT_ONCE) -> None:
        self.wait_s = wait_s
        self._semaphore = threading.Semaphore(at_once)
        self._kept: dict[str, tuple[float, Any]] = {}
        self._asked: dict[str, asyncio.Future[Any]] = {}

    async def get(self, name: str, ask: Callable[[], Value], *, keep_s: float | Callable[[Value], float]) -> Value:
        """The answer that is kept, else a new one.

        Args:
            name: what is asked; one name stands for one question.
            ask: finds the answer, in a thread.
            keep_s: how long an answer is good, or what tells it from the answer; a failure is never kept.

        Raises:
            NoAnswerYet: it takes longer than the shelf's patience.
        """
        kept = self._kept.get(name)
        if kept is not None and time.monotonic() < kept[0]:
            cached: Value = kept[1]
            return cached
        pending = self._asked.get(name) or self._begin(name, ask, keep_s)
        done, _ = await asyncio.wait({pending}, timeout=self.wait_s)
        if not done:
            waited = f"Azure has not answered for {self.wait_s:g} s"
            raise NoAnswerYet(waited, hint="the question is still open: look again in a moment")
        answer: Value = pending.result()
        return answer

    def forget(self, name: str | None = None) -> None:
        """Ask anew next time: for one thing, or for everything."""
        if name is None:
            self._kept.clear()
        else:
            self._kept.pop(name, None)

    def _begin(self, name: str, ask: Callable[[], Any], keep_s: Any) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        pending = self._asked[name] = loop.create_future()

        def ended(answer: Any, error: Exception | None) -> None:
            del self._asked[name]
            if error is None:
                good_s = keep_s(answer) if callable(keep_s) else keep_s
                self._kept[name] = (time.monotonic() + good_s, answer)
                pending.set_result(answer)
            else:
                pending.set_exception(error)
                pending.exception()  # seen: nobody may be waiting any more

        def work() -> None:
            answer, error = None, None
            with self._semaphore:
                try:
                    answer = ask()
                except Exception as raised:
                    error = raised
            with contextlib.suppress(RuntimeError):  # the page was closed meanwhile
                loop.call_soon_threadsafe(ended, answer, error)

        threading.Thread(target=work, name=f"ask {name}", daemon=True).start()
        return pending
