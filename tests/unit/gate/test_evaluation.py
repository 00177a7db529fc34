"""The gate over real HTTP, against an endpoint that answers as it is told."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import pytest

from mlops import gate
from mlops.config.settings import Gate, Quality
from mlops.core.errors import GateUndecided, UsageError
from tests.support.answering import Answering, Asked, Endpoint, Reply, answering
from tests.support.waiting import HANG_S

TRIAL = gate.Trial(endpoint="chat", model="m:1", candidate="green", live="blue")


def settings(**values: Any) -> Gate:
    base: dict[str, Any] = {
        "conversations": 8,
        "max_conversations": 32,
        "concurrency": 4,
        "max_latency_ratio": None,
        "quality": {"exact_match": Quality(), "rouge_l": Quality(min=0.5)},
    }
    return Gate(**{**base, **values})


def samples(count: int) -> list[gate.Sample]:
    return [gate.Sample(({"role": "user", "content": f"question {at}"},), f"it is number {at}") for at in range(count)]


def right(asked: Asked) -> Reply:
    number = asked.question.rpartition(" ")[2]
    return Reply({"output": f"it is number {number}", "usage": {"prompt_tokens": 3, "completion_tokens": 4}})


def only(slot: str, broken: Answering) -> Answering:
    return lambda asked: broken(asked) if asked.slot == slot else right(asked)


def slots(endpoint: Endpoint) -> list[str | None]:
    return [asked.slot for asked in endpoint.asked]


def test_both_slots_are_asked_the_same_in_turn_after_a_warm_up_that_does_not_count() -> None:
    ticks: list[int] = []
    planned: list[int] = []
    with answering(right) as endpoint:
        report = gate.evaluate(
            endpoint.scorer,
            settings(warmup=2, concurrency=1),
            samples(8),
            TRIAL,
            done=lambda: ticks.append(1),
            planned=planned.append,
        )

    assert report.verdict == "pass"
    assert (report.candidate.requests, report.rounds, len(ticks), planned) == (8, 1, 16, [16])
    assert report.candidate.ms_per_token > 0
    assert report.candidate.tokens_per_s > 0
    assert report.live is not None
    counted = endpoint.asked[4:]
    assert [asked.question for asked in counted] == [f"question {at // 2}" for at in range(16)]
    assert all(
        {one.slot, other.slot} == {"blue", "green"} for one, other in zip(counted[::2], counted[1::2], strict=True)
    )
    assert {asked.slot for asked in counted[::2]} == {"blue", "green"}  # each goes first at times
    assert len({asked.connection for asked in endpoint.asked}) == 1  # one connection for the whole gate


def test_as_many_requests_are_under_way_as_are_allowed_at_any_time() -> None:
    begun, barrier = 0, threading.Barrier(4)
    lock = threading.Lock()

    def reply(asked: Asked) -> Reply:
        nonlocal begun
        with lock:
            begun += 1
            first = begun <= 4
        if first:
            barrier.wait(HANG_S)  # breaks unless four come at once
        return right(asked)

    with answering(reply) as endpoint:
        report = gate.evaluate(endpoint.scorer, settings(warmup=0), samples(8), TRIAL)

    assert report.verdict == "pass"
    assert max(asked.concurrent for asked in endpoint.asked) == 4
    assert len({asked.connection for asked in endpoint.asked}) == 4


def test_more_samples_are_taken_while_the_difference_is_unclear() -> None:
    # Wrong on every fourth of the first sixteen questions, the live slot on every other fourth: equal, but who knows.
    def reply(asked: Asked) -> Reply:
        number = int(asked.question.rpartition(" ")[2])
        unlucky = {"green": 1, "blue": 3}[asked.slot or ""]
        return Reply({"output": "no idea"}) if number < 16 and number % 4 == unlucky else right(asked)

    planned: list[int] = []
    few = settings(quality={"exact_match": Quality(max_loss=0.2)})
    with answering(reply) as endpoint:
        report = gate.evaluate(endpoint.scorer, few, samples(32), TRIAL, planned=planned.append)

    assert planned == [16, 32, 64]
    assert (report.rounds, report.candidate.requests, report.verdict) == (3, 32, "pass")
    assert report.comparisons[0].pairs == 32


def test_what_stays_unclear_is_inconclusive_and_no_sample_is_asked_twice() -> None:
    def reply(asked: Asked) -> Reply:
        number = int(asked.question.rpartition(" ")[2])
        return Reply({"output": "no idea"}) if number % 4 == {"green": 1, "blue": 3}[asked.slot or ""] else right(asked)

    with answering(reply) as endpoint:
        report = gate.evaluate(endpoint.scorer, settings(warmup=0), samples(20), TRIAL)

    assert (report.verdict, report.rounds, report.candidate.requests) == ("inconclusive", 3, 20)
    assert len(endpoint.asked) == 40


def test_a_failure_is_told_at_once() -> None:
    with answering(only("green", lambda _: Reply({"error": {"message": "boom"}}, 424))) as endpoint:
        report = gate.evaluate(endpoint.scorer, settings(), samples(32), TRIAL)

    assert (report.verdict, report.rounds) == ("fail", 1)
    assert report.errors == ("HTTP 424: boom",)
    assert [item.flaw for item in report.worst] == ["http"] * 5
    assert {item.name for item in report.checks if not item.passed} >= {"success_rate", "contract_rate", "rouge_l"}


def test_a_live_slot_that_answers_nothing_decides_nothing() -> None:
    with answering(only("blue", lambda _: Reply("gone", 502))) as endpoint:
        report = gate.evaluate(endpoint.scorer, settings(max_latency_ratio=1.0), samples(8), TRIAL)

    assert report.verdict == "pass"
    assert report.comparisons == ()
    assert "'blue' answered none of 8 requests; it decides nothing" in report.notes[0]
    assert report.live is not None


def test_nothing_live_leaves_the_thresholds() -> None:
    with answering(right) as endpoint:
        report = gate.evaluate(endpoint.scorer, settings(), samples(8), dataclasses.replace(TRIAL, live=None))

    assert (report.verdict, report.live, report.comparisons) == ("pass", None, ())
    assert set(slots(endpoint)) == {"green"}


@pytest.mark.parametrize("status", [401, 403, 429])
def test_where_nothing_reached_the_candidate_nobody_can_decide(status: int) -> None:
    refused = only("green", lambda _: Reply("", status, {"Retry-After": "0"}))
    with answering(refused) as endpoint, pytest.raises(GateUndecided, match="no request reached m:1 in green"):
        gate.evaluate(endpoint.scorer, settings(), samples(8), TRIAL)


def test_a_candidate_that_hangs_fails_by_its_transport_errors() -> None:
    go = threading.Event()

    def late(_: Asked) -> Reply:
        go.wait(HANG_S)
        return Reply({"output": "late"})

    with answering(only("green", late), timeout_s=0.1) as endpoint:
        report = gate.evaluate(endpoint.scorer, settings(warmup=0, conversations=4), samples(4), TRIAL)
        go.set()

    assert report.verdict == "fail"
    assert report.candidate.transport_error_rate == 1
    assert report.worst == ()


def test_a_few_transport_errors_are_no_wrong_answers() -> None:
    def reply(asked: Asked) -> Reply:
        return Reply("", 403) if (asked.slot, asked.question) == ("green", "question 3") else right(asked)

    lax, strict = settings(max_transport_error_rate=0.2), settings(max_transport_error_rate=0.1)
    with answering(reply) as endpoint:
        assert gate.evaluate(endpoint.scorer, lax, samples(8), TRIAL).verdict == "pass"
        found = gate.evaluate(endpoint.scorer, strict, samples(8), TRIAL)

    assert [item.name for item in found.checks if not item.passed] == ["transport_error_rate"]
    assert found.candidate.scores["exact_match"] == 1


def test_wrong_settings_are_told_before_anything_is_asked() -> None:
    with answering(right) as endpoint, pytest.raises(UsageError, match="did you mean 'latency_ratio'"):
        gate.evaluate(endpoint.scorer, settings(dry_run=["latency_rati"]), samples(8), TRIAL)

    assert endpoint.asked == []


def test_an_empty_set_fails() -> None:
    with answering(right) as endpoint:
        report = gate.evaluate(endpoint.scorer, settings(), [], TRIAL)

    assert (report.verdict, report.candidate.requests, endpoint.asked) == ("fail", 0, [])


def test_a_slot_that_another_answers_for_is_not_judged_by_it() -> None:
    def reply(asked: Asked) -> Reply:
        return Reply(right(asked).body, headers={"azureml-model-deployment": "blue"})

    with answering(reply) as endpoint, pytest.raises(GateUndecided) as caught:
        gate.evaluate(endpoint.scorer, settings(), samples(8), TRIAL)

    assert caught.value.details == ("'blue' answered instead of 'green'",)


def test_what_was_sent_again_is_told() -> None:
    refused: set[str] = set()

    def reply(asked: Asked) -> Reply:
        if asked.slot == "green" and asked.question == "question 3" and not refused:
            refused.add(asked.question)
            return Reply("", 429, {"Retry-After": "0"})
        return right(asked)

    with answering(reply) as endpoint:
        report = gate.evaluate(endpoint.scorer, settings(warmup=0), samples(8), TRIAL)

    assert (report.verdict, report.candidate.retried) == ("pass", 1)
    assert "'green' said \"not now\" to 1 of 8 requests" in report.notes[0]
