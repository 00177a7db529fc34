"""Answers requests together that arrive together.

A model spends nearly as long on one conversation as on eight. So the server's threads hand their requests to one
queue, and one worker takes from it what has arrived, in the order of arrival, and answers it in one call.
"""

import queue
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Request(Generic[Item, Answer]):
    """What one caller wants answered, in one call with others of the same key."""

    items: Sequence[Item]
    key: Hashable
    done: "Future[list[Answer]]" = field(default_factory=Future)


class MicroBatcher(Generic[Item, Answer]):
    """One worker thread, which calls `answer(items, key)` for as many requests as it may at once.

    Args:
        answer: gives one answer per item. An exception is handed to the callers; when a batch of several
            requests fails, each is tried by itself, so that one bad request spoils no other.
        max_items: most items in one call; a request that has more by itself is still answered in one call.
        wait_s: how long a request that could be answered waits for others, and only when others were
            there a moment ago: a caller who is alone never waits.
    """

    def __init__(
        self, answer: Callable[[list[Item], Hashable], list[Answer]], *, max_items: int, wait_s: float
    ) -> None:
        self._answer = answer
        self._max_items = max_items
        self._wait_s = wait_s
        self._queue: queue.SimpleQueue[Request[Item, Answer]] = queue.SimpleQueue()
        self._held: list[Request[Item, Answer]] = []
        self._busy = False
        threading.Thread(target=self._work, name="micro-batcher", daemon=True).start()

    def submit(self, items: Sequence[Item], key: Hashable) -> list[Answer]:
        """The answers to `items`, in their order. Blocks until they are there.

        Args:
            items: what to answer.
            key: only requests with equal keys are answered together.
        """
        request: Request[Item, Answer] = Request(items, key)
        self._queue.put(request)
        return request.done.result()

    def _next_batch(self) -> list[Request[Item, Answer]]:
        """The oldest waiting request, with those of its key that fit."""
        if not self._held:
            self._held.append(self._queue.get())
        deadline = time.monotonic() + (self._wait_s if self._busy else 0.0)
        while True:
            first = self._held[0]
            size = sum(len(request.items) for request in self._held if request.key == first.key)
            try:
                if size >= self._max_items or time.monotonic() >= deadline:
                    self._held.append(self._queue.get_nowait())
                else:
                    self._held.append(self._queue.get(timeout=max(0.0, deadline - time.monotonic())))
            except queue.Empty:
                break
        batch: list[Request[Item, Answer]] = []
        rest: list[Request[Item, Answer]] = []
        size = 0
        for request in self._held:
            fits = not batch or size + len(request.items) <= self._max_items
            if request.key == first.key and fits:
                batch.append(request)
                size += len(request.items)
            else:
                rest.append(request)
        self._held = rest
        # Others were in flight: their next requests are likely to arrive together too.
        self._busy = len(batch) > 1 or bool(rest)
        return batch

    def _work(self) -> None:
        while True:
            batch = self._next_batch()
            try:
                self._run(batch)
            except Exception as error:
                if len(batch) == 1:
                    batch[0].done.set_exception(error)
                    continue
                for request in batch:
                    try:
                        self._run([request])
                    except Exception as own:
                        request.done.set_exception(own)

    def _run(self, batch: list[Request[Item, Answer]]) -> None:
        answers = self._answer([item for request in batch for item in request.items], batch[0].key)
        start = 0
        for request in batch:
            request.done.set_result(answers[start : start + len(request.items)])
            start += len(request.items)
