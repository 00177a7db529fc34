"""Training jobs: the newest ones, and all that is known of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mlops.azure import jobs, metrics, parameters
from mlops.core.errors import PreconditionError
from mlops.core.resources import Job, made_here
from mlops.training.register import LINEAGE

if TYPE_CHECKING:
    from mlops.azure.metrics import JobMetrics
    from mlops.azure.session import Session

LOOK_AT = 200
MOST = 24
SCORES = (
    ("base_exact_match", "tuned_exact_match", "exact match"),
    ("base_rouge_l", "tuned_rouge_l", "ROUGE-L"),
    ("base_perplexity", "tuned_perplexity", "perplexity"),
    ("base_general_loss", "tuned_general_loss", "general loss"),
)
"""Metrics of the model before and after, and what they are called."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score of the model before and after its training."""

    title: str
    base: float | None
    tuned: float | None


@dataclass(frozen=True, kw_only=True)
class Training:
    """One job with its steps, its parameters, and what tells where it comes from."""

    job: Job
    steps: tuple[Job, ...]
    parameters: Mapping[str, str]

    @property
    def lineage(self) -> dict[str, str]:
        """Its tags that say what it was made of."""
        return {name: self.job.tags[name] for name in LINEAGE if self.job.tags.get(name)}


@dataclass(frozen=True, kw_only=True)
class Logged:
    """A job with what it and its steps have logged."""

    job: Job
    metrics: JobMetrics


def newest(session: Session) -> list[Job]:
    """The newest jobs that this repository has submitted for this target's experiment."""
    recent = jobs.since(session, datetime.fromtimestamp(0, UTC), look_at=LOOK_AT)
    ours = [job for job in recent if made_here(job.tags) and job.experiment == session.settings.experiment]
    return ours[:MOST]


def read_training(session: Session, name: str) -> Training:
    """One job.

    Raises:
        PreconditionError: there is none of that name.
    """
    job = _job(session, name)
    steps = tuple(jobs.steps(session, name))
    return Training(job=job, steps=steps, parameters=parameters.read(session, name))


def logged(session: Session, name: str) -> Logged:
    """What a job and its steps have logged."""
    job = _job(session, name)
    steps = tuple(step.name for step in jobs.steps(session, name))
    return Logged(job=job, metrics=metrics.read(session, name, experiment=job.experiment, steps=steps))


def scores(last: Mapping[str, float]) -> list[Score]:
    """What the training has changed, where it was measured."""
    rows = [Score(title=title, base=last.get(base), tuned=last.get(tuned)) for base, tuned, title in SCORES]
    return [row for row in rows if row.base is not None or row.tuned is not None]


def _job(session: Session, name: str) -> Job:
    job = jobs.get(session, name)
    if job is None:
        raise PreconditionError(f"there is no job '{name}'", hint="mlops train submits one")
    return job
