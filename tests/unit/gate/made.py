"""Answers, samples and reports as tests need them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from mlops import gate
from mlops.config.settings import Gate, Quality
from mlops.gate.judge import judge_latency
from mlops.gate.measurement import score_answers
from mlops.gate.worst_answers import worst_answers
from mlops.scoring.client import Answer

STRICT = Gate(
    conversations=4,
    max_conversations=16,
    max_p95_ms=100,
    quality={"exact_match": Quality(min=0.8), "rouge_l": Quality(min=0.9)},
    max_latency_ratio=2,
)


def answer(text: str | None, *, latency_ms: float = 10.0, status: int = 500, tokens: int | None = None) -> Answer:
    """A text, or none and the status instead."""
    if text is None:
        return Answer(status=status, latency_ms=latency_ms, error=f"HTTP {status}")
    return Answer(status=200, latency_ms=latency_ms, texts=(text,), completion_tokens=tokens)


def sample(prompt: str = "what is it?", reference: str = "it is blue") -> gate.Sample:
    return gate.Sample(({"role": "user", "content": prompt},), reference)


def measured(**values: Any) -> gate.Measured:
    good: dict[str, Any] = {
        "slot": "green",
        "requests": 10,
        "reached": 10,
        "transport_error_rate": 0.0,
        "success_rate": 1.0,
        "contract_rate": 1.0,
        "p50_ms": 20.0,
        "p95_ms": 30.0,
        "p99_ms": 35.0,
        "ms_per_token": 2.0,
        "scores": {"exact_match": 0.9, "rouge_l": 0.95},
    }
    return gate.Measured(**{**good, **values})


def judged(
    settings: Gate,
    ours: Sequence[Answer],
    theirs: Sequence[Answer] | None = None,
    samples: Sequence[gate.Sample] | None = None,
    **more: Any,
) -> gate.Report:
    """A report of answers that were given."""
    samples = samples or [sample(reference=f"it is number {at}") for at in range(len(ours))]
    scores = score_answers(ours, samples, settings)
    candidate = gate.measure("green", ours, samples, settings, scores=scores, seconds=2.0)
    checks, comparisons, live = gate.judge_absolute(settings, candidate), [], None
    if theirs is not None:
        other = score_answers(theirs, samples, settings)
        live = gate.measure("blue", theirs, samples, settings, scores=other, seconds=2.0)
        checks.append(judge_latency(settings, candidate, live))
        comparisons = gate.compare(settings, scores, other)
    return gate.Report(
        endpoint="chat",
        model="phi:1763726400",
        verdict=gate.overall(checks, comparisons),
        candidate=candidate,
        live=live,
        checks=tuple(checks),
        comparisons=tuple(comparisons),
        worst=tuple(worst_answers(samples, ours, scores)),
        errors=tuple(dict.fromkeys(item.error for item in ours if item.error)),
        at=datetime(2026, 11, 21, 12, 0, tzinfo=UTC),
        seconds=2.0,
        **more,
    )


def released() -> gate.Report:
    """A gate that passed beside a live slot, and the rollout that followed."""
    draw = random.Random(3)
    samples = [sample(f"question {at}: what is on the map?", f"it is the town of number {at}") for at in range(50)]

    def answers(right: float, slow: float) -> list[Answer]:
        found = []
        for item in samples:
            text = item.reference if draw.random() < right else "it is the river, I think"
            found.append(answer(text, latency_ms=draw.lognormvariate(5.6, 0.35) * slow, tokens=8))
        return found

    begin = datetime(2026, 11, 21, 12, 0, 4, tzinfo=UTC)
    steps = [
        (0, {"blue": 100, "green": 0}, "deployed", None),
        (12, {"blue": 100, "green": 0}, "gate", "pass"),
        (14, {"blue": 90, "green": 10}, "10 %", None),
        (74, {"blue": 90, "green": 10}, "soak at 10 %", "pass"),
        (75, {"blue": 50, "green": 50}, "50 %", None),
        (135, {"blue": 50, "green": 50}, "soak at 50 %", "pass"),
        (136, {"green": 100, "blue": 0}, "100 %", None),
        (196, {"green": 100, "blue": 0}, "soak at 100 %", "pass"),
    ]
    moments = tuple(
        gate.Moment(at=begin + timedelta(seconds=at), traffic=traffic, what=what, verdict=verdict)
        for at, traffic, what, verdict in steps
    )
    settings = STRICT.model_copy(
        update={"max_p95_ms": 900, "quality": {"exact_match": Quality(), "rouge_l": Quality()}}
    )
    report = judged(settings, answers(0.98, 0.9), answers(0.9, 1.0), samples, timeline=moments)
    probes = (measured(slot="blue", requests=11), measured(slot="green", requests=9))
    checks = tuple(gate.judge_absolute(STRICT, probes[1]))
    soak = gate.Soak(share=50, seconds=60.0, slots=probes, checks=checks, verdict="pass")
    return gate.Report(**{**{name: getattr(report, name) for name in report.__dataclass_fields__}, "soaks": (soak,)})
