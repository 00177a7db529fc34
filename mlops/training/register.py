"""The registration step: a job's output becomes a model version that bears the job's timestamp."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlops.azure import jobs, outputs
from mlops.azure import models as azure_models
from mlops.core.errors import PreconditionError, TrainingFailed
from mlops.core.lineage import TAG_CHARACTERS
from mlops.core.process import actor
from mlops.core.resources import MANAGED_BY, MANAGED_TAG, Job, ModelVersion
from mlops.training import evaluation

if TYPE_CHECKING:
    from mlops.azure.session import Session
    from mlops.config.settings import Settings

LINEAGE = ("base-model", "data-hash", "commit", "actor", "run-url", "reason", "fingerprint")
"""Tags that travel from the job to its model."""
SCORES = (
    "base_exact_match",
    "tuned_exact_match",
    "tuned_rouge_l",
    "tuned_perplexity",
    "base_loss",
    "tuned_loss",
    "base_general_loss",
    "tuned_general_loss",
    "eval_loss",
)
"""Scores of the job that its model bears as tags."""
EVALUATION_TAG = "evaluation"
"""On a version: ``passed``, ``not evaluated``, or ``failed`` where a person has accepted it."""
ACCEPTED_TAG = "accepted"
"""On a version that failed its evaluation: why it is registered nevertheless; ``accepted-by`` is who said so."""


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A job's version; ``made`` by this call, and then with what its evaluation was judged by."""

    model: ModelVersion
    made: bool
    judgement: evaluation.Judgement | None = None


def model_name(settings: Settings) -> str:
    """The registered model's name; Azure takes no slash in it."""
    return settings.model.name.replace("/", "-")


def completed_job(session: Session, name: str) -> Job:
    """A job that may be registered.

    Raises:
        PreconditionError: there is none of that name.
        TrainingFailed: it is not Completed.
    """
    job = jobs.get(session, name)
    if job is None:
        raise PreconditionError(f"there is no job '{name}'", hint="mlops train submits one")
    if not job.is_completed:
        hint = f"mlops wait {name}" if job.is_running else "only a completed job can be registered"
        raise TrainingFailed(f"the job '{name}' is '{job.status}', not 'Completed'", hint=hint)
    return job


def register(session: Session, settings: Settings, job_name: str, *, accept: str | None = None) -> Registered:
    """Register a completed job's model; the version that the job already has is found instead of made again.

    Args:
        session: the workspace.
        settings: the target's; ``training.evaluation`` decides whether the model is good enough.
        job_name: the training.
        accept: why a model that is not shall be registered nevertheless; goes on record with who said so.

    Raises:
        EvaluationFailed: the model does not meet ``training.evaluation`` and nobody accepts it.
    """
    job = completed_job(session, job_name)
    name = model_name(settings)
    version = int(job.timestamp)
    while True:  # two jobs may bear the same second; each keeps its own version
        existing = azure_models.get(session, name, str(version))
        if existing is None:
            break
        if existing.tags.get("job") == job.name or existing.job == job.name:
            return Registered(model=existing, made=False)
        version += 1
    numbers = scores(session, job)
    judgement = evaluation.judge(settings.training.evaluation, numbers)
    if judgement.refused and accept is None:
        raise _refusal(settings, job, judgement)
    if judgement.why:
        session.console.warn(f"{job.name}: {judgement.why}")
    tags = {key: job.tags[key] for key in LINEAGE if job.tags.get(key)}
    tags |= {MANAGED_TAG: MANAGED_BY, "job": job.name, "experiment": job.experiment}
    tags |= {key: f"{numbers[key]:.4g}" for key in SCORES if key in numbers}
    tags |= {EVALUATION_TAG: judgement.verdict} if judgement.verdict else {}
    if judgement.refused:
        tags |= {ACCEPTED_TAG: " ".join(str(accept).split())[:TAG_CHARACTERS], f"{ACCEPTED_TAG}-by": actor()}
    registered = azure_models.register(
        session,
        name=name,
        version=str(version),
        job=job.name,
        output=jobs.OUTPUT,
        description=f"{settings.base_model.name} fine-tuned on {settings.data.dataset} by the job {job.name}",
        tags=tags,
    )
    return Registered(model=registered, made=True, judgement=judgement)


def _refusal(settings: Settings, job: Job, judgement: evaluation.Judgement) -> evaluation.EvaluationFailed:
    return evaluation.EvaluationFailed(
        f"the model of the job '{job.name}' is not registered: {judgement.why}",
        details=judgement.limited.lines,
        hint=f"mlops metrics {job.name}{settings.target_flag} has the report; a person who has read it may "
        f'mlops register {job.name}{settings.target_flag} --accept "REASON"',
    )


def scores(session: Session, job: Job) -> dict[str, float]:
    """What a job and its steps have logged; where the tracking server lost the evaluation, what the step wrote."""
    from mlops.azure import metrics

    steps = jobs.steps(session, job.name)
    numbers = dict(metrics.read(session, job.name, experiment=job.experiment, steps=tuple(s.name for s in steps)).last)
    if not evaluation.was_evaluated(numbers):
        with tempfile.TemporaryDirectory() as folder:
            report = _download(session, steps, Path(folder))
            numbers |= evaluation.written_scores(report) if report else {}
    return numbers


def evaluation_report(session: Session, job: str, folder: Path) -> Path | None:
    """The evaluate step's output, copied to ``folder``; None where the pipeline has no such step or it wrote none."""
    return _download(session, jobs.steps(session, job), folder)


def _download(session: Session, steps: Sequence[Job], folder: Path) -> Path | None:
    ended = [step for step in steps if step.display_name == evaluation.STEP and step.is_completed]
    return outputs.download(session, ended[-1].name, evaluation.OUTPUT, folder) if ended else None


def find(session: Session, settings: Settings, version: str | None) -> ModelVersion:
    """The version to deploy: the one asked for, or the newest registered.

    Raises:
        PreconditionError: there is none.
    """
    name = model_name(settings)
    if version is None:
        versions = azure_models.versions(session, name)
        if not versions:
            raise PreconditionError(f"the model '{name}' has no version", hint="mlops register JOB makes one")
        return versions[0]
    model = azure_models.get(session, name, version)
    if model is None:
        known = ", ".join(item.version for item in azure_models.versions(session, name)[:5]) or "none"
        raise PreconditionError(f"the model '{name}' has no version '{version}'", hint=f"the newest are: {known}")
    return model
