"""Answers requests together that arrive together.

A model spends nearly as long on one conversation as on eight. So the server's threads hand their requests to one
queue, and one worker takes from it what has arrived, in the order of arrival, and answers it in one call.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
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
        wait_s: longest wait for a batch to fill. It only waits for as many as were in flight a moment ago (those
            just answered, who are likely to ask again, and those already waiting): who is alone never waits.
    """

    def __init__(
        self, answer: Callable[[list[Item], Hashable], list[Answer]], *, max_items: int, wait_s: float
    ) -> None:
        self._answer = answer
        self._max_items = max_items
        self._wait_s = wait_s
        self._queue: queue.SimpleQueue[Request[Item, Answer]] = queue.SimpleQueue()
        self._backlog: list[Request[Item, Answer]] = []
        self._last_items = 0
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

    def _take_waiting(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._backlog.append(self._queue.get_nowait())

    @staticmethod
    def _size(requests: Iterable[Request[Item, Answer]]) -> int:
        return sum(len(request.items) for request in requests)

    def _next_batch(self) -> list[Request[Item, Answer]]:
        """The oldest waiting request, with those of its key that fit."""
        finished = time.monotonic()
        self._take_waiting()
        expected = self._last_items + self._size(self._backlog)
        if not self._backlog:
            self._backlog.append(self._queue.get())
            if time.monotonic() - finished > self._wait_s:
                expected = 1  # the callers of the last batch have gone
        first = self._backlog[0]
        deadline = time.monotonic() + self._wait_s
        while True:
            self._take_waiting()
            size = self._size(request for request in self._backlog if request.key == first.key)
            remaining_s = deadline - time.monotonic()
            if size >= min(self._max_items, expected) or remaining_s <= 0:
                break
            with contextlib.suppress(queue.Empty):
                self._backlog.append(self._queue.get(timeout=remaining_s))
        batch: list[Request[Item, Answer]] = []
        rest: list[Request[Item, Answer]] = []
        size = 0
        for request in self._backlog:
            fits = not batch or size + len(request.items) <= self._max_items
            if request.key == first.key and fits:
                batch.append(request)
                size += len(request.items)
            else:
                rest.append(request)
        self._backlog = rest
        self._last_items = size
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
