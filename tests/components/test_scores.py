from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat_completion.evaluate import Question, question_of
from chat_completion.scores import common_subsequence, exact_match, rouge_l, score_answers
from chat_completion.tokens import IGNORED, Example

PAIRS = [
    ("The Swift has a motor of 250 watts.", "The Swift has a motor of 180 watts."),
    ("a b c", "c b a"),
    ("one", "one"),
    ("", "x"),
    ("...", "..."),
    ("It's 5 o'clock", "its five oclock"),
]


def test_rouge_l_is_that_of_the_rouge_score_package() -> None:
    # In a process of its own: that package warns while it is imported.
    program = (
        "import json, sys; from rouge_score.rouge_scorer import RougeScorer; s = RougeScorer(['rougeL']);"
        "print(json.dumps([s.score(a, b)['rougeL'].fmeasure for a, b in json.loads(sys.argv[1])]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(PAIRS)], capture_output=True, text=True, check=True
    )
    assert [rouge_l(*pair) for pair in PAIRS] == pytest.approx(json.loads(done.stdout))


words = st.lists(st.sampled_from("abc"), max_size=8)


@given(words, words)
def test_common_subsequence(left: list[str], right: list[str]) -> None:
    length = common_subsequence(left, right)
    assert length == common_subsequence(right, left)
    assert length <= min(len(left), len(right))
    assert common_subsequence(left, left + right) == len(left)


def test_exact_match_forgives_case_and_white_space_alone() -> None:
    assert exact_match("The  Swift\n", "the swift")
    assert not exact_match("The Swift.", "The Swift")


def test_scores() -> None:
    scores = score_answers(["a b", "c"], ["a b", "d"], loss=0.0)
    assert (scores.perplexity, scores.exact_match, scores.rouge_l) == (1.0, 0.5, 0.5)


@pytest.mark.parametrize(
    ("example", "question"),
    [
        (Example([1, 2, 3, 4], [IGNORED, IGNORED, 3, 4]), Question([1, 2], [3, 4])),
        (Example([1, 2, 3, 4, 5], [IGNORED, 2, IGNORED, 4, IGNORED]), Question([1, 2, 3], [4])),
        (Example([1, 2], [IGNORED, 2], truncated=True), None),
        (Example([1, 2], [IGNORED, IGNORED]), None),
        (Example([1], [1]), None),
    ],
)
def test_the_last_turn_is_asked(example: Example, question: Question | None) -> None:
    assert question_of(example) == question
