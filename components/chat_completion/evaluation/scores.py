"""How good answers are: the loss on the references, how alike the two are, and what the answers look like."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from chat_completion.chat_model import rotation_border
from chat_completion.data.tokens import IGNORED, Example

SHORT_WORDS = 20
"""A reference of so many words at most may be expected to the letter; exact match is taken over those alone."""

PHRASE = 4
"""Repetition counts phrases of so many words: seq-rep-4 of Welleck et al., 'Neural Text Generation with Unlikelihood
Training' (2019)."""

MAX_LOGITS = 1 << 27
"""Logits of one forward pass, half a gigabyte in 32 bits. Conversations that need more go one at a time."""

RESAMPLES = 1000
SEED = 42


class CompletionLike(Protocol):
    """An answer as a model gives it."""

    @property
    def text(self) -> str: ...  # noqa: D102
    @property
    def completion_tokens(self) -> int: ...  # noqa: D102
    @property
    def finish_reason(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class Scores:
    """A model's scores on a set of conversations.

    Attributes:
        loss: mean negative log-likelihood per answer token, in nats.
        perplexity: its exponential.
        rouge_l: mean F1 of the longest common subsequence of words.
        exact_match: share of the answers equal to their reference, case and white space aside, among those with a
            short reference (`SHORT_WORDS`); NaN where no reference is short.
        answer_tokens: mean length of an answer, the token that ends it included.
        unfinished: share of the answers that the limit of tokens cut off.
        empty: share of the answers without a word.
        repetition: mean share of an answer's four-word phrases that stood in it before.
    """

    loss: float
    perplexity: float
    rouge_l: float
    exact_match: float
    answer_tokens: float
    unfinished: float
    empty: float
    repetition: float


@dataclass(frozen=True)
class Losses:
    """Negative log-likelihood of each conversation's answers, in nats, and how many tokens it was summed over."""

    sums: tuple[float, ...]
    tokens: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Per token, over all conversations."""
        return sum(self.sums) / sum(self.tokens) if sum(self.tokens) else math.nan

    @property
    def each(self) -> list[float]:
        """Per token, for every conversation."""
        return [total / count if count else math.nan for total, count in zip(self.sums, self.tokens, strict=True)]


def split_words(text: str) -> list[str]:
    """Lower-case words and numbers, as ROUGE takes them (Lin 2004; the tokenisation is the rouge-score package's)."""
    return re.findall(r"[a-z0-9]+", text.lower())


def common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for item in first:
        previous = 0
        for index, other in enumerate(second, start=1):
            previous, row[index] = row[index], previous + 1 if item == other else max(row[index], row[index - 1])
    return row[-1]


def rouge_l(reference: str, answer: str) -> float:
    """ROUGE-L's F1, from 0 to 1; without stemming. Two texts without a word score 0, as in rouge-score."""
    expected, tokens = split_words(reference), split_words(answer)
    common = common_subsequence(expected, tokens)
    if not common:
        return 0.0
    precision, recall = common / len(tokens), common / len(expected)
    return 2 * precision * recall / (precision + recall)


def exact_match(reference: str, answer: str) -> bool:
    """Whether an answer says its reference, case and white space aside."""
    return " ".join(reference.split()).casefold() == " ".join(answer.split()).casefold()


def is_short(reference: str) -> bool:
    """Whether a reference can be expected to the letter."""
    return len(reference.split()) <= SHORT_WORDS


def repetition(text: str) -> float:
    """The share of a text's phrases of `PHRASE` words that stood in it before; 0 for a text too short to have two."""
    tokens = text.lower().split()
    phrases = [tuple(tokens[start : start + PHRASE]) for start in range(len(tokens) - PHRASE + 1)]
    return 1 - len(set(phrases)) / len(phrases) if phrases else 0.0


def measure_losses(model: Any, examples: Sequence[Example], *, pad_id: int, batch_rows: int) -> Losses:
    """Each conversation's loss. Logits are computed where a label is and nowhere else.

    Args:
        model: a causal language model of transformers.
        examples: the conversations.
        pad_id: the padding token; padding is on the right, and masked.
        batch_rows: conversations per forward pass at most; long ones go in smaller company.
    """
    import torch
    from torch.nn.functional import cross_entropy

    border = rotation_border(model.config)
    vocabulary = int(model.config.get_text_config().vocab_size)
    order = sorted(range(len(examples)), key=lambda index: len(examples[index].input_ids), reverse=True)
    sums, tokens = [0.0] * len(examples), [0] * len(examples)
    with torch.inference_mode():
        while order:
            width = len(examples[order[0]].input_ids)
            # Company of about the same length, so that at most half of a row is padding, and turned alike.
            least = max(-(-width // 2), border + 1 if border is not None and width > border else 0)
            group = [index for index in order[:batch_rows] if len(examples[index].input_ids) >= least]
            group = group[: max(1, MAX_LOGITS // (width * vocabulary))]
            del order[: len(group)]
            ids = torch.full((len(group), width), pad_id)
            labels = torch.full((len(group), width), IGNORED)
            mask = torch.zeros((len(group), width), dtype=torch.long)
            for row, index in enumerate(group):
                length = len(examples[index].input_ids)
                ids[row, :length] = torch.tensor(examples[index].input_ids)
                labels[row, :length] = torch.tensor(examples[index].labels)
                mask[row, :length] = 1
            columns = (labels[:, 1:] != IGNORED).any(dim=0).nonzero().squeeze(1)
            targets = labels[:, 1:][:, columns]
            ids, mask, positions = ids.to(model.device), mask.to(model.device), columns.to(model.device)
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=positions).logits
            flat = targets.to(logits.device).flatten()
            losses = cross_entropy(logits.float().flatten(0, 1), flat, ignore_index=IGNORED, reduction="none")
            for index, total, labelled in zip(group, losses.view(targets.shape).sum(1), targets, strict=True):
                sums[index], tokens[index] = float(total), int((labelled != IGNORED).sum())
    return Losses(tuple(sums), tuple(tokens))


def change_interval(base: Losses, tuned: Losses) -> tuple[float, float]:
    """The 95 % interval of how much the mean loss has changed, by a bootstrap over the conversations, in pairs."""
    import numpy as np

    change, tokens = np.subtract(tuned.sums, base.sums), np.asarray(base.tokens)
    if not tokens.sum():
        return math.nan, math.nan
    draws = np.random.default_rng(SEED).integers(len(tokens), size=(RESAMPLES, len(tokens)))
    low, high = np.quantile(change[draws].sum(axis=1) / tokens[draws].sum(axis=1), (0.025, 0.975))
    return float(low), float(high)


def score_answers(references: Sequence[str], answers: Sequence[CompletionLike], *, loss: float) -> Scores:
    """The scores of a model whose loss is known already."""
    pairs = [(reference, answer.text) for reference, answer in zip(references, answers, strict=True)]
    short = [exact_match(*pair) for pair in pairs if is_short(pair[0])]
    rows = len(pairs) or 1
    return Scores(
        loss=loss,
        perplexity=math.exp(min(loss, 700.0)),
        rouge_l=sum(rouge_l(*pair) for pair in pairs) / rows,
        exact_match=sum(short) / len(short) if short else math.nan,
        answer_tokens=sum(answer.completion_tokens for answer in answers) / rows,
        unfinished=sum(answer.finish_reason == "length" for answer in answers) / rows,
        empty=sum(not answer.text.strip() for answer in answers) / rows,
        repetition=sum(repetition(answer.text) for answer in answers) / rows,
    )
