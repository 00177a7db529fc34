from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops import gate
from mlops.config.settings import Gate, Quality
from mlops.core.errors import UsageError
from mlops.gate.judge import judge_latency, names
from tests.unit.gate.made import STRICT, answer, judged, measured

RATES = ["success_rate", "contract_rate", "transport_error_rate", "p95_ms"]


def verdict(candidate: gate.Measured, settings: Gate = STRICT) -> str:
    return gate.overall(gate.judge_absolute(settings, candidate))


def test_a_good_slot_passes() -> None:
    assert verdict(measured()) == "pass"


@pytest.mark.parametrize(
    "values",
    [
        {"success_rate": 0.98},
        {"contract_rate": 0.98},
        {"transport_error_rate": 0.06},
        {"p95_ms": 101.0},
        {"scores": {"exact_match": 0.79, "rouge_l": 1.0}},
        {"scores": {"exact_match": 1.0, "rouge_l": 0.89}},
        {"scores": {"exact_match": 1.0}},
        {"scores": {}},
    ],
)
def test_one_missed_threshold_or_missing_metric_is_enough(values: dict[str, Any]) -> None:
    assert verdict(measured(**values)) == "fail"


@pytest.mark.parametrize("name", RATES)
def test_nan_never_passes(name: str) -> None:
    assert verdict(measured(**{name: math.nan})) == "fail"


def test_a_metric_that_cannot_be_had_fails_even_without_a_minimum() -> None:
    compared = STRICT.model_copy(update={"quality": {"rouge_l": Quality(min=None, max_loss=0.05)}})
    reported = STRICT.model_copy(update={"quality": {"rouge_l": Quality(min=None, max_loss=None)}})

    assert verdict(measured(scores={"rouge_l": math.nan}), compared) == "fail"
    assert verdict(measured(scores={"rouge_l": math.nan}), reported) == "pass"


def test_nothing_asked_fails() -> None:
    assert verdict(gate.measure("green", [], [], STRICT)) == "fail"
    assert gate.overall([]) == "fail"


def test_time_per_token_counts_where_it_is_asked_for() -> None:
    strict = STRICT.model_copy(update={"max_ms_per_token": 1.0})

    assert verdict(measured(ms_per_token=2.0), strict) == "fail"
    assert verdict(measured(ms_per_token=math.nan), strict) == "fail"
    assert verdict(measured(ms_per_token=1.0), strict) == "pass"


@pytest.mark.parametrize(("p50_ms", "passed"), [(39.0, True), (41.0, False), (math.nan, False)])
def test_latency_beside_the_live_slot(p50_ms: float, passed: bool) -> None:
    found = judge_latency(STRICT, measured(p50_ms=p50_ms), measured(slot="blue", p50_ms=20.0))

    assert (found.name, found.passed) == ("latency_ratio", passed)


def test_each_check_can_be_put_in_dry_run() -> None:
    bad = measured(
        success_rate=0.0, contract_rate=math.nan, transport_error_rate=1.0, p95_ms=1e9, ms_per_token=1e9, scores={}
    )
    everything = STRICT.model_copy(update={"max_ms_per_token": 1.0})
    every = names(everything)
    dry = everything.model_copy(update={"dry_run": every})
    found = [*gate.judge_absolute(dry, bad), judge_latency(dry, bad, measured(p50_ms=1e-3))]

    assert [item.name for item in found] == [name for name in every if not name.endswith("_difference")]
    assert all(item.verdict == "fail" and not item.decisive and item.passed for item in found)
    assert gate.overall(found) == "pass"
    for name in (item.name for item in found[:-1]):
        one_less = everything.model_copy(update={"dry_run": [other for other in every if other != name]})
        assert verdict(bad, one_less) == "fail"


def test_a_comparison_in_dry_run_decides_nothing() -> None:
    right, wrong = [answer(f"it is number {at}") for at in range(8)], [answer("no idea")] * 8
    free = STRICT.model_copy(update={"quality": {"rouge_l": Quality()}})

    assert judged(free, wrong, right).verdict == "fail"
    dry = judged(free.model_copy(update={"dry_run": ["rouge_l_difference"]}), wrong, right)
    assert (dry.verdict, dry.comparisons[0].verdict) == ("pass", "fail")


def test_fail_beats_inconclusive_beats_pass() -> None:
    report = judged(STRICT, [answer(f"it is number {at}") for at in range(8)], [answer("no idea")] * 8)
    good, (first, *rest) = report.checks, report.comparisons
    unclear = [replace(first, verdict="inconclusive"), *rest]

    assert report.verdict == "pass"
    assert gate.overall(good, unclear) == "inconclusive"
    assert gate.overall([replace(good[0], verdict="fail"), *good[1:]], unclear) == "fail"


@pytest.mark.parametrize(
    ("update", "says"),
    [
        ({"dry_run": ["latency_p95"]}, "gate.dry_run: unknown check 'latency_p95'; did you mean 'latency_p95_ms'?"),
        ({"dry_run": ["x"]}, "known are success_rate"),
        ({"quality": {"rouge": Quality()}}, "gate.quality: 'rouge' is no metric"),
    ],
)
def test_settings_are_looked_at_before_anything_is_paid_for(update: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        gate.validate(STRICT.model_copy(update=update))

    assert says in caught.value.message
    gate.validate(STRICT)


@given(
    st.lists(st.sampled_from(["right", "wrong", "", None, 429]), min_size=1, max_size=12),
    st.data(),
)
def test_a_better_answer_never_turns_a_pass_into_a_failure(kinds: list[Any], data: st.DataObject) -> None:
    order = [None, "", "wrong", "right"]
    loose = Gate(
        min_success_rate=0.5,
        min_contract_rate=0.5,
        max_transport_error_rate=0.5,
        quality={"exact_match": Quality(min=0.3)},
    )

    def outcome(texts: list[Any]) -> str:
        answers = [answer(None, status=kind) if isinstance(kind, int) else answer(kind) for kind in texts]
        samples = [gate.Sample(({"role": "user", "content": "q"},), "right")] * len(texts)
        return verdict(gate.measure("green", answers, samples, loose), loose)

    better = [kind if kind == 429 else data.draw(st.sampled_from(order[order.index(kind) :])) for kind in kinds]
    # An answer that comes instead of an error may be empty: that is one more that breaks the contract.
    better = [old if old is None and new == "" else new for old, new in zip(kinds, better, strict=True)]
    assert not (outcome(kinds) == "pass" and outcome(better) == "fail")
