from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops import gate
from mlops.endpoint import Answer, pause_s, texts_of
from mlops.errors import PreconditionError
from mlops.settings import Gate


def answer(text: str | None, *, latency_ms: float = 10.0) -> Answer:
    if text is None:
        return Answer(status=500, latency_ms=latency_ms, error="HTTP 500")
    return Answer(status=200, latency_ms=latency_ms, texts=(text,))


def measured(**values: Any) -> gate.Measured:
    good = {"slot": "green", "requests": 10, "success_rate": 1.0, "p50_ms": 20.0, "p95_ms": 30.0}
    return gate.Measured(**{**good, "exact_match": 0.9, "rouge_l": 0.95, **values})


STRICT = Gate(
    min_success_rate=1.0, max_p95_ms=100, min_exact_match=0.8, min_rouge_l=0.9, max_loss=0.05, max_latency_ratio=2
)


def passes(candidate: gate.Measured, live: gate.Measured | None = None) -> bool:
    return all(check.passed for check in gate.judge(STRICT, candidate, live))


def test_a_good_slot_passes_alone_and_beside_an_equal_one() -> None:
    assert passes(measured())
    assert passes(measured(), measured(slot="blue"))


@pytest.mark.parametrize(
    "values",
    [{"success_rate": 0.98}, {"p95_ms": 101.0}, {"exact_match": 0.79}, {"rouge_l": 0.89}],
)
def test_one_missed_threshold_is_enough(values: dict[str, float]) -> None:
    assert not passes(measured(**values))


@pytest.mark.parametrize("name", ["success_rate", "p95_ms", "exact_match", "rouge_l"])
def test_nan_never_passes(name: str) -> None:
    assert not passes(measured(**{name: math.nan}))


def test_a_slot_that_is_worse_than_the_live_one_fails_though_it_meets_its_thresholds() -> None:
    assert not passes(measured(exact_match=0.9), measured(slot="blue", exact_match=1.0))
    assert not passes(measured(p50_ms=50.0), measured(slot="blue", p50_ms=20.0))


def test_a_live_slot_that_is_down_is_no_measure() -> None:
    dead = measured(slot="blue", success_rate=0.0, exact_match=0.0, rouge_l=0.0, p50_ms=math.nan)

    assert passes(measured(), dead)


def test_a_threshold_of_null_is_reported_and_decides_nothing() -> None:
    checks = gate.judge(STRICT.model_copy(update={"min_exact_match": None}), measured(exact_match=0.0), None)
    found = next(check for check in checks if check.name == "exact match")

    assert found.passed
    assert found.measured == 0.0
    assert gate.threshold(found) == "reported only"


@given(st.lists(st.sampled_from(["right", "wrong", None]), max_size=30))
def test_a_failed_request_scores_as_a_wrong_answer(texts: list[str | None]) -> None:
    found = gate.measure("green", [answer(text) for text in texts], ["right"] * len(texts))

    assert found.requests == len(texts)
    if not texts:
        assert math.isnan(found.success_rate)
        assert math.isnan(found.exact_match)
    else:
        assert found.exact_match == pytest.approx(texts.count("right") / len(texts))
        assert found.success_rate == pytest.approx(1 - texts.count(None) / len(texts))


@given(st.lists(st.floats(0, 1e6), min_size=1), st.sampled_from([0.5, 0.95, 0.99, 1.0]))
def test_a_percentile_is_a_measured_value_that_enough_others_do_not_exceed(values: list[float], share: float) -> None:
    ordered = sorted(values)
    found = gate.percentile(ordered, share)

    assert found in ordered
    assert sum(value <= found for value in ordered) >= share * len(ordered)


def rows(count: int) -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}]}
        for n in range(count)
    ]


def test_the_same_seed_draws_the_same_conversations_and_never_one_twice() -> None:
    first = gate.draw(rows(100), count=20, seed=1)

    assert first == gate.draw(rows(100), count=20, seed=1)
    assert first != gate.draw(rows(100), count=20, seed=2)
    assert len({sample.reference for sample in first}) == 20
    assert len(gate.draw(rows(3), count=20, seed=1)) == 3


def test_rows_without_a_reference_are_no_samples() -> None:
    with pytest.raises(PreconditionError):
        gate.draw([{"messages": [{"role": "user", "content": "q"}]}], count=1, seed=1)


def test_the_last_answer_is_the_reference_and_not_in_the_request() -> None:
    sample = gate.draw(rows(1), count=1, seed=1)[0]

    request = gate.payload(sample, {"do_sample": False})
    assert request["input_data"]["input_string"] == [{"role": "user", "content": "q0"}]
    assert sample.reference == "a0"


def test_scores_do_not_see_case_and_space() -> None:
    assert gate.exact_match("  The  Answer ", "the answer") == 1
    assert gate.exact_match(None, "") == 0
    assert gate.rouge_l("the answer is blue", "the answer is blue") == 1
    assert gate.rouge_l("", "x") == 0


def report(*, passed: bool) -> gate.Report:
    candidate = measured(exact_match=0.9 if passed else 0.1)
    return gate.Report(
        schema_version=gate.SCHEMA_VERSION,
        endpoint="chat",
        model="m:1",
        passed=passed,
        candidate=candidate,
        live=None,
        checks=tuple(gate.judge(STRICT, candidate, None)),
        worst=(gate.WorstAnswer(prompt="p | q", reference="r", answer="a", rouge_l=0.2),),
        errors=(),
    )


def test_a_report_is_written_whole_as_json_and_markdown(tmp_path: Path) -> None:
    folder = gate.write(report(passed=False), tmp_path / "reports" / "one", logs={"server": "boom"})

    document = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert document["schema_version"] == 1
    assert document["passed"] is False
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "✕ failed" in text
    assert "p \\| q" in text
    assert (folder / "server.log").read_text(encoding="utf-8") == "boom"
    assert [path.name for path in folder.parent.iterdir()] == ["one"]


@pytest.mark.parametrize(
    ("body", "texts"),
    [
        ({"output": "a"}, ("a",)),
        ({"output": ["a", "b"]}, ("a", "b")),
        ([{"0": "a"}, {"0": "b"}], ("a", "b")),
        (["a"], ("a",)),
    ],
)
def test_answers_of_both_scoring_paths_are_read(body: Any, texts: tuple[str, ...]) -> None:
    assert texts_of(body) == texts


@pytest.mark.parametrize("body", [{}, {"output": None}, {"output": []}, [], [1], "text", {"error": "x"}])
def test_anything_else_is_no_answer(body: Any) -> None:
    with pytest.raises(ValueError, match="no text"):
        texts_of(body)


def test_the_servers_word_on_waiting_wins() -> None:
    assert pause_s("3", 0) == 3
    assert pause_s("100", 0) == 30
    assert pause_s(None, 0) < pause_s(None, 2)
    assert pause_s("Fri, 20 Nov 2026 11:00:00 GMT", 1) == pause_s(None, 1)
