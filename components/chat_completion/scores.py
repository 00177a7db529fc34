"""How good answers are: the loss on the references, and how alike answers and references are."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chat_completion.tokens import IGNORED, Example


@dataclass(frozen=True)
class Scores:
    """A model's scores on a split.

    Attributes:
        loss: mean negative log-likelihood per answer token, in nats.
        perplexity: its exponential.
        exact_match: share of answers equal to their reference, case and outer white space aside.
        rouge_l: mean F1 of the longest common subsequence of words.
    """

    loss: float
    perplexity: float
    exact_match: float
    rouge_l: float


def words(text: str) -> list[str]:
    """Lower-case words and numbers, as ROUGE takes them (Lin 2004; the tokenisation is the rouge-score package's)."""
    return re.findall(r"[a-z0-9]+", text.lower())


def common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(right) + 1)
    for item in left:
        previous = 0
        for index, other in enumerate(right, start=1):
            previous, row[index] = row[index], previous + 1 if item == other else max(row[index], row[index - 1])
    return row[-1]


def rouge_l(reference: str, answer: str) -> float:
    """ROUGE-L's F1, from 0 to 1; without stemming. Two texts without a word score 0, as in rouge-score."""
    expected, found = words(reference), words(answer)
    common = common_subsequence(expected, found)
    if not common:
        return 0.0
    precision, recall = common / len(found), common / len(expected)
    return 2 * precision * recall / (precision + recall)


def exact_match(reference: str, answer: str) -> bool:
    """Whether an answer says its reference, case and white space aside."""
    return " ".join(reference.split()).casefold() == " ".join(answer.split()).casefold()


def mean_loss(model: Any, examples: Sequence[Example], *, pad_id: int, batch_rows: int) -> float:
    """The mean loss per labelled token over all examples, in nats."""
    import torch
    from torch.nn.functional import cross_entropy

    from chat_completion.training import Collator

    collate = Collator(pad_id)
    ordered = sorted(examples, key=lambda example: len(example.input_ids))
    total, count = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(ordered), batch_rows):
            batch = {
                name: value.to(model.device) for name, value in collate(ordered[start : start + batch_rows]).items()
            }
            labels = batch.pop("labels")[:, 1:]
            logits = model(**batch, use_cache=False).logits[:, :-1]
            kept = labels != IGNORED
            total += float(cross_entropy(logits[kept].float(), labels[kept], reduction="sum"))
            count += int(kept.sum())
    return total / count if count else math.nan


def score_answers(references: Sequence[str], answers: Sequence[str], *, loss: float) -> Scores:
    """The scores of a model whose loss is known already."""
    pairs = list(zip(references, answers, strict=True))
    rows = len(pairs) or 1
    return Scores(
        loss=loss,
        perplexity=math.exp(min(loss, 700.0)),
        exact_match=sum(exact_match(*pair) for pair in pairs) / rows,
        rouge_l=sum(rouge_l(*pair) for pair in pairs) / rows,
    )
