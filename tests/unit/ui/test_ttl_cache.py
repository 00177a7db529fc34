"""One question at a time, answers kept for a while, an end to waiting."""

from __future__ import annotations

import asyncio
import threading

import pytest

from mlops.core.errors import AzureError
from mlops.ui.ttl_cache import NoAnswerYet, TtlCache
from tests.support.waiting import HANG_S, until_async


async def test_an_answer_is_kept_as_long_as_it_is_good() -> None:
    cache, calls = TtlCache(), []

    def ask() -> int:
        calls.append(1)
        return len(calls)

    assert [await cache.get("a", ask, keep_s=60) for _ in range(3)] == [1, 1, 1]
    assert await cache.get("b", ask, keep_s=lambda value: 0.0 if value == 2 else 60.0) == 2
    assert await cache.get("b", ask, keep_s=60) == 3
    cache.forget("a")
    assert (await cache.get("a", ask, keep_s=60), await cache.get("b", ask, keep_s=60)) == (4, 3)


async def test_who_asks_the_same_at_the_same_time_waits_for_one_answer() -> None:
    cache, calls, go = TtlCache(), [], threading.Event()

    def ask() -> str:
        calls.append(1)
        go.wait(HANG_S)
        return "answer"

    waiting = [asyncio.ensure_future(cache.get("a", ask, keep_s=0)) for _ in range(5)]
    await until_async(lambda: calls)
    go.set()

    assert await asyncio.gather(*waiting) == ["answer"] * 5
    assert len(calls) == 1


async def test_waiting_ends_and_the_question_goes_on() -> None:
    cache, calls, go = TtlCache(wait_s=0.05), [], threading.Event()

    def ask() -> str:
        calls.append(1)
        go.wait(HANG_S)
        return "late"

    with pytest.raises(NoAnswerYet, match=r"has not answered for 0\.05 s"):
        await cache.get("a", ask, keep_s=HANG_S)
    with pytest.raises(NoAnswerYet):
        await cache.get("a", ask, keep_s=HANG_S)
    go.set()

    async def answer() -> str | None:
        try:
            return await cache.get("a", ask, keep_s=HANG_S)
        except NoAnswerYet:
            return None

    assert await until_async(answer) == "late"
    assert len(calls) == 1


async def test_a_failure_reaches_everybody_and_is_not_kept() -> None:
    cache, calls = TtlCache(), []

    def ask() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise AzureError("not now")
        return "now"

    both = await asyncio.gather(*(cache.get("a", ask, keep_s=60) for _ in range(2)), return_exceptions=True)
    assert [str(error) for error in both] == ["not now", "not now"]
    assert await cache.get("a", ask, keep_s=60) == "now"


async def test_no_more_than_so_many_at_once() -> None:
    cache, concurrent, most, lock = TtlCache(at_once=2), 0, 0, threading.Lock()
    both = threading.Barrier(2, timeout=HANG_S)

    def ask() -> None:
        nonlocal concurrent, most
        with lock:
            concurrent += 1
            most = max(most, concurrent)
        both.wait()
        threading.Event().wait(0.02)  # in which a third would come
        with lock:
            concurrent -= 1

    await asyncio.gather(*(cache.get(str(number), ask, keep_s=0) for number in range(8)))
    assert most == 2
