from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat_completion.chat_model import Completion
from chat_completion.data.tokens import IGNORED, Example
from chat_completion.evaluate import Question, question_of
from chat_completion.evaluation.scores import (
    SHORT_WORDS,
    Losses,
    change_interval,
    common_subsequence,
    exact_match,
    repetition,
    rouge_l,
    score_answers,
)
from tests.unit.components.conftest import COMPONENTS

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


texts = st.lists(st.sampled_from("abc"), max_size=8)


@given(texts, texts)
def test_common_subsequence(first: list[str], second: list[str]) -> None:
    length = common_subsequence(first, second)
    assert length == common_subsequence(second, first)
    assert length <= min(len(first), len(second))
    assert common_subsequence(first, first + second) == len(first)


def test_exact_match_forgives_case_and_white_space_alone() -> None:
    assert exact_match("The  Swift\n", "the swift")
    assert not exact_match("The Swift.", "The Swift")


def answer(text: str, *, tokens: int = 3, finish: str = "stop") -> Completion:
    return Completion(text, prompt_tokens=1, completion_tokens=tokens, finish_reason=finish)


def test_scores() -> None:
    long = "word " * (SHORT_WORDS + 1)
    answers = [answer("a b"), answer("d", tokens=5), answer(long), answer(" ", tokens=1, finish="length")]
    scores = score_answers(["a b", "c", long, "e"], answers, loss=0.0)
    assert (scores.perplexity, scores.exact_match, scores.rouge_l) == (1.0, 1 / 3, 0.5)
    assert (scores.answer_tokens, scores.unfinished, scores.empty) == (3.0, 0.25, 0.25)
    assert scores.repetition == pytest.approx((1 - 1 / (SHORT_WORDS - 2)) / 4)


def test_exact_match_is_not_taken_over_long_references() -> None:
    long = "word " * (SHORT_WORDS + 1)
    assert math.isnan(score_answers([long], [answer(long)], loss=1.0).exact_match)


def test_repetition_counts_phrases_of_four_words() -> None:
    assert repetition("one two three") == 0
    assert repetition("one two three four five") == 0
    assert repetition("a b c d a b c d") == pytest.approx(1 / 5)


losses = st.lists(st.tuples(st.floats(0, 50), st.floats(0, 50), st.integers(1, 40)), min_size=1, max_size=20)


@given(losses)
def test_the_change_of_the_loss_lies_in_its_interval(rows: list[tuple[float, float, int]]) -> None:
    tokens = tuple(count for _, _, count in rows)
    base, tuned = Losses(tuple(row[0] for row in rows), tokens), Losses(tuple(row[1] for row in rows), tokens)
    low, high = change_interval(base, tuned)
    each = [(after - before) / count for before, after, count in rows]
    assert min(each) - 1e-9 <= low <= high <= max(each) + 1e-9
    if len(rows) == 1:
        assert low == pytest.approx(tuned.mean - base.mean) == pytest.approx(high)


def test_losses_are_those_of_each_conversation_by_itself() -> None:
    # In a process of its own: torch warns while it is imported.
    program = """
import torch
from torch.nn.functional import cross_entropy
from transformers import Phi3Config, Phi3ForCausalLM
from chat_completion.evaluation import scores
from chat_completion.data.tokens import IGNORED, Example

torch.manual_seed(1)
turned = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8,
          "original_max_position_embeddings": 21}
models = [
    Phi3ForCausalLM(
        Phi3Config(vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
                   num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2, initializer_range=0.3,
                   original_max_position_embeddings=21, rope_parameters=rope)
    ).eval()
    for rope in (None, turned)
]
examples = []
for length in (3, 40, 7, 21, 22, 5, 2):
    ids = torch.randint(3, 50, (length,)).tolist()
    examples.append(Example(ids, [token if at % 3 == 2 else IGNORED for at, token in enumerate(ids)]))
for model in models:
    for batch_rows, logits in ((1, 1 << 27), (3, 1 << 27), (64, 1 << 27), (64, 50 * 30)):
        scores.MAX_LOGITS = logits
        found = scores.measure_losses(model, examples, pad_id=0, batch_rows=batch_rows)
        for at, example in enumerate(examples):
            with torch.inference_mode():
                alone = model(input_ids=torch.tensor([example.input_ids]), use_cache=False).logits[0, :-1]
            wanted = torch.tensor(example.labels)[1:]
            total = cross_entropy(alone, wanted, ignore_index=IGNORED, reduction="sum")
            assert abs(found.sums[at] - float(total)) < 1e-4, (batch_rows, at)
            assert found.tokens[at] == int((wanted != IGNORED).sum())
print("same")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=COMPONENTS, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "same", done.stderr


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
