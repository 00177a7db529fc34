"""The gate: what a new slot must show before it gets traffic.

Conversations of the test split are sent to the slot by name while it has no traffic, and, where something is live, the
same ones to the live slot at the same time. The verdict is a pure function of what was measured and of the thresholds.
"""

from __future__ import annotations

import functools
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlops.console import markdown_table
from mlops.errors import GateFailed, GateUndecided, PreconditionError

if TYPE_CHECKING:
    from mlops.endpoint import Answer, Scorer
    from mlops.settings import Gate

SCHEMA_VERSION = 1
NOT_ASKED = frozenset({0, 401, 403, 429})
"""Statuses that say nothing of the model: no connection, no right, no room."""
WORST = 5
CUT = 240
"""Characters of a prompt or an answer that the report shows."""


@dataclass(frozen=True)
class Sample:
    """One conversation: the messages up to the last answer, and that answer as the reference."""

    messages: tuple[Mapping[str, str], ...]
    reference: str


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one slot showed. Scores and latencies are NaN where nothing could be measured."""

    slot: str
    requests: int
    success_rate: float
    p50_ms: float
    p95_ms: float
    exact_match: float
    rouge_l: float


@dataclass(frozen=True, kw_only=True)
class Check:
    """One threshold and what was measured against it."""

    name: str
    measured: float
    relation: Literal["≥", "≤"]
    threshold: float | None
    passed: bool


@dataclass(frozen=True, kw_only=True)
class WorstAnswer:
    """An answer far from its reference, cut to a readable length."""

    prompt: str
    reference: str
    answer: str
    rouge_l: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """The gate's report; ``passed`` is its verdict."""

    schema_version: int
    endpoint: str
    model: str
    passed: bool
    candidate: Measured
    live: Measured | None
    checks: tuple[Check, ...]
    worst: tuple[WorstAnswer, ...]
    errors: tuple[str, ...]


def draw(rows: Sequence[Mapping[str, Any]], *, count: int, seed: int) -> list[Sample]:
    """Draw conversations that have a reference answer; the same seed draws the same ones.

    Raises:
        PreconditionError: no row ends with an answer.
    """
    usable = [
        row["messages"] for row in rows if len(row["messages"]) > 1 and row["messages"][-1]["role"] == "assistant"
    ]
    if not usable:
        raise PreconditionError("the gate's split has no conversation with a reference answer", hint="see gate.split")
    drawn = random.Random(seed).sample(usable, min(count, len(usable)))  # noqa: S311 - a sample, no secret
    return [Sample(tuple(messages[:-1]), messages[-1]["content"]) for messages in drawn]


def load_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a prepared split."""
    import orjson

    if not file.is_file():
        raise PreconditionError(f"the gate's split '{file.name}' is not in '{file.parent}'", hint="mlops data prepare")
    with file.open("rb") as lines:
        return [orjson.loads(line) for line in lines if line.strip()]


def payload(sample: Sample, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The request for one conversation."""
    messages = [{"role": message["role"], "content": message["content"]} for message in sample.messages]
    return {"input_data": {"input_string": messages, "parameters": dict(parameters)}, "params": {}}


def evaluate(
    scorer: Scorer,
    settings: Gate,
    samples: Sequence[Sample],
    *,
    endpoint: str,
    model: str,
    candidate: str,
    live: str | None,
    done: Callable[[], None] = lambda: None,
) -> Report:
    """Ask the candidate (and the live slot, in turn with it) and judge.

    Args:
        scorer: the endpoint.
        settings: thresholds and how to ask.
        samples: the conversations.
        endpoint: its name, for the report.
        model: the candidate's model and version, for the report.
        candidate: the slot to judge.
        live: the slot to compare it with, if any.
        done: called after each answer.

    Raises:
        GateUndecided: not one request reached the candidate, so that nothing is known of it.
    """
    requests = [payload(sample, settings.parameters) for sample in samples]
    slots = [slot for slot in (candidate, live) if slot]
    warm = [(requests[index % len(requests)], slot) for index in range(settings.warmup) for slot in slots]
    if warm:
        scorer.ask_all([item for item, _ in warm], slots=[slot for _, slot in warm], concurrency=len(slots))
    asked = [(request, slot) for request in requests for slot in slots]
    answers = scorer.ask_all(
        [request for request, _ in asked],
        slots=[slot for _, slot in asked],
        concurrency=settings.concurrency,
        done=done,
    )
    by_slot = {slot: answers[index :: len(slots)] for index, slot in enumerate(slots)}
    references = [sample.reference for sample in samples]
    measured = {slot: measure(slot, found, references) for slot, found in by_slot.items()}
    if all(answer.status in NOT_ASKED for answer in by_slot[candidate]):
        raise GateUndecided(
            f"the gate could not decide: no request reached {model} in {candidate}",
            details=list(dict.fromkeys(answer.error for answer in by_slot[candidate] if answer.error))[:5],
            hint="traffic is as it was; deploy again once the endpoint can be reached",
        )
    checks = judge(settings, measured[candidate], measured[live] if live else None)
    errors = [answer.error for answer in by_slot[candidate] if answer.error]
    return Report(
        schema_version=SCHEMA_VERSION,
        endpoint=endpoint,
        model=model,
        passed=all(check.passed for check in checks),
        candidate=measured[candidate],
        live=measured[live] if live else None,
        checks=tuple(checks),
        worst=tuple(worst(samples, by_slot[candidate])),
        errors=tuple(dict.fromkeys(errors)),
    )


def measure(slot: str, answers: Sequence[Answer], references: Sequence[str]) -> Measured:
    """Success rate, latency percentiles and scores of one slot's answers.

    A request without a usable answer scores 0: a slot cannot win by failing. Latency counts answered requests only.
    """
    good = [answer for answer in answers if answer.ok]
    latencies = sorted(answer.latency_ms for answer in good)
    texts = [answer.texts[0] if answer.ok and answer.texts else None for answer in answers]
    pairs = list(zip(texts, references, strict=True))
    return Measured(
        slot=slot,
        requests=len(answers),
        success_rate=len(good) / len(answers) if answers else math.nan,
        p50_ms=percentile(latencies, 0.5),
        p95_ms=percentile(latencies, 0.95),
        exact_match=mean([exact_match(text, reference) for text, reference in pairs]),
        rouge_l=mean([rouge_l(text, reference) for text, reference in pairs]),
    )


def judge(settings: Gate, candidate: Measured, live: Measured | None) -> list[Check]:
    """Hold what was measured against the thresholds; NaN never passes, and no live slot means no comparison."""

    def at_least(name: str, measured: float, threshold: float | None) -> Check:
        passed = threshold is None or (not math.isnan(measured) and measured >= threshold - 1e-9)
        return Check(name=name, measured=measured, relation="≥", threshold=threshold, passed=passed)

    def at_most(name: str, measured: float, threshold: float | None) -> Check:
        passed = threshold is None or (not math.isnan(measured) and measured <= threshold + 1e-9)
        return Check(name=name, measured=measured, relation="≤", threshold=threshold, passed=passed)

    checks = [
        at_least("success rate", candidate.success_rate, settings.min_success_rate),
        at_most("latency p95 (ms)", candidate.p95_ms, settings.max_p95_ms),
        at_least("exact match", candidate.exact_match, settings.min_exact_match),
        at_least("ROUGE-L", candidate.rouge_l, settings.min_rouge_l),
    ]
    if live is not None and live.success_rate > 0:
        floor = None if settings.max_loss is None else -settings.max_loss
        checks += [
            at_least("exact match − live", candidate.exact_match - live.exact_match, floor),
            at_least("ROUGE-L − live", candidate.rouge_l - live.rouge_l, floor),
            at_most("latency p50 ÷ live", ratio(candidate.p50_ms, live.p50_ms), settings.max_latency_ratio),
        ]
    return checks


def ratio(value: float, base: float) -> float:
    """``value`` over ``base``; NaN where there is no base."""
    return value / base if base > 0 else math.nan


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of sorted values; NaN of none."""
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean; NaN of none."""
    return sum(values) / len(values) if values else math.nan


def normal(text: str) -> str:
    """A text without case and with single spaces, as exact match compares it."""
    return " ".join(text.split()).casefold()


def exact_match(text: str | None, reference: str) -> float:
    """1 where the answer equals the reference but for case and white space."""
    return float(text is not None and normal(text) == normal(reference))


def rouge_l(text: str | None, reference: str) -> float:
    """ROUGE-L F1 (Lin, 2004) by the rouge-score package, without stemming; 0 where there is no answer."""
    return float(_rouge().score(reference, text)["rougeL"].fmeasure) if text else 0.0


@functools.cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"])


def worst(samples: Sequence[Sample], answers: Sequence[Answer]) -> list[WorstAnswer]:
    """The answers furthest from their references."""
    found = [
        WorstAnswer(
            prompt=cut(sample.messages[-1]["content"]),
            reference=cut(sample.reference),
            answer=cut(answer.texts[0] if answer.ok and answer.texts else f"({answer.error})"),
            rouge_l=rouge_l(answer.texts[0] if answer.ok and answer.texts else None, sample.reference),
        )
        for sample, answer in zip(samples, answers, strict=True)
    ]
    return sorted(found, key=lambda item: item.rouge_l)[:WORST]


def cut(text: str) -> str:
    """A text on one line, at most :data:`CUT` characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= CUT else flat[: CUT - 1] + "…"


def summary_line(report: Report) -> str:
    """The report in one line."""
    found = report.candidate
    return (
        f"exact match {number(found.exact_match)}, ROUGE-L {number(found.rouge_l)}, p95 {number(found.p95_ms)} ms"
    )  # fmt: skip


def refusal(report: Report, folder: Path) -> GateFailed:
    """The error for a report that did not pass: what was missed, and where the rest stands."""
    missed = [
        f"{check.name} is {number(check.measured)}, asked is {threshold(check)}"
        for check in report.checks
        if not check.passed
    ]
    slot = report.candidate.slot
    return GateFailed(
        f"the gate refused {report.model} in {slot}; traffic is as it was",
        details=[*missed, f"report and the slot's logs: {folder}"],
        hint=f"the slot stays at 0 % for a look: mlops endpoint logs --slot {slot} --endpoint {report.endpoint}",
    )


def markdown(report: Report) -> str:
    """The report as the job summary shows it."""
    verdict = "✓ passed" if report.passed else "✕ failed"
    head = f"### Gate {verdict}: {report.model} in {report.candidate.slot} of {report.endpoint}"
    rows = [
        [check.name, number(check.measured), threshold(check), "✓" if check.passed else "✕"] for check in report.checks
    ]
    text = head + "\n\n" + markdown_table(["check", "measured", "asked", ""], rows)
    if report.live is not None:
        rows = [[name, number(getattr(report.candidate, name)), number(getattr(report.live, name))] for name in SHOWN]
        text += "\n\n" + markdown_table(["", f"new ({report.candidate.slot})", f"live ({report.live.slot})"], rows)
    bad = [item for item in report.worst if item.rouge_l < 1]
    if bad:
        rows = [[item.prompt, item.reference, item.answer, number(item.rouge_l)] for item in bad]
        text += "\n\nFurthest from their references:\n\n"
        text += markdown_table(["prompt", "reference", "answer", "ROUGE-L"], rows)
    if report.errors:
        text += "\n\nErrors:\n\n" + "\n".join(f"- {cut(error)}" for error in report.errors[:10])
    return text


SHOWN = ("success_rate", "p50_ms", "p95_ms", "exact_match", "rouge_l")


def number(value: float) -> str:
    """A measured value, short."""
    if math.isnan(value):
        return "none"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def threshold(check: Check) -> str:
    """What a check asks for."""
    return "reported only" if check.threshold is None else f"{check.relation} {check.threshold:g}"


def write(report: Report, folder: Path, *, logs: Mapping[str, str] | None = None) -> Path:
    """Write report.json, report.md and the logs into a folder that appears whole or not at all."""
    import shutil
    import tempfile

    from mlops.console import plain

    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        document = json.dumps(plain(report), indent=2, ensure_ascii=False)
        (beside / "report.json").write_text(document + "\n", encoding="utf-8")
        (beside / "report.md").write_text(markdown(report) + "\n", encoding="utf-8")
        for name, text in (logs or {}).items():
            (beside / f"{name}.log").write_text(text, encoding="utf-8")
        beside.rename(folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return folder
