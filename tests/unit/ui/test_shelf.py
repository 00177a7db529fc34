"""One question at a time, answers kept for a while, an end to waiting."""

from __future__ import annotations

import asyncio
import threading

import pytest

from mlops.core.errors import AzureError
from mlops.ui.ttl_cache import NoAnswerYet, Shelf
from tests.support.waiting import HANG_S, until_async


async def test_an_answer_is_kept_as_long_as_it_is_good() -> None:
    shelf, asked = Shelf(), []

    def ask() -> int:
        asked.append(1)
        return len(asked)

    assert [await shelf.get("a", ask, keep_s=60) for _ in range(3)] == [1, 1, 1]
    assert await shelf.get("b", ask, keep_s=lambda found: 0.0 if found == 2 else 60.0) == 2
    assert await shelf.get("b", ask, keep_s=60) == 3
    shelf.forget("a")
    assert (await shelf.get("a", ask, keep_s=60), await shelf.get("b", ask, keep_s=60)) == (4, 3)


async def test_who_asks_the_same_at_the_same_time_waits_for_one_answer() -> None:
    shelf, asked, go = Shelf(), [], threading.Event()

    def ask() -> str:
        asked.append(1)
        go.wait(HANG_S)
        return "answer"

    waiting = [asyncio.ensure_future(shelf.get("a", ask, keep_s=0)) for _ in range(5)]
    await until_async(lambda: asked)
    go.set()

    assert await asyncio.gather(*waiting) == ["answer"] * 5
    assert len(asked) == 1


async def test_waiting_ends_and_the_question_goes_on() -> None:
    shelf, asked, go = Shelf(patience_s=0.05), [], threading.Event()

    def ask() -> str:
        asked.append(1)
        go.wait(HANG_S)
        return "late"

    with pytest.raises(NoAnswerYet, match=r"has not answered for 0\.05 s"):
        await shelf.get("a", ask, keep_s=HANG_S)
    with pytest.raises(NoAnswerYet):
        await shelf.get("a", ask, keep_s=HANG_S)
    go.set()

    async def answer() -> str | None:
        try:
            return await shelf.get("a", ask, keep_s=HANG_S)
        except NoAnswerYet:
            return None

    assert await until_async(answer) == "late"
    assert len(asked) == 1


async def test_a_failure_reaches_everybody_and_is_not_kept() -> None:
    shelf, asked = Shelf(), []

    def ask() -> str:
        asked.append(1)
        if len(asked) == 1:
            raise AzureError("not now")
        return "now"

    both = await asyncio.gather(*(shelf.get("a", ask, keep_s=60) for _ in range(2)), return_exceptions=True)
    assert [str(error) for error in both] == ["not now", "not now"]
    assert await shelf.get("a", ask, keep_s=60) == "now"


async def test_no_more_than_so_many_at_once() -> None:
    shelf, under_way, most, lock = Shelf(at_once=2), 0, 0, threading.Lock()
    both = threading.Barrier(2, timeout=HANG_S)

    def ask() -> None:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        both.wait()
        threading.Event().wait(0.02)  # in which a third would come
        with lock:
            under_way -= 1

    await asyncio.gather(*(shelf.get(str(number), ask, keep_s=0) for number in range(8)))
    assert most == 2
