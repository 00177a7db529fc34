"""The training step: what is submitted, under which name, and what became of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops.azure import jobs
from mlops.core.errors import AzureError, PreconditionError, UsageError
from mlops.core.resources import MANAGED_BY, MANAGED_TAG, MODEL_TAG, Job
from mlops.machines import catalogue
from mlops.training import pipeline, preflight
from mlops.training.register import model_name

if TYPE_CHECKING:
    from mlops.azure.session import Session
    from mlops.config.settings import Settings

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
    "precision": 16,
}
COMPONENTS_DEFAULTS: dict[str, Any] = {"resume_from_checkpoint": True}
"""Where our own components train: a cluster may take a node away, and they go on from what they have written."""


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


def resolve_parameters(
    own: Mapping[str, Any], model_defaults: Mapping[str, Any], *, pipeline: str
) -> tuple[Parameter, ...]:
    """A setting of the user's beats the model's default, which beats ours.

    Args:
        own: the user's settings.
        model_defaults: what the registry says of the model.
        pipeline: ``registry`` or ``components``, whose defaults are not all the same.
    """
    ours = OUR_DEFAULTS | (COMPONENTS_DEFAULTS if pipeline == "components" else {})
    merged = {name: Parameter(name, value, "default") for name, value in ours.items()}
    merged.update({name: Parameter(name, value, "model") for name, value in model_defaults.items()})
    merged.update({name: Parameter(name, value, "setting") for name, value in own.items()})
    return tuple(merged.values())


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Refuse what would be overwritten or cannot be calculated with.

    Raises:
        UsageError: a parameter that other settings decide, or one that is no whole number.
    """
    for name, value in parameters.items():
        if name in DECIDED or name.startswith("compute_"):
            hint = "data, base_model and compute in mlops.yaml decide it"
            raise UsageError(f"'{name}' cannot be set as a parameter", hint=hint)
        if name in COUNTED and not (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
            raise UsageError(f"the parameter '{name}' is '{value}'; it must be a whole number from 1")


def chosen(settings: Settings, *, base_model: str | None = None, percent: float | None = None) -> Settings:
    """The settings with the choices of one run.

    Args:
        settings: the target's.
        base_model: ``owner/name`` is a model of the hub; ``name`` or ``name:version`` one of the registry, unless it is
            the name that the settings give to theirs.
        percent: of each split.
    """
    change: dict[str, Any] = {}
    if percent is not None:
        change["data"] = settings.data.model_copy(update={"percent": percent})
    model = settings.base_model
    if base_model is not None and base_model != model.name:
        owner, slash, short = base_model.rpartition("/")
        name, _, version = base_model.partition(":")
        choice = {"source": "registry", "name": name, "version": version or "latest"}
        if slash:
            choice = {"source": "huggingface", "huggingface_id": f"{owner}/{short}", "name": short}
        change["base_model"] = model.model_copy(update=choice)
    return settings.model_copy(update=change)


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


def plan(
    session: Session,
    settings: Settings,
    data: TrainingData,
    *,
    create_compute: bool,
    tags: Mapping[str, str],
    overrides: Mapping[str, Any] | None = None,
) -> TrainingPlan:
    """Decide everything about a training job.

    Raises:
        PreconditionError: see :mod:`mlops.training.preflight`.
        UsageError: see :func:`check_parameters` and :func:`mlops.training.pipeline.check`.
    """
    own = {**settings.training.parameters, **(overrides or {})}
    check_parameters(own)
    choice = settings.base_model
    base = preflight.find_base_model(session, settings)
    cluster, size = preflight.check_compute(session, settings, base=base)
    parameters = resolve_parameters(
        own, catalogue.model_defaults(base.tags) if base else {}, pipeline=settings.training.pipeline
    )
    values = {item.name: item.value for item in parameters}
    nodes = int(values.get("num_nodes_finetune", 1))
    inputs = pipeline.inputs(
        settings, values, base=base, cluster=cluster.name, gpus=size.gpus, train=data.train, test=data.test
    )
    pipeline.check(session, settings, inputs)
    if create_compute:
        cluster = preflight.make_cluster(session, settings, cluster)
    for warning in preflight.check_training_quota(session, cluster, size, nodes):
        session.console.warn(warning)
    base_id = base.id if base else f"https://huggingface.co/{choice.huggingface_id}"
    component = pipeline.label(settings)
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
        display_name=display_name(choice.name, values, gpus_per_node=size.gpus, nodes=nodes),
        experiment=settings.experiment,
        base_model=base_id,
        component=component,
        compute=cluster.name,
        gpus_per_node=size.gpus,
        nodes=nodes,
        parameters=parameters,
        inputs=inputs,
        tags={
            **tags,
            MANAGED_TAG: MANAGED_BY,
            MODEL_TAG: model_name(settings),
            "data-hash": data.content_hash,
            "base-model": base_id,
            "fingerprint": fingerprint,
        },
        fingerprint=fingerprint,
    )


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """A job, and whether this call began it."""

    job: Job
    is_new: bool


def submit(session: Session, settings: Settings, plan: TrainingPlan, *, force: bool = False) -> Submitted:
    """Submit the plan, or find the job that already runs or completed it.

    Args:
        session: the workspace.
        settings: the target's settings.
        plan: what to train.
        force: train again even if a completed job of the same content exists (a running one is still joined).
    """
    for attempt in range(1, MAX_ATTEMPTS + 1):
        job = jobs.get(session, plan.job_name(attempt))
        if job is None:
            break
        if job.is_running or (job.is_completed and not force):
            return Submitted(job=job, is_new=False)
    else:
        raise PreconditionError(
            f"{MAX_ATTEMPTS} jobs of this very content exist and none is usable", hint="change the data or the settings"
        )
    spec = jobs.PipelineSpec(
        name=plan.job_name(attempt),
        display_name=plan.display_name,
        experiment=plan.experiment,
        description=f"Fine-tune {settings.base_model.name} on {settings.data.dataset}",
        component=pipeline.component_source(settings),
        inputs=plan.inputs,
        tags=plan.tags,
    )
    try:
        return Submitted(job=jobs.submit(session, spec), is_new=True)
    except AzureError:
        job = jobs.get(session, spec.name)  # another one was faster, or only the answer was lost
        if job is None:
            raise
        return Submitted(job=job, is_new=False)
