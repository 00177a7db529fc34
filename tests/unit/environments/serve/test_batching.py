from __future__ import annotations

import sys
import threading
import time
from collections.abc import Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from tests.support.checkout import ROOT
from tests.support.waiting import HANG_S, until

SERVE = ROOT / "environments" / "serve"


@pytest.fixture(scope="module")
def batcher_class() -> Iterator[Any]:
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("serve_batching", SERVE / "batching.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["serve_batching"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module.MicroBatcher
    del sys.modules["serve_batching"]


class Model:
    """Doubles numbers, remembers its calls, and holds the first one until it is let go."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[int], Hashable]] = []
        self.go = threading.Event()

    def __call__(self, items: list[int], key: Hashable) -> list[int]:
        self.calls.append((items, key))
        self.go.wait(HANG_S)
        if -1 in items:
            raise ValueError("minus one")
        return [2 * item for item in items]


def together(batcher: Any, model: Model, requests: list[tuple[list[int], Hashable]]) -> list[Any]:
    """Sends the first request alone, the others one after another while it is being answered."""

    def wait(count: int) -> bool:
        return bool(model.calls) and batcher._queue.qsize() == count

    with ThreadPoolExecutor(len(requests)) as pool:
        futures = []
        for before, (items, key) in enumerate(requests):
            futures.append(pool.submit(batcher.submit, items, key))
            until(partial(wait, before), every_s=0.001)
        model.go.set()
        return [future.exception() or future.result() for future in futures]


def test_requests_that_wait_are_answered_in_one_call(batcher_class: Any) -> None:
    model = Model()
    batcher = batcher_class(model, max_items=8, wait_s=0.01)
    answers = together(batcher, model, [([1], "a"), ([2], "a"), ([3, 4], "a"), ([5], "a")])
    assert answers == [[2], [4], [6, 8], [10]]
    assert model.calls == [([1], "a"), ([2, 3, 4, 5], "a")]


def test_other_parameters_other_calls(batcher_class: Any) -> None:
    model = Model()
    batcher = batcher_class(model, max_items=8, wait_s=0.01)
    answers = together(batcher, model, [([1], "a"), ([2], "b"), ([3], "a"), ([4], "b")])
    assert answers == [[2], [4], [6], [8]]
    assert model.calls == [([1], "a"), ([2, 4], "b"), ([3], "a")]


def test_a_batch_is_no_larger_than_it_may_be(batcher_class: Any) -> None:
    model = Model()
    batcher = batcher_class(model, max_items=2, wait_s=0.01)
    answers = together(batcher, model, [([0], "a"), ([1], "a"), ([2], "a"), ([3, 4, 5], "a"), ([6], "a")])
    assert answers == [[0], [2], [4], [6, 8, 10], [12]]
    assert [items for items, _ in model.calls] == [[0], [1, 2], [3, 4, 5], [6]]


def test_one_bad_request_spoils_no_other(batcher_class: Any) -> None:
    model = Model()
    batcher = batcher_class(model, max_items=8, wait_s=0.01)
    answers = together(batcher, model, [([0], "a"), ([1], "a"), ([-1], "a"), ([2], "a")])
    assert [answers[0], answers[1], answers[3]] == [[0], [2], [4]]
    assert isinstance(answers[2], ValueError)
    assert batcher.submit([9], "a") == [18]  # and the worker lives on


def test_who_is_alone_does_not_wait(batcher_class: Any) -> None:
    model = Model()
    model.go.set()
    batcher = batcher_class(model, max_items=8, wait_s=60)
    started = time.monotonic()
    for _ in range(3):
        batcher.submit([1], "a")
    assert time.monotonic() - started < 60  # without waiting it takes a millisecond


def test_answers_reach_their_askers_under_load(batcher_class: Any) -> None:
    model = Model()
    model.go.set()
    batcher = batcher_class(model, max_items=8, wait_s=0.001)
    with ThreadPoolExecutor(16) as pool:
        requests = [([index, index + 1], index % 3) for index in range(300)]
        answers = list(pool.map(lambda one: batcher.submit(*one), requests))
    assert answers == [[2 * index, 2 * index + 2] for index in range(300)]
    assert all(len(set(items)) >= 2 for items, _ in model.calls)
