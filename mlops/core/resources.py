"""What travels between the steps: jobs, models, clusters, endpoints, as plain frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

RUNNING = frozenset(
    {"NotStarted", "Queued", "Preparing", "Provisioning", "Starting", "Running", "Finalizing", "CancelRequested"}
)
"""States in which a job still moves. ``Paused`` and ``NotResponding`` are neither this nor success."""
COMPLETED = "Completed"
MANAGED_TAG = "managed-by"
MANAGED_BY = "mlops"
MODEL_TAG = "model"
"""On a training job: the name under which its model is registered."""
KIND_TAG = "mlops-kind"
"""On an endpoint: ``preview`` or ``lasting``."""
CREATED_TAG = "mlops-created"
KEEP_TAG = "keep"
"""Whoever sets it, whatever its value: cleanup leaves what bears it alone."""


def made_here(tags: Mapping[str, str]) -> bool:
    """Whether this repository made what bears these tags."""
    return tags.get(MANAGED_TAG) == MANAGED_BY


def kept(tags: Mapping[str, str]) -> bool:
    """Whether a person asked for it to be left alone; Azure does not tell tags apart by case."""
    return any(name.lower() == KEEP_TAG for name in tags)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training job, or one of its steps."""

    name: str
    status: str
    display_name: str = ""
    experiment: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    created: datetime | None = None
    started: datetime | None = None
    ended: datetime | None = None
    studio_url: str | None = None
    error: str | None = None

    @property
    def is_running(self) -> bool:
        """Whether it still moves."""
        return self.status in RUNNING

    @property
    def is_completed(self) -> bool:
        """Whether it ended well; nothing else counts as success."""
        return self.status == COMPLETED

    @property
    def timestamp(self) -> str:
        """Whole seconds of its creation, the version of its model."""
        return str(int((self.created or datetime.fromtimestamp(0, UTC)).timestamp()))

    @property
    def seconds(self) -> float | None:
        """How long it has run, or ran."""
        if self.started is None:
            return None
        return ((self.ended or datetime.now(UTC)) - self.started).total_seconds()


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """A version of a model, of the workspace or of a registry."""

    name: str
    version: str
    id: str
    tags: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    created: datetime | None = None
    job: str | None = None
    stage: str | None = None


@dataclass(frozen=True, kw_only=True)
class PipelineInput:
    """An input of a pipeline component: its type, the values that it takes, and whether it must be given."""

    name: str
    type: str
    required: bool = False
    values: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A compute cluster."""

    name: str
    size: str
    state: str
    tier: str
    min_nodes: int
    max_nodes: int
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class VmSize:
    """A machine size that the region offers."""

    name: str
    family: str
    cores: int
    gpus: int
    memory_gb: float


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Dedicated vCPUs of one family of machine sizes in the region; a limit of None is none."""

    family: str
    used: int
    limit: int | None


@dataclass(frozen=True, kw_only=True)
class Probe:
    """How a container is asked whether it lives, or is ready."""

    initial_delay_s: int
    period_s: int = 10
    timeout_s: int = 10
    failure_threshold: int = 30
    success_threshold: int = 1

    @property
    def patience_s(self) -> int:
        """Seconds from the container's start after which Azure acts on failures."""
        return self.initial_delay_s + self.period_s * self.failure_threshold


@dataclass(frozen=True, kw_only=True)
class Probes:
    """Both probes of a deployment."""

    liveness: Probe
    readiness: Probe


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """One slot of an endpoint."""

    name: str
    endpoint: str
    state: str
    model: str
    model_version: str
    instance_type: str
    instance_count: int = 1
    tags: Mapping[str, str] = field(default_factory=dict)
    created: datetime | None = None
    changed: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A managed online endpoint with the traffic that it splits, in per cent per deployment."""

    name: str
    state: str
    auth_mode: str
    scoring_url: str | None
    traffic: Mapping[str, int] = field(default_factory=dict)
    mirror: Mapping[str, int] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    created: datetime | None = None

    @property
    def live(self) -> tuple[str, ...]:
        """The deployments with traffic."""
        return tuple(sorted(name for name, share in self.traffic.items() if share > 0))
