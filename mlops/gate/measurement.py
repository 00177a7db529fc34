"""What one slot showed: how often, how fast and how well it answered."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from mlops.gate.contract import TRANSPORT, Violation, contract_violation
from mlops.gate.quality import metrics, score

if TYPE_CHECKING:
    from mlops.config.settings import Gate
    from mlops.gate.samples import Sample
    from mlops.scoring.client import Answer


def _number(value: Any) -> Any:
    return math.nan if value is None else value


Number = Annotated[float, BeforeValidator(_number), WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "null"}]})]
"""A measured value: NaN where nothing could be measured, which JSON has as null."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one slot showed. Values are NaN where nothing could be measured.

    Attributes:
        slot: its name.
        requests: how many were sent.
        reached: how many of them reached the model; the others are transport errors, which say nothing of it.
        transport_error_rate: transport errors, of all requests.
        success_rate: HTTP 200, of those that reached the model.
        contract_rate: answers that keep the contract, of the HTTP 200s.
        p50_ms: latency of the HTTP 200s, by nearest rank; so are the other percentiles.
        ms_per_token: their latencies over their output tokens, together; NaN where the server counts no tokens.
        tokens_per_s: output tokens over the time that asking took (of all slots together).
        scores: mean of each quality metric over the requests that reached the model; one without text scores 0.
        flaws: what broke the contract, and how often.
        retried: requests that were sent again after "not now" (429 or 503).
        latencies_ms: of each HTTP 200, in the order of asking.
    """

    slot: str
    requests: int
    reached: int
    transport_error_rate: Number
    success_rate: Number
    contract_rate: Number
    p50_ms: Number
    p95_ms: Number
    p99_ms: Number
    ms_per_token: Number = math.nan
    tokens_per_s: Number = math.nan
    scores: Mapping[str, Number] = field(default_factory=dict)
    flaws: Mapping[Violation, int] = field(default_factory=dict)
    retried: int = 0
    latencies_ms: tuple[float, ...] = ()


Scores = Mapping[str, Sequence[float | None]]
"""Of each metric, one score per request in the order of the samples; None where the request reached no model."""


def measure(
    slot: str,
    answers: Sequence[Answer],
    samples: Sequence[Sample],
    settings: Gate,
    *,
    scores: Scores | None = None,
    seconds: float = math.nan,
) -> Measured:
    """What a slot's answers show.

    Args:
        slot: its name.
        answers: one per sample, in their order.
        samples: what was asked, with the references.
        settings: whose metrics count.
        scores: of these answers, where they are known already.
        seconds: how long asking took.
    """
    if scores is None:
        scores = score_answers(answers, samples, settings)
    reached = [answer for answer in answers if answer.status not in TRANSPORT]
    pairs = [(answer, sample) for answer, sample in zip(answers, samples, strict=True) if answer.status == 200]
    flaws = Counter(violation for answer, sample in pairs if (violation := contract_violation(answer, sample)))
    latencies = [answer.latency_ms for answer, _ in pairs]
    counted = [(answer.latency_ms, answer.completion_tokens) for answer, _ in pairs if answer.completion_tokens]
    tokens = sum(count for _, count in counted)
    ordered = sorted(latencies)
    return Measured(
        slot=slot,
        requests=len(answers),
        reached=len(reached),
        transport_error_rate=ratio(len(answers) - len(reached), len(answers)),
        success_rate=ratio(len(pairs), len(reached)),
        contract_rate=ratio(len(pairs) - flaws.total(), len(pairs)),
        p50_ms=percentile(ordered, 0.5),
        p95_ms=percentile(ordered, 0.95),
        p99_ms=percentile(ordered, 0.99),
        ms_per_token=ratio(sum(latency for latency, _ in counted), tokens),
        tokens_per_s=ratio(tokens, seconds) if tokens else math.nan,
        scores={name: mean([value for value in violation if value is not None]) for name, violation in scores.items()},
        flaws=dict(flaws),
        retried=sum(answer.attempts > 1 for answer in answers),
        latencies_ms=tuple(round(latency, 1) for latency in latencies),
    )


def score_answers(
    answers: Sequence[Answer], samples: Sequence[Sample], settings: Gate
) -> dict[str, list[float | None]]:
    """The scores of answers, by metric."""
    chosen = metrics(settings.quality)
    pairs = list(zip(answers, samples, strict=True))
    return {
        name: [
            None if answer.status in TRANSPORT else score(metric, text_of(answer), sample.reference)
            for answer, sample in pairs
        ]
        for name, metric in chosen.items()
    }


def text_of(answer: Answer) -> str | None:
    """The text of an answer; None where there is none."""
    return answer.texts[0] if answer.ok and answer.texts else None


def ratio(value: float, base: float) -> float:
    """``value`` over ``base``; NaN where there is no base."""
    return value / base if base > 0 else math.nan


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of sorted values; NaN of none."""
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean; NaN of none, and where one is NaN."""
    return math.fsum(values) / len(values) if values else math.nan
