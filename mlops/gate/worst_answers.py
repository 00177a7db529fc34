"""The answers that the report shows: those furthest from their references."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlops.gate.contract import TRANSPORT, contract_violation
from mlops.gate.measurement import Scores, mean, text_of
from mlops.gate.report import WorstAnswer, cut

if TYPE_CHECKING:
    from mlops.gate.samples import Sample
    from mlops.scoring.client import Answer

WORST = 5


def worst_answers(samples: Sequence[Sample], answers: Sequence[Answer], scores: Scores) -> list[WorstAnswer]:
    """The answers furthest from their references by the mean of their scores; requests that reached nothing aside."""
    shown_answers = []
    for at, (sample, answer) in enumerate(zip(samples, answers, strict=True)):
        if answer.status in TRANSPORT:
            continue
        text = text_of(answer)
        own = {name: value for name, values in scores.items() if (value := values[at]) is not None}
        broken = contract_violation(answer, sample) if answer.status == 200 else "http"
        shown_answers.append(
            WorstAnswer(
                prompt=cut(sample.prompt),
                reference=cut(sample.reference),
                answer=cut(text if text is not None else f"({answer.error})"),
                scores=own,
                flaw=broken,
            )
        )
    short = [item for item in shown_answers if item.flaw or not mean(list(item.scores.values())) >= 1]
    return sorted(short, key=lambda item: (item.flaw is None, _order(item)))[:WORST]


def _order(item: WorstAnswer) -> float:
    value = mean(list(item.scores.values()))
    return value if value == value else -1.0  # NaN is the worst
