"""What a training has shown, held against the settings."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.config.settings import Evaluation, Limit, load
from mlops.core.errors import UsageError
from mlops.training.evaluation import MEASURES, OWN, judge, judgement_of
from tests.support.checkout import ROOT

GOOD = {
    "base_loss": 1.5,
    "tuned_loss": 1.2,
    "base_general_loss": 1.0,
    "tuned_general_loss": 1.1,
    "base_empty": 0.0,
    "tuned_empty": 0.0,
    "base_repetition": 0.1,
    "tuned_repetition": 0.1,
    "tuned_exact_match": 0.9,
    "base_exact_match": 0.2,
    "eval_loss": 1.3,
}


def limits(**measures: Any) -> Evaluation:
    return Evaluation.model_validate(measures)


def test_the_measures_are_those_that_the_component_takes() -> None:
    from chat_completion.evaluation.scores import Scores

    taken = [field.name for field in dataclasses.fields(Scores)]
    measures = {*taken, *(f"general_{name}" for name in taken)}
    assert set(MEASURES) - OWN <= measures
    assert set(MEASURES) == set(Evaluation.model_fields) - {"required"}
    assert list(taken) == [name for name in MEASURES if name in taken]


@pytest.mark.parametrize("target", ["local", "staging", "production"])
def test_a_good_model_passes_what_is_asked_of_every_target(target: str) -> None:
    settings = load(target, ROOT / "mlops.yaml").training.evaluation

    assert judge(settings, GOOD).verdict == "passed"
    forgetful = judge(settings, {**GOOD, "tuned_general_loss": 2.0})
    assert forgetful.refused is (target != "local")
    assert judge(settings, {**GOOD, "tuned_loss": 1.6}).refused
    nothing = judge(settings, {"train_loss": 1.0})
    assert (nothing.verdict, nothing.refused) == ("not evaluated", False)
    assert "nothing was evaluated" in nothing.why


@pytest.mark.parametrize(
    ("values", "passes"),
    [
        ({"exact_match": {"min": 0.9}}, True),
        ({"exact_match": {"min": 0.91}}, False),
        ({"loss": {"max": 1.2}}, True),
        ({"loss": {"max": 1.19}}, False),
        ({"general_loss": {"max_rise": 0.1}}, True),
        ({"general_loss": {"max_rise": 0.0999}}, False),
        ({"loss": {"max_rise": -0.3}}, True),
        ({"loss": {"max_rise": -0.31}}, False),
        ({"loss": {"max_drop": 0.3}}, True),
        ({"loss": {"max_drop": 0.2}}, False),
        ({"eval_loss": {"max": 1.3}}, True),
        ({"eval_loss": {"max": 1.0}}, False),
    ],
)
def test_limits(values: dict[str, Any], passes: bool) -> None:
    result = judge(limits(**values), GOOD)

    assert result.refused is not passes
    assert result.verdict == ("passed" if passes else "failed")
    (name,) = values
    assert [check.measure for check in result.limited.checks] == [name]
    assert passes or MEASURES[name][0] in result.why


def test_a_loss_that_is_no_number_fails_where_the_base_has_one() -> None:
    broken = {name: value for name, value in GOOD.items() if name != "tuned_loss"}

    for values in ({"max": 5}, {"min": 0}, {"max_rise": 9}, {"max_drop": 9}):
        assert judge(limits(loss=values), broken).refused
        assert judge(limits(loss=values), {**GOOD, "tuned_loss": math.nan}).refused


def test_what_was_not_measured_warns_and_refuses_only_where_it_is_required() -> None:
    unmeasured = {"rouge_l": {"min": 0.5}}

    lenient = judge(limits(**unmeasured), GOOD)
    assert (lenient.refused, lenient.verdict) == (False, "not evaluated")
    assert "ROUGE-L" in lenient.why
    strict = judge(limits(required=True, **unmeasured), GOOD)
    assert (strict.refused, strict.verdict) == (True, "failed")
    assert judge(limits(required=True), {"eval_loss": 1.0}).refused
    assert not judge(limits(required=True), GOOD).refused


def test_nothing_asked_nothing_said() -> None:
    for metrics in (GOOD, {}):
        result = judge(limits(), metrics)
        assert (result.refused, result.verdict, result.why) == (False, "", "")


def test_the_table_fits_a_terminal() -> None:
    table = judge(load("production", ROOT / "mlops.yaml").training.evaluation, GOOD)

    assert max(map(len, table.limited.lines)) <= 76
    assert re.search(r"general: loss +1.0000 +1.1000 +\+0.1000 +change ≤ \+0.5000 +passed", "\n".join(table.lines))
    assert re.search(r"exact match +0.2000 +0.9000 +\+0.7000$", "\n".join(table.lines), flags=re.MULTILINE)


@given(st.dictionaries(st.sampled_from(sorted(MEASURES)), st.floats(-10, 10), max_size=5), st.data())
def test_looser_limits_never_refuse_more(tuned: dict[str, float], data: st.DataObject) -> None:
    metrics = {name if name in OWN else f"tuned_{name}": value for name, value in tuned.items()}
    metrics |= {f"base_{name}": data.draw(st.floats(-10, 10)) for name in tuned if name not in OWN}
    most, more = data.draw(st.floats(-10, 10)), data.draw(st.floats(0, 10))
    tight = judge(limits(loss=Limit(max=most, max_rise=most)), metrics)
    loose = judge(limits(loss=Limit(max=most + more, max_rise=most + more)), metrics)
    assert tight.refused or not loose.refused


def test_all_measures_are_shown_without_limits() -> None:
    assert {check.measure for check in judgement_of(GOOD).checks} == {
        "loss",
        "exact_match",
        "empty",
        "repetition",
        "general_loss",
        "eval_loss",
    }
    assert all(not check.verdict and not check.limit for check in judgement_of(GOOD).checks)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ("loss: {max_rise: 0.0}", "los: {max_rise: 0.0}"),
        ("loss: {max_rise: 0.0}", "loss: {rise: 0.0}"),
        ("loss: {max_rise: 0.0}", "loss: {max_rise: .nan}"),
        ("loss: {max_rise: 0.0}", "eval_loss: {max_rise: 0.0}"),
    ],
)
def test_a_wrong_limit_is_named_with_its_line(tmp_path: Path, wrong: str, named: str) -> None:
    text = (ROOT / "mlops.yaml").read_text(encoding="utf-8")
    assert text.count(f"      {wrong}") == 1
    text = text.replace(f"      {wrong}", f"      {named}")
    (tmp_path / "mlops.yaml").write_text(text, encoding="utf-8")

    with pytest.raises(UsageError) as refused:
        load("staging", tmp_path / "mlops.yaml")

    location = refused.value.location
    assert location is not None
    assert location.line == text[: text.index(named)].count("\n") + 1
    assert "training.evaluation" in refused.value.message
