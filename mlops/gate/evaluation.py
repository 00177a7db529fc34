"""Asking a candidate and the live slot the same questions at the same time, until the gate knows."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mlops.core.errors import GateUndecided
from mlops.gate.comparison import compare
from mlops.gate.contract import NOT_ASKED, TRANSPORT
from mlops.gate.judge import judge_absolute, judge_latency, overall, validate
from mlops.gate.measurement import Measured, measure, text_of
from mlops.gate.quality import Metric, metrics, score
from mlops.gate.report import Report
from mlops.gate.samples import Sample, payload
from mlops.gate.worst_answers import worst_answers
from mlops.scoring.client import Answer, Scorer, ScoringClient

if TYPE_CHECKING:
    from mlops.config.settings import Gate


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is judged, and what it is compared with.

    Attributes:
        endpoint: its name, for the report.
        model: the candidate's model and version, for the report.
        candidate: the slot to judge.
        live: the slot to compare it with, if any. One that answers nothing is reported and decides nothing: it must
            be possible to deploy what repairs it.
    """

    endpoint: str
    model: str
    candidate: str
    live: str | None

    @property
    def slots(self) -> list[str]:
        """The candidate first."""
        return [slot for slot in (self.candidate, self.live) if slot]


def evaluate(
    scorer: Scorer,
    settings: Gate,
    samples: Sequence[Sample],
    trial: Trial,
    *,
    done: Callable[[], None] = lambda: None,
    planned: Callable[[int], None] = lambda _: None,
) -> Report:
    """Ask the candidate, and the live slot in turn with it, and judge.

    The first ``settings.conversations`` samples are asked; while the verdict is inconclusive, twice as many, up to
    all of them. (Looking more than once makes the interval a little narrower than its confidence says.)

    Args:
        scorer: the endpoint.
        settings: thresholds and how to ask.
        samples: the conversations, as many as may be asked at most.
        trial: the slots.
        done: called after each answer.
        planned: called with the number of answers that will be asked for in all, before each round.

    Raises:
        GateUndecided: not one request reached the candidate, so that nothing is known of it.
        UsageError: the settings name a metric or a check that there is not.
    """
    validate(settings)
    gate = _Gate(settings, samples, trial, metrics(settings.quality), done)
    return asyncio.run(_evaluate(gate, scorer, planned))


@dataclass
class _Gate:
    """One gate under way: what was answered so far, and the scores of it."""

    settings: Gate
    samples: Sequence[Sample]
    trial: Trial
    metrics: Mapping[str, Metric]
    done: Callable[[], None]
    seconds: float = 0.0
    rounds: int = 0

    def __post_init__(self) -> None:
        self.slots = self.trial.slots
        self.answers: dict[str, list[Answer]] = {slot: [] for slot in self.slots}
        self.scores: dict[str, dict[str, list[float | None]]] = {
            slot: {name: [] for name in self.metrics} for slot in self.slots
        }

    @property
    def asked(self) -> Sequence[Sample]:
        """The samples that were asked so far."""
        return self.samples[: len(self.answers[self.slots[0]])]

    async def warm_up(self, client: ScoringClient) -> None:
        """Requests that are not counted; they open the connections too."""
        requests = [
            (self._request(self.samples[at % len(self.samples)]), slot)
            for at in range(self.settings.warmup if self.samples else 0)
            for slot in self.slots
        ]
        await client.ask_all([request for request, _ in requests], slots=[slot for _, slot in requests])

    async def ask_more(self, client: ScoringClient, count: int) -> None:
        """Ask the next ``count`` samples of all slots; score each answer while others are waited for.

        The slots take turns in going first, so that neither gains by its place, and nothing waits for anything but
        room: as many requests are under way as are allowed at any time.
        """
        new = self.samples[len(self.asked) :][:count]
        turns = [(at, slot) for at in range(len(new)) for slot in (self.slots if at % 2 else self.slots[::-1])]
        requests = [self._request(sample) for sample in new]
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="gate-scores") as pool:
            loop = asyncio.get_running_loop()
            scoring: dict[tuple[int, str], asyncio.Future[dict[str, float | None]]] = {}

            def seen(index: int, answer: Answer) -> None:
                at, slot = turns[index]
                scoring[at, slot] = loop.run_in_executor(pool, self._score, answer, new[at])
                self.done()

            begin = time.perf_counter()
            received = await client.ask_all(
                [requests[at] for at, _ in turns], slots=[slot for _, slot in turns], seen=seen
            )
            self.seconds += time.perf_counter() - begin
            answers = dict(zip(turns, received, strict=True))
            for at in range(len(new)):
                for slot in self.slots:
                    self.answers[slot].append(answers[at, slot])
                    for name, value in (await scoring[at, slot]).items():
                        self.scores[slot][name].append(value)
        self.rounds += 1

    def _request(self, sample: Sample) -> dict[str, Any]:
        return payload(sample, self.settings.parameters)

    def _score(self, answer: Answer, sample: Sample) -> dict[str, float | None]:
        if answer.status in TRANSPORT:
            return dict.fromkeys(self.metrics)
        text = text_of(answer)
        return {name: score(metric, text, sample.reference) for name, metric in self.metrics.items()}

    def report(self) -> Report:
        """The report of what is known so far."""
        measured = {
            slot: measure(
                slot, self.answers[slot], self.asked, self.settings, scores=self.scores[slot], seconds=self.seconds
            )
            for slot in self.slots
        }
        candidate = measured[self.slots[0]]
        live = measured[self.slots[1]] if len(self.slots) > 1 else None
        checks, comparisons = judge_absolute(self.settings, candidate), []
        if live is not None and live.success_rate > 0:
            checks.append(judge_latency(self.settings, candidate, live))
            comparisons = compare(self.settings, self.scores[candidate.slot], self.scores[live.slot])
        mine = self.answers[candidate.slot]
        return Report(
            endpoint=self.trial.endpoint,
            model=self.trial.model,
            verdict=overall(checks, comparisons),
            candidate=candidate,
            live=live,
            checks=tuple(checks),
            comparisons=tuple(comparisons),
            worst=tuple(worst_answers(self.asked, mine, self.scores[candidate.slot])),
            errors=tuple(dict.fromkeys(answer.error for answer in mine if answer.error)),
            notes=tuple(_notes(candidate, live)),
            at=datetime.now(UTC),
            seconds=self.seconds,
            rounds=self.rounds,
        )


def _notes(candidate: Measured, live: Measured | None) -> Iterator[str]:
    """What a reader must know to read the figures."""
    if live is not None and live.success_rate == 0:
        yield (
            f"the live slot '{live.slot}' answered none of {live.requests} requests; it decides nothing, "
            "so that it can be replaced"
        )
    for slot in (candidate, live):
        if slot is not None and slot.retried:
            yield (
                f"'{slot.slot}' said \"not now\" to {slot.retried} of {slot.requests} requests, which were sent "
                "again; with gate.concurrency above what its instances take, that is to be expected"
            )
    for name, value in candidate.scores.items():
        if math.isnan(value) and candidate.reached:
            yield f"the metric '{name}' gave no number from 0 to 1 for some answers"


async def _evaluate(gate: _Gate, scorer: Scorer, planned: Callable[[int], None]) -> Report:
    more = gate.settings.conversations
    loading = asyncio.create_task(asyncio.to_thread(_load, gate.metrics))
    async with scorer.connect(gate.settings.concurrency) as client:
        await gate.warm_up(client)
        await loading
        while True:
            planned(min(len(gate.asked) + more, len(gate.samples)) * len(gate.slots))
            await gate.ask_more(client, more)
            mine = gate.answers[gate.trial.candidate]
            if mine and all(answer.status in NOT_ASKED for answer in mine):
                raise GateUndecided(
                    f"the gate could not decide: no request reached {gate.trial.model} in {gate.trial.candidate}",
                    details=list(dict.fromkeys(answer.error for answer in mine if answer.error))[:5],
                    hint="traffic is as it was; deploy again once the endpoint can be reached",
                )
            report = await asyncio.to_thread(gate.report)
            more = len(gate.asked)
            if report.verdict != "inconclusive" or len(gate.asked) == len(gate.samples):
                return report


def _load(metrics: Mapping[str, Metric]) -> None:
    """Import what scoring and judging need while the slots warm up, so that no answer is waited for meanwhile."""
    import scipy.stats  # noqa: F401

    for metric in metrics.values():
        score(metric, "a", "a")
