"""The registration step: a job's output becomes a model version that bears the job's timestamp."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mlops.azure import jobs
from mlops.azure import models as azure_models
from mlops.errors import PreconditionError, TrainingFailed
from mlops.resources import MANAGED_BY, MANAGED_TAG, Job, ModelVersion

if TYPE_CHECKING:
    from mlops.azure.session import Session
    from mlops.settings import Settings

LINEAGE = ("base-model", "data-hash", "commit", "actor", "run-url", "reason", "fingerprint")
"""Tags that travel from the job to its model."""
SCORES = ("base_exact_match", "tuned_exact_match", "tuned_rouge_l", "tuned_perplexity", "eval_loss")


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


def register(
    session: Session, settings: Settings, job_name: str, *, scores: Mapping[str, float] | None = None
) -> tuple[ModelVersion, bool]:
    """Register a completed job's model; the version that the job already has is found instead of made again.

    Returns:
        The version, and whether this call made it.
    """
    job = completed_job(session, job_name)
    name = model_name(settings)
    version = int(job.timestamp)
    while True:  # two jobs may bear the same second; each keeps its own version
        found = azure_models.get(session, name, str(version))
        if found is None:
            break
        if found.tags.get("job") == job.name or found.job == job.name:
            return found, False
        version += 1
    tags = {key: job.tags[key] for key in LINEAGE if job.tags.get(key)}
    tags |= {MANAGED_TAG: MANAGED_BY, "job": job.name, "experiment": job.experiment}
    tags |= {key: f"{value:.4g}" for key, value in (scores or {}).items()}
    made = azure_models.register(
        session,
        name=name,
        version=str(version),
        job=job.name,
        output=jobs.OUTPUT,
        description=f"{settings.base_model.name} fine-tuned on {settings.data.dataset} by the job {job.name}",
        tags=tags,
    )
    return made, True


def scores(session: Session, job: Job) -> dict[str, float]:
    """The scores that a job has logged and its model bears as tags."""
    from mlops.azure import metrics

    steps = tuple(step.name for step in jobs.steps(session, job.name))
    last = metrics.read(session, job.name, experiment=job.experiment, steps=steps).last
    return {name: last[name] for name in SCORES if name in last}


def find(session: Session, settings: Settings, version: str | None) -> ModelVersion:
    """The version to deploy: the one asked for, or the newest registered.

    Raises:
        PreconditionError: there is none.
    """
    name = model_name(settings)
    if version is None:
        found = azure_models.versions(session, name)
        if not found:
            raise PreconditionError(f"the model '{name}' has no version", hint="mlops register JOB makes one")
        return found[0]
    model = azure_models.get(session, name, version)
    if model is None:
        known = ", ".join(item.version for item in azure_models.versions(session, name)[:5]) or "none"
        raise PreconditionError(f"the model '{name}' has no version '{version}'", hint=f"the newest are: {known}")
    return model
