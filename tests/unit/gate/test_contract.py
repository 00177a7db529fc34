from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.gate.contract import REPEATS, SAME_CHARACTER, contract_violation, is_degenerate
from mlops.scoring.client import Answer
from tests.support.checkout import ROOT
from tests.unit.gate.made import answer, sample

BUNDLED = ROOT / "data" / "bundled" / "data"


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("it is blue", None),
        ("  IT is   blue ", None),
        ("", "empty"),
        (" \n\t", "empty"),
        ("What is it, and where does it stand today?", "echo"),
        ("what is it, and  where does it stand today? It is blue.", "echo"),
        ("You ask what is it, and where does it stand today? It is blue.", None),
        ("it is it is it is it is it is it is it is it is it i", "repeats"),
        ("no. " * REPEATS, "repeats"),
        ("no. " * (REPEATS - 1), None),
        ("the list: " + "a, b, c, d, " * REPEATS + "a, b", "repeats"),
        ("Good. " + "!" * SAME_CHARACTER, "repeats"),
        ("| --- | --- | --- | --- |", None),
    ],
)
def test_an_answer_keeps_the_contract_or_breaks_it_in_one_way(text: str, broken: str | None) -> None:
    assert contract_violation(answer(text), sample("What is it, and where does it stand today?")) == broken


def test_an_answer_of_another_shape_breaks_it() -> None:
    assert contract_violation(Answer(status=200, latency_ms=1, error="no text"), sample()) == "shape"
    assert contract_violation(Answer(status=200, latency_ms=1), sample()) == "shape"


def test_a_short_prompt_may_begin_its_answer_and_the_reference_is_always_right() -> None:
    assert contract_violation(answer("Yes? Then begin."), sample("Yes?")) is None
    assert contract_violation(answer("Yes?"), sample("Yes?")) == "echo"
    assert contract_violation(answer("Yes?"), sample("Yes?", "yes?")) is None
    long = "Say this after me, word by word, please."
    assert contract_violation(answer(long + " I did."), sample(long, long + " There it is.")) is None
    assert contract_violation(answer("la " * 50), sample("sing", "La " * 50)) is None


@given(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=4), st.integers(0, 30), st.text(max_size=30))
def test_a_run_is_found_whatever_comes_before_and_wherever_it_is_cut(phrase: list[str], cut: int, before: str) -> None:
    words = ["word" + letter for letter in phrase]
    whole = " ".join(words * (REPEATS + 1))
    text = before + " " + whole[: len(whole) - min(cut, len(" ".join(words)))]

    assert is_degenerate(text)


@pytest.mark.parametrize("split", ["test_gen", "test_sft"])
def test_no_reference_of_the_bundled_chats_is_degenerate(split: str) -> None:
    lines = (BUNDLED / f"{split}-00000-of-00001.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [m["content"] for line in lines for m in json.loads(line)["messages"] if m["role"] == "assistant"]

    assert answers
    assert not [text for text in answers if is_degenerate(text)]
