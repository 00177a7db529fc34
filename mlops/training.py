"""The training step: what is submitted, under which name, and what became of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops import catalogue
from mlops.azure import computes, jobs, models
from mlops.errors import MlopsError, NotFinishedYet, PreconditionError, TrainingFailed, UsageError
from mlops.interrupts import stay_interruptible
from mlops.resources import RUNNING, Cluster, Job, ModelVersion

if TYPE_CHECKING:
    from mlops.azure.session import Session
    from mlops.settings import Settings

COMPONENT = "chat_completion_pipeline"
MAX_ATTEMPTS = 1000
COUNTED = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_nodes_finetune",
    "number_of_gpu_to_use_finetuning",
)
"""Parameters that this program calculates with."""
DECIDED = frozenset({"mlflow_model_path", "huggingface_id", "train_file_path", "test_file_path"})
"""Inputs of the pipeline that follow from other settings."""
LOG_LINES = 25
OUR_DEFAULTS: dict[str, Any] = {
    "num_train_epochs": 3,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "learning_rate": 5e-6,
    "lr_scheduler_type": "cosine",
    "apply_lora": True,
    "apply_deepspeed": True,
    "deepspeed_stage": 2,
    "max_seq_length": -1,
    "save_total_limit": 1,
}


@dataclass(frozen=True)
class Parameter:
    """One input of the pipeline, its value and where that came from: ``setting``, ``model`` or ``default``."""

    name: str
    value: Any
    source: str


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Prepared data: two files, and the hash of all that was prepared with them."""

    train: Path
    test: Path
    content_hash: str
    folder: Path
    rows: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """All that is decided before money is spent."""

    display_name: str
    experiment: str
    base_model: str
    component: str
    compute: str
    gpus_per_node: int
    nodes: int
    parameters: tuple[Parameter, ...]
    inputs: Mapping[str, Any]
    tags: Mapping[str, str]
    fingerprint: str

    def job_name(self, attempt: int) -> str:
        """The job's name: what decides its result, and the number of the attempt."""
        return f"ft-{self.fingerprint[:16]}-{attempt}"


def resolve_parameters(wanted: Mapping[str, Any], model_defaults: Mapping[str, Any]) -> tuple[Parameter, ...]:
    """A setting of the user's beats the model's default, which beats ours."""
    merged = {name: Parameter(name, value, "default") for name, value in OUR_DEFAULTS.items()}
    merged.update({name: Parameter(name, value, "model") for name, value in model_defaults.items()})
    merged.update({name: Parameter(name, value, "setting") for name, value in wanted.items()})
    return tuple(merged.values())


def check_parameters(wanted: Mapping[str, Any]) -> None:
    """Refuse what would be overwritten or cannot be calculated with.

    Raises:
        UsageError: a parameter that other settings decide, or one that is no whole number.
    """
    for name, value in wanted.items():
        if name in DECIDED or name.startswith("compute_"):
            hint = "data, base_model and compute in mlops.yaml decide it"
            raise UsageError(f"'{name}' cannot be set as a parameter", hint=hint)
        if name in COUNTED and not (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
            raise UsageError(f"the parameter '{name}' is '{value}'; it must be a whole number from 1")


def truth(value: Any) -> bool:
    """Whether a parameter of the pipeline, which travels as a string, is on."""
    return str(value).strip().lower() in {"true", "1", "yes"}


def display_name(model: str, values: Mapping[str, Any], *, gpus_per_node: int, nodes: int) -> str:
    """``{model}-ultrachat-bs{batch}-{scheduler}-{ds{stage}|nods}-{lora|nolora}-save_limit{n}-seqlen{n}``.

    The batch is rows per optimiser step: per device × accumulation × GPUs per node × nodes.
    """
    per_device = int(values.get("per_device_train_batch_size", 1))
    batch = per_device * int(values.get("gradient_accumulation_steps", 1)) * max(gpus_per_node, 1) * nodes
    deepspeed = f"ds{values.get('deepspeed_stage', 2)}" if truth(values.get("apply_deepspeed")) else "nods"
    lora = "lora" if truth(values.get("apply_lora")) else "nolora"
    limit, length = values.get("save_total_limit", -1), values.get("max_seq_length", -1)
    scheduler = values.get("lr_scheduler_type", "linear")
    return f"{model}-ultrachat-bs{batch}-{scheduler}-{deepspeed}-{lora}-save_limit{limit}-seqlen{length}"


def literal(value: Any) -> Any:
    """A value as the pipeline's inputs take it: booleans and enums are lower-case strings."""
    return str(value).lower() if isinstance(value, bool) else value


def folder_hash(folder: Path) -> str:
    """One hash over the names and contents of a folder's files, caches left out."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def check_compute(
    session: Session, settings: Settings, *, base: ModelVersion | None, create: bool
) -> tuple[Cluster, int]:
    """Find or create the cluster and count its GPUs per node.

    Raises:
        PreconditionError: a retired size, one off the allow-list, a failed cluster, one without GPUs.
    """
    wanted = settings.compute
    catalogue.check_size(wanted.size)
    found = computes.get(session, wanted.name)
    size = found.size if found else wanted.size
    catalogue.check_size(size)
    allowed = None
    if base is not None:
        allowed = catalogue.allowed_sizes(base.tags, base.properties, purpose="finetune")
    model = base.name if base else settings.base_model.huggingface_id
    catalogue.check_allowed(size, allowed, model=model, purpose="finetune")
    if found is None:
        if not create:
            found = Cluster(
                name=wanted.name, size=size, state="to be created", tier=wanted.tier,
                min_nodes=wanted.min_nodes, max_nodes=wanted.max_nodes,
            )  # fmt: skip
        else:
            session.console.say(
                f"the cluster '{wanted.name}' does not exist; creating it ({wanted.size}, {wanted.tier})"
            )
            found = computes.create(session, wanted)
    if found.state.lower() == "failed":
        raise PreconditionError(
            f"the cluster '{found.name}' is in the state '{found.state}'",
            hint="delete it, or name another under compute.name in mlops.yaml",
        )
    offered = computes.sizes(session)
    gpus = next((item.gpus for item in offered if item.name.lower() == size.lower()), None)
    if gpus is None:
        names = ", ".join(sorted(item.name for item in offered if item.gpus))
        raise PreconditionError(f"the region does not offer the size '{size}'", hint=f"it offers with GPUs: {names}")
    if gpus == 0:
        raise PreconditionError(f"the size '{size}' has no GPU", hint="choose one with a GPU under compute.size")
    return found, gpus


def find_base_model(session: Session, settings: Settings) -> ModelVersion | None:
    """The registry's model where the settings ask for one; None where the pipeline fetches it from the hub.

    Raises:
        PreconditionError: the registry has no such model, or it is retired.
    """
    choice = settings.base_model
    if choice.source == "huggingface":
        return None
    found = models.get(session, choice.name, choice.version, registry=choice.registry)
    if found is None:
        raise PreconditionError(f"the registry '{choice.registry}' has no model '{choice.name}' ({choice.version})")
    gone = catalogue.retired_model(found.name)
    if (gone or (found.stage or "").lower() == "retired") and not settings.is_local:
        when = f" on {gone.since}" if gone else ""
        raise PreconditionError(
            f"the model '{found.name}' was retired{when}",
            hint=f"use {gone.instead}" if gone else "choose another model",
        )
    return found


def plan(session: Session, settings: Settings, data: TrainingData, *, create_compute: bool, tags: Mapping[str, str],
         overrides: Mapping[str, Any] | None = None) -> TrainingPlan:  # fmt: skip
    """Decide everything about a training job.

    Raises:
        PreconditionError: see :func:`find_base_model` and :func:`check_compute`.
        UsageError: see :func:`check_parameters`.
    """
    wanted = {**settings.training.parameters, **(overrides or {})}
    check_parameters(wanted)
    choice = settings.base_model
    base = find_base_model(session, settings)
    cluster, gpus = check_compute(session, settings, base=base, create=create_compute)
    parameters = resolve_parameters(wanted, catalogue.model_defaults(base.tags) if base else {})
    values = {item.name: item.value for item in parameters}
    inputs: dict[str, Any] = {item.name: literal(item.value) for item in parameters}
    clusters = ("model_import", "preprocess", "finetune", "model_evaluation")
    inputs.update({f"compute_{purpose}": cluster.name for purpose in clusters})
    nodes = int(values.get("num_nodes_finetune", 1))
    inputs["number_of_gpu_to_use_finetuning"] = int(values.get("number_of_gpu_to_use_finetuning", gpus))
    inputs["train_file_path"] = jobs.FileInput(data.train)
    inputs["test_file_path"] = jobs.FileInput(data.test)
    if base is not None:
        inputs["mlflow_model_path"] = jobs.ModelInput(base.id)
    else:
        inputs["huggingface_id"] = choice.huggingface_id
    base_id = base.id if base else f"https://huggingface.co/{choice.huggingface_id}"
    ours = settings.training.pipeline == "components"
    folder = settings.root / "components"
    component = (
        f"components@{folder_hash(folder)[:12]}" if ours else f"{COMPONENT}:{settings.training.component_version}"
    )
    literals = {name: str(value) for name, value in sorted(inputs.items()) if not isinstance(value, jobs.FileInput)}
    decides = {
        "data": data.content_hash,
        "base_model": base_id,
        "component": component,
        "compute_size": cluster.size.lower(),
        "inputs": literals,
    }
    fingerprint = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    return TrainingPlan(
        display_name=display_name(choice.name, values, gpus_per_node=gpus, nodes=nodes),
        experiment=settings.experiment,
        base_model=base_id,
        component=component,
        compute=cluster.name,
        gpus_per_node=gpus,
        nodes=nodes,
        parameters=parameters,
        inputs=inputs,
        tags={**tags, "managed-by": "mlops", "data-hash": data.content_hash, "base-model": base_id,
              "fingerprint": fingerprint},
        fingerprint=fingerprint,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """A job, and whether this call began it."""

    job: Job
    is_new: bool


def submit(session: Session, settings: Settings, made: TrainingPlan, *, again: bool = False) -> Submitted:
    """Submit the plan, or find the job that already runs or completed it.

    Args:
        session: the workspace.
        settings: the target's settings.
        made: what to train.
        again: train anew even if a completed job of the same content exists (a running one is still joined).
    """
    for attempt in range(1, MAX_ATTEMPTS + 1):
        found = jobs.get(session, made.job_name(attempt))
        if found is None:
            break
        if found.is_running or (found.is_completed and not again):
            return Submitted(job=found, is_new=False)
    else:
        raise PreconditionError(
            f"{MAX_ATTEMPTS} jobs of this very content exist and none is usable", hint="change the data or the settings"
        )
    component: Any = ("azureml", COMPONENT, settings.training.component_version)
    if settings.training.pipeline == "components":
        component = settings.root / "components" / f"{COMPONENT}.yml"
    spec = jobs.PipelineSpec(
        name=made.job_name(attempt),
        display_name=made.display_name,
        experiment=made.experiment,
        description=f"Fine-tune {settings.base_model.name} on {settings.data.dataset}",
        component=component,
        inputs=made.inputs,
        tags=made.tags,
    )
    return Submitted(job=jobs.submit(session, spec), is_new=True)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A job and its steps at one moment."""

    job: Job
    steps: tuple[Job, ...]


def wait(
    session: Session,
    name: str,
    *,
    poll_s: float,
    timeout_s: float | None = None,
    show: Callable[[Progress], None] = lambda _: None,
) -> Progress:
    """Follow a job to its end; only ``Completed`` is success.

    Raises:
        TrainingFailed: it ended otherwise; with the log's tail of the step that failed.
        NotFinishedYet: ``timeout_s`` seconds are over.
    """
    end = None if timeout_s is None else time.monotonic() + timeout_s
    seen: dict[str, Job] = {}
    while True:
        job = jobs.get(session, name)
        if job is None:
            raise PreconditionError(f"there is no job '{name}'", hint="mlops train submits one")
        progress = Progress(job=job, steps=tuple(timed(jobs.steps(session, name), seen)))
        show(progress)
        if job.is_completed:
            return progress
        if job.status not in RUNNING:
            raise failure(session, progress)
        if end is not None and time.monotonic() + poll_s > end:
            raise NotFinishedYet(
                f"the job '{name}' is still {job.status} after {timeout_s:.0f} s", hint=f"mlops wait {name}"
            )
        stay_interruptible()
        time.sleep(poll_s)


def timed(found: list[Job], seen: dict[str, Job]) -> list[Job]:
    """The steps with the times at which they were first seen running and ended: run history gives none.

    Args:
        found: the steps as they are now.
        seen: the steps as they were, by name; updated.
    """
    now = datetime.now(UTC)
    for step in found:
        before = seen.get(step.name, step)
        started = step.started or before.started or (now if step.status == "Running" else None)
        ended = step.ended or before.ended or (now if not step.is_running and started else None)
        seen[step.name] = dataclasses.replace(step, started=started, ended=ended)
    return [seen[step.name] for step in found]


def failure(session: Session, progress: Progress) -> MlopsError:
    """Say why a job did not complete: the step, and the end of its log."""
    job = progress.job
    failed = next((step for step in progress.steps if step.status == "Failed"), None)
    if failed is None:
        word = {"Canceled": "was cancelled"}.get(job.status, f"ended as '{job.status}'")
        return TrainingFailed(f"the job '{job.name}' {word}", hint="mlops train submits another attempt")
    tail = jobs.log_tail(session, failed.name, lines=LOG_LINES)
    return TrainingFailed(
        f"the step '{failed.display_name}' of the job '{job.name}' failed",
        details=tail or ("no log was written",),
        hint=job.studio_url,
    )
