"""Pipeline jobs: submit, read, cancel, their steps and logs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlops.azure import components
from mlops.azure.errors import NotFoundError, translated
from mlops.azure.session import Session, finished, text
from mlops.core.resources import MANAGED_BY, MANAGED_TAG, Job

OUTPUT = "trained_model"
"""The pipeline's output that is registered."""


@dataclass(frozen=True)
class FileInput:
    """A local file, uploaded when the job is submitted."""

    path: Path


@dataclass(frozen=True)
class ModelInput:
    """An MLflow model by its id."""

    id: str


@dataclass(frozen=True, kw_only=True)
class PipelineSpec:
    """A pipeline job before it is submitted.

    Attributes:
        component: a registry's ``(registry, name, version)``, or the file of a pipeline component.
        inputs: the component's inputs; literals, :class:`FileInput` or :class:`ModelInput`.
    """

    name: str
    display_name: str
    experiment: str
    description: str
    component: components.ComponentSource
    inputs: Mapping[str, Any]
    tags: Mapping[str, str] = field(default_factory=dict)


def submit(session: Session, spec: PipelineSpec) -> Job:
    """Submit a pipeline job under its name.

    What the pipeline takes is looked at before, by :func:`mlops.training.pipeline.check`.
    """
    from azure.ai.ml import Input
    from azure.ai.ml.constants import AssetTypes
    from azure.ai.ml.dsl import pipeline

    def asset(value: Any) -> Any:
        if isinstance(value, FileInput):
            return Input(type=AssetTypes.URI_FILE, path=str(value.path))
        if isinstance(value, ModelInput):
            return Input(type=AssetTypes.MLFLOW_MODEL, path=value.id)
        return value

    if isinstance(spec.component, Path):
        with translated("look up the environment of the components"):
            _ensure_environment(session, spec.component.parents[1] / "environments" / "finetune" / "environment.yml")
    component = components.read(session, spec.component)
    inputs = {name: asset(value) for name, value in spec.inputs.items()}

    @pipeline(name=spec.display_name)  # type: ignore[untyped-decorator]
    def chat_completion() -> dict[str, Any]:
        fine_tune = component(**inputs)
        return {OUTPUT: fine_tune.outputs.mlflow_model_folder}

    with translated("submit the pipeline"):
        job = chat_completion()
        job.name = spec.name
        job.display_name = spec.display_name
        job.description = spec.description
        job.tags = dict(spec.tags)
        job.settings.force_rerun = True
        job.settings.continue_on_step_failure = False
        return _job(session.ml.jobs.create_or_update(job, experiment_name=spec.experiment))


def _ensure_environment(session: Session, file: Path) -> None:
    """Our components name their environment with its version; it is made where the workspace has it not."""
    from azure.ai.ml import load_environment
    from azure.core.exceptions import ResourceNotFoundError

    environment = load_environment(file)
    try:
        session.ml.environments.get(environment.name, version=environment.version)
    except ResourceNotFoundError:
        session.ml.environments.create_or_update(environment)


def get(session: Session, name: str) -> Job | None:
    """A job by its name; None where there is none."""
    try:
        with translated(f"look up the job '{name}'"):
            return _job(session.ml.jobs.get(name))
    except NotFoundError:
        return None


def steps(session: Session, name: str) -> list[Job]:
    """The steps of a pipeline job, those of nested pipelines included, in the order in which they were made."""
    leaf_jobs: list[Job] = []
    with translated(f"list the steps of the job '{name}'"):
        for child in session.ml.jobs.list(parent_job_name=name):
            job = _job(child)
            nested = (child.properties or {}).get("azureml.runsource") == "azureml.PipelineRun"
            leaf_jobs.extend((steps(session, job.name) if nested else []) or [job])
    return sorted(leaf_jobs, key=lambda job: job.created or datetime.fromtimestamp(0, UTC))


def newest(session: Session, experiment: str, *, look_at: int = 200) -> Job | None:
    """The newest job of ours in an experiment, among the workspace's ``look_at`` newest."""
    with translated("list the jobs"):
        for _, entity in zip(range(look_at), session.ml.jobs.list(), strict=False):
            job = _job(entity)
            if job.experiment == experiment and job.tags.get(MANAGED_TAG) == MANAGED_BY:
                return job
    return None


def since(session: Session, moment: datetime, *, look_at: int = 2000) -> list[Job]:
    """The workspace's jobs that were made after a moment, newest first; of the ``look_at`` newest."""
    recent: list[Job] = []
    with translated("list the jobs"):
        for _, listed in zip(range(look_at), session.ml.jobs.list(), strict=False):
            job = _job(listed)
            if job.created is not None and job.created < moment:
                break
            recent.append(job)
    return recent


def tag(session: Session, name: str, tags: Mapping[str, str]) -> None:
    """Add tags to a job, also to one that has ended; its other tags stay.

    It goes through run history, as in the studio: a job that is sent again to the control plane is compared with the
    one that ran, and refused.
    """
    with translated(f"tag the job '{name}'"):
        session.ml.jobs.update(name, tags=dict(tags))


def cancel(session: Session, name: str) -> None:
    """Ask Azure to cancel a job; returns when it has agreed."""
    with translated(f"cancel the job '{name}'"):
        finished(session.ml.jobs.begin_cancel(name))


def log_tail(session: Session, name: str, *, lines: int) -> list[str]:
    """The last lines that a step's own program wrote; empty where there is no log."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with translated(f"read the log of the step '{name}'"):
                session.ml.jobs.download(name, download_path=folder)
        except (NotFoundError, OSError):
            return []
        logs = sorted(Path(folder).rglob("std_log*.txt")) or sorted(Path(folder).rglob("*.txt"))
        if not logs:
            return []
        return logs[-1].read_text(encoding="utf-8", errors="replace").rstrip().splitlines()[-lines:]


def _job(entity: Any) -> Job:
    context = getattr(entity, "creation_context", None)
    studio = (entity.services or {}).get("Studio") if getattr(entity, "services", None) else None
    properties = getattr(entity, "properties", None) or {}
    return Job(
        name=entity.name,
        status=text(entity.status),
        display_name=entity.display_name or entity.name,
        experiment=getattr(entity, "experiment_name", None) or "",
        tags=dict(entity.tags or {}),
        created=_moment(getattr(context, "created_at", None)),
        started=_moment(properties.get("StartTimeUtc")),
        ended=_moment(properties.get("EndTimeUtc")),
        studio_url=getattr(studio, "endpoint", None),
    )


def _moment(value: Any) -> datetime | None:
    if isinstance(value, str) and value:
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    return value if value.tzinfo else value.replace(tzinfo=UTC)
