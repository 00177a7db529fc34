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

Found = TypeVar("Found")
AT_ONCE = 8
PATIENCE_S = 20.0


class NoAnswerYet(AzureError):
    """It still takes; whoever asks again joins the question that is under way."""


class Shelf:
    """Answers by their names; for one event loop."""

    def __init__(self, *, patience_s: float = PATIENCE_S, at_once: int = AT_ONCE) -> None:
        self.patience_s = patience_s
        self._room = threading.Semaphore(at_once)
        self._kept: dict[str, tuple[float, Any]] = {}
        self._asked: dict[str, asyncio.Future[Any]] = {}

    async def get(self, name: str, ask: Callable[[], Found], *, keep_s: float | Callable[[Found], float]) -> Found:
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
            found: Found = kept[1]
            return found
        asked = self._asked.get(name) or self._begin(name, ask, keep_s)
        done, _ = await asyncio.wait({asked}, timeout=self.patience_s)
        if not done:
            waited = f"Azure has not answered for {self.patience_s:g} s"
            raise NoAnswerYet(waited, hint="the question is still open: look again in a moment")
        answer: Found = asked.result()
        return answer

    def forget(self, name: str | None = None) -> None:
        """Ask anew next time: for one thing, or for everything."""
        if name is None:
            self._kept.clear()
        else:
            self._kept.pop(name, None)

    def _begin(self, name: str, ask: Callable[[], Any], keep_s: Any) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        asked = self._asked[name] = loop.create_future()

        def ended(answer: Any, error: Exception | None) -> None:
            del self._asked[name]
            if error is None:
                good_s = keep_s(answer) if callable(keep_s) else keep_s
                self._kept[name] = (time.monotonic() + good_s, answer)
                asked.set_result(answer)
            else:
                asked.set_exception(error)
                asked.exception()  # seen: nobody may be waiting any more

        def work() -> None:
            answer, error = None, None
            with self._room:
                try:
                    answer = ask()
                except Exception as raised:
                    error = raised
            with contextlib.suppress(RuntimeError):  # the page was closed meanwhile
                loop.call_soon_threadsafe(ended, answer, error)

        threading.Thread(target=work, name=f"ask {name}", daemon=True).start()
        return asked
