from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops.config.settings import Gate, Quality
from mlops.gate.comparison import compare, interval, verdict

SCORE = st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0])
PAIRS = st.lists(st.tuples(SCORE, SCORE), min_size=1, max_size=25)
ONE = Gate(quality={"rouge_l": Quality(max_loss=0.05)})
RANK = {"fail": 0, "inconclusive": 1, "pass": 2}


def compared(ours: list[float | None], theirs: list[float | None]) -> str:
    return compare(ONE, {"rouge_l": ours}, {"rouge_l": theirs})[0].verdict


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30), st.floats(0.51, 0.99), st.integers(0, 5))
def test_the_interval_holds_the_mean_and_is_the_same_again(values: list[float], confidence: float, seed: int) -> None:
    low, high = interval(values, confidence=confidence, seed=seed)

    mean = math.fsum(values) / len(values)
    assert low - 1e-9 <= mean <= high + 1e-9
    assert min(values) - 1e-9 <= low
    assert high <= max(values) + 1e-9
    assert (low, high) == interval(values, confidence=confidence, seed=seed)


def test_equal_differences_are_certain() -> None:
    assert interval([0.0] * 12, confidence=0.95, seed=1) == (0, 0)
    assert interval([-0.25], confidence=0.95, seed=1) == (-0.25, -0.25)


@pytest.mark.parametrize("values", [[], [math.nan], [0.1, math.nan, 0.2]])
def test_nan_and_nothing_have_no_interval_and_fail(values: list[float]) -> None:
    low, high = interval(values, confidence=0.95, seed=1)

    assert math.isnan(low)
    assert verdict(low, high, max_loss=0.05) == "fail"
    assert verdict(low, high, max_loss=None) == "fail"


def test_the_interval_is_as_wide_as_its_confidence_says() -> None:
    """Coverage: about 90 of 100 intervals of 90 % hold the true mean."""
    draw = random.Random(7)
    held = 0
    for trial in range(100):
        low, high = interval([draw.gauss(0.1, 1) for _ in range(60)], confidence=0.9, seed=trial)
        held += low <= 0.1 <= high

    assert 82 <= held <= 97


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.05, 0.2, "pass"),
        (0.01, 0.02, "pass"),
        (-0.06, -0.05, "inconclusive"),
        (-0.2, 0.2, "inconclusive"),
        (-0.2, -0.06, "fail"),
        (math.nan, 0.0, "fail"),
    ],
)
def test_three_verdicts(low: float, high: float, expected: str) -> None:
    assert verdict(low, high, max_loss=0.05) == expected


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.data())
def test_better_scores_never_make_the_verdict_worse(pairs: list[tuple[float, float]], data: st.DataObject) -> None:
    ours = [one for one, _ in pairs]
    theirs: list[float | None] = [other for _, other in pairs]
    better: list[float | None] = [
        data.draw(st.sampled_from([s for s in (0, 0.25, 0.5, 0.9, 1) if s >= one])) for one in ours
    ]

    assert RANK[compared(better, theirs)] >= RANK[compared(list(ours), theirs)]


def test_only_prompts_that_reached_both_are_compared() -> None:
    found = compare(ONE, {"rouge_l": [1.0, None, 0.0, 1.0]}, {"rouge_l": [1.0, 1.0, None, 1.0]})[0]

    assert (found.pairs, found.difference, found.verdict) == (2, 0, "pass")
    assert compared([None], [1.0]) == "fail"


def test_the_same_mean_is_clear_with_many_samples_and_unclear_with_few() -> None:
    draw = random.Random(1)

    def scores(count: int) -> tuple[list[float | None], list[float | None]]:
        found = [(float(draw.random() < 0.9), float(draw.random() < 0.9)) for _ in range(count)]
        return [one for one, _ in found], [other for _, other in found]

    assert compared(*scores(20)) == "inconclusive"
    assert compared(*scores(2000)) == "pass"
