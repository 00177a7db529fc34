from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops import gate
from mlops.gate.contract import TRANSPORT
from mlops.gate.measurement import percentile
from tests.unit.gate.made import STRICT, answer, sample


@given(st.lists(st.sampled_from(["right", "wrong", "", None, 0, 401, 408, 429]), max_size=30))
def test_transport_errors_are_no_wrong_answers_and_failed_requests_are(kinds: list[str | int | None]) -> None:
    answers = [answer(None, status=kind) if isinstance(kind, int) else answer(kind) for kind in kinds]

    found = gate.measure("green", answers, [sample("q", "right")] * len(kinds), STRICT)

    lost = sum(kind in TRANSPORT for kind in kinds)
    reached = len(kinds) - lost
    good = sum(isinstance(kind, str) for kind in kinds)
    assert (found.requests, found.reached) == (len(kinds), reached)
    assert found.transport_error_rate == pytest.approx(lost / len(kinds) if kinds else math.nan, nan_ok=True)
    assert found.success_rate == pytest.approx(good / reached if reached else math.nan, nan_ok=True)
    kept = good - kinds.count("")
    assert found.contract_rate == pytest.approx(kept / good if good else math.nan, nan_ok=True)
    expected = kinds.count("right") / reached if reached else math.nan
    assert found.scores["exact_match"] == pytest.approx(expected, nan_ok=True)
    assert len(found.latencies_ms) == good


def test_speed_is_counted_in_the_tokens_that_the_server_tells() -> None:
    answers = [answer("a", latency_ms=100, tokens=10), answer("b", latency_ms=50, tokens=20), answer("c", latency_ms=9)]

    found = gate.measure("green", answers, [sample()] * 3, STRICT, seconds=0.5)

    assert found.ms_per_token == pytest.approx(150 / 30)
    assert found.tokens_per_s == pytest.approx(60)


def test_without_counts_or_time_there_is_no_speed() -> None:
    bare = gate.measure("green", [answer("a")], [sample()], STRICT, seconds=0.5)
    timeless = gate.measure("green", [answer("a", tokens=3)], [sample()], STRICT)

    assert math.isnan(bare.ms_per_token)
    assert math.isnan(bare.tokens_per_s)
    assert math.isnan(timeless.tokens_per_s)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.sampled_from([0.5, 0.95, 0.99, 1.0]))
def test_a_percentile_is_a_measured_value_that_enough_others_do_not_exceed(values: list[float], share: float) -> None:
    ordered = sorted(values)
    found = percentile(ordered, share)

    assert found in ordered
    assert sum(value <= found for value in ordered) >= share * len(ordered)
    assert percentile(ordered, 0.5) <= statistics.median_high(ordered)
