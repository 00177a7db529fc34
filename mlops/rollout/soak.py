"""The soak: after each step, requests through the endpoint as its users send them, and what each slot made of them.

A probe carries no header, so traffic decides which slot answers it; the answer's header says which it was. The new slot
has to hold the gate's absolute limits; quality has been judged by the gate and is reported here. A slot that was live
before and fails now is told of, but is no reason to go back to it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlops import gate
from mlops.config.settings import Quality
from mlops.core.interrupts import stay_interruptible
from mlops.gate.contract import TRANSPORT
from mlops.gate.judge import check

if TYPE_CHECKING:
    from mlops.config.settings import Gate, Rollout, Settings
    from mlops.scoring.client import Answer, Scorer

BATCH_S = 0.5
"""Probes are sent in bursts this far apart, or one by one where that is slower."""
MAX_FAILURES = 3
"""Failures of the new slot after which a soak need not go on to its end."""


@dataclass
class Tally:
    """The answers of one slot, each with the conversation that was asked."""

    answers: list[Answer] = field(default_factory=list)
    samples: list[gate.Sample] = field(default_factory=list)

    def add(self, answer: Answer, sample: gate.Sample) -> None:
        """Count an answer."""
        self.answers.append(answer)
        self.samples.append(sample)

    @property
    def failures(self) -> int:
        """Answers that are of no use."""
        return sum(not answer.ok for answer in self.answers)


@dataclass
class SoakMonitor:
    """What the probes of one step have shown."""

    scorer: Scorer
    settings: Settings
    candidate: str
    live: str | None
    tallies: dict[str, Tally] = field(default_factory=dict)
    unreached: list[Answer] = field(default_factory=list)

    def probe(self, samples: Sequence[gate.Sample]) -> None:
        """Send probes at once and count each for the slot that answered."""
        parameters = self.settings.gate.parameters
        payloads = [gate.payload(sample, parameters) for sample in samples]
        # no more at once than the gate has asked, or the probes themselves would fill the slot's queue
        concurrency = min(len(payloads), self.settings.gate.concurrency)
        answers = self.scorer.ask_all(payloads, slots=[None] * len(payloads), concurrency=concurrency)
        for answer, sample in zip(answers, samples, strict=True):
            if answer.slot is not None:
                self.tally(answer.slot).add(answer, sample)
            elif answer.status in TRANSPORT:
                self.unreached.append(answer)
            else:
                self.tally(self._whose(sample)).add(answer, sample)

    def tally(self, slot: str) -> Tally:
        """The tally of a slot."""
        return self.tallies.setdefault(slot.lower(), Tally())

    def _whose(self, sample: gate.Sample) -> str:
        """Whose a failure without a name is: the old slot's, if that fails when named and the new one does not."""
        if self.live is None:
            return self.candidate
        payload = gate.payload(sample, self.settings.gate.parameters)
        new, old = self.scorer.ask_all([payload, payload], slots=[self.candidate, self.live], concurrency=2)
        return self.live if new.ok and not old.ok else self.candidate

    def has_enough(self, share: int) -> bool:
        """Whether each slot with traffic has answered its number of probes."""
        awaited = [self.candidate, *([self.live] if self.live and share < 100 else [])]
        return all(len(self.tally(slot).answers) >= self.settings.rollout.probes for slot in awaited)

    def has_failed(self) -> bool:
        """Whether the new slot has failed so often that waiting changes nothing."""
        mine = self.tally(self.candidate)
        limit = self.settings.gate.min_success_rate
        return limit is not None and mine.failures >= MAX_FAILURES and 1 - mine.failures / len(mine.answers) < limit


def soak(
    scorer: Scorer,
    settings: Settings,
    samples: Sequence[gate.Sample],
    *,
    candidate: str,
    live: str | None,
    share: int,
    on_progress: Callable[[str], object] = lambda _: None,
) -> gate.Soak:
    """Watch a step for ``rollout.soak_s``, longer where a slot has not answered ``rollout.probes`` probes by then.

    Args:
        scorer: the endpoint.
        settings: the target's settings.
        samples: conversations to send, in turn.
        candidate: the new slot.
        live: the one that was live before, if any.
        share: per cent of traffic on the new slot.
        on_progress: called with a few words after each burst.
    """
    rollout = settings.rollout
    as_users = dataclasses.replace(scorer, attempts=1)
    monitor = SoakMonitor(as_users, settings, candidate, live)
    size = max(1, round(rollout.probes_per_s * BATCH_S))
    started, sent = time.monotonic(), 0
    limit_s = max(rollout.soak_s, rollout.max_soak_s)
    stay_interruptible()
    while True:
        batch = [samples[(sent + index) % len(samples)] for index in range(size)]
        monitor.probe(batch)
        sent += size
        elapsed = time.monotonic() - started
        on_progress(", ".join(f"{slot} {len(tally.answers)}" for slot, tally in sorted(monitor.tallies.items())))
        if monitor.has_failed() or elapsed >= limit_s or (elapsed >= rollout.soak_s and monitor.has_enough(share)):
            break
        time.sleep(max(0.0, sent / rollout.probes_per_s - elapsed))
    return judge_soak(monitor, settings.gate, rollout, share=share, seconds=time.monotonic() - started)


def judge_soak(monitor: SoakMonitor, settings: Gate, rollout: Rollout, *, share: int, seconds: float) -> gate.Soak:
    """The verdict on what a step has shown."""
    reported = {name: Quality(min=None, max_loss=None) for name in settings.quality}
    limits = settings.model_copy(update={"quality": reported})
    measured = {
        slot: gate.measure(slot, tally.answers, tally.samples, settings)
        for slot, tally in sorted(monitor.tallies.items())
    }
    checks: list[gate.Check] = []
    mine = measured.get(monitor.candidate.lower())
    if mine is not None and mine.requests:
        checks += gate.judge_absolute(limits, mine)
    total = sum(len(tally.answers) for tally in monitor.tallies.values()) + len(monitor.unreached)
    few = len(monitor.tally(monitor.candidate).answers)
    unreached = len(monitor.unreached) / total if total else 1.0
    checks += [
        check(settings, "probes", "probes that the new slot answered", few, "≥", rollout.probes),
        check(
            settings, "unreached_rate", "probes that reached no slot", unreached, "≤", settings.max_transport_error_rate
        ),
    ]
    failed = any(not check.passed for check in checks)
    return gate.Soak(
        share=share,
        seconds=seconds,
        slots=tuple(measured.values()),
        checks=tuple(checks),
        verdict="fail" if failed else "pass",
    )
