"""mlops.yaml, validated whole: one frozen model per target, errors with the file's line."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from mlops.config.document import Problem, SettingsFile, close_to, read, suggestion
from mlops.core.errors import UsageError
from mlops.machines import servers

FILE = "mlops.yaml"
Share = Annotated[float, Field(ge=0, le=1)]
SLOTS = ("blue", "green")
NAME = r"[A-Za-z0-9][-A-Za-z0-9_]{2,127}"
IDENTITY_NAME = re.compile(NAME)
IDENTITY_ID = re.compile(
    rf"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.ManagedIdentity/userAssignedIdentities/{NAME}",
    re.IGNORECASE,
)


class Section(BaseModel):
    """A part of the settings; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Data(Section):
    """Where the chats come from and how much of them is taken."""

    dataset: str
    revision: str | None = None
    way: Literal["splits", "cut"] = "splits"
    percent: Annotated[float, Field(gt=0, le=100)] = 5
    seed: int = 42
    train_split: str = "train_sft"
    test_split: str = "test_sft"


class BaseModelChoice(Section):
    """The model that is fine-tuned, and the way it reaches the pipeline."""

    source: Literal["huggingface", "registry"] = "huggingface"
    huggingface_id: str = "microsoft/Phi-3-mini-4k-instruct"
    registry: str = "azureml"
    name: str = "Phi-3-mini-4k-instruct"
    version: str = "latest"

    @model_validator(mode="before")
    @classmethod
    def _version_as_text(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("version"), int):
            return {**values, "version": str(values["version"])}
        return values


Finite = Annotated[float, Field(allow_inf_nan=False)]


class Bounds(Section):
    """The least and the most that a measure of the tuned model may be; null decides nothing."""

    min: Finite | None = None
    max: Finite | None = None


class Limit(Bounds):
    """The same, and how much a measure may rise or drop against the base model's."""

    max_rise: Finite | None = None
    max_drop: Finite | None = None


class Evaluation(Section):
    """What a tuned model must show before it is registered; the measures stand in :mod:`mlops.training.evaluation`.

    ``required`` refuses a model that was not evaluated; without it there is a warning.
    """

    required: bool = False
    loss: Limit = Field(default_factory=Limit)
    perplexity: Limit = Field(default_factory=Limit)
    rouge_l: Limit = Field(default_factory=Limit)
    exact_match: Limit = Field(default_factory=Limit)
    answer_tokens: Limit = Field(default_factory=Limit)
    unfinished: Limit = Field(default_factory=Limit)
    empty: Limit = Field(default_factory=Limit)
    repetition: Limit = Field(default_factory=Limit)
    general_loss: Limit = Field(default_factory=Limit)
    general_perplexity: Limit = Field(default_factory=Limit)
    general_rouge_l: Limit = Field(default_factory=Limit)
    general_exact_match: Limit = Field(default_factory=Limit)
    eval_loss: Bounds = Field(default_factory=Bounds)


class Training(Section):
    """The pipeline and its parameters; ``parameters`` are inputs of chat_completion_pipeline."""

    pipeline: Literal["registry", "components"] = "registry"
    component_version: str = "0.0.82"
    poll_s: Annotated[float, Field(gt=0)] = 15
    parameters: dict[str, bool | int | float | str] = Field(default_factory=dict)
    evaluation: Evaluation = Field(default_factory=Evaluation)


class Compute(Section):
    """The training cluster."""

    name: str
    size: str
    tier: Literal["Dedicated", "LowPriority"] = "Dedicated"
    min_nodes: Annotated[int, Field(ge=0)] = 0
    max_nodes: Annotated[int, Field(ge=1)] = 1
    max_nodes_low_priority: Annotated[int, Field(ge=1)] = 2
    idle_s: Annotated[int, Field(ge=0)] = 120


class Model(Section):
    """The registered model."""

    name: str


class EndpointSettings(Section):
    """The lasting endpoint, and how previews are named."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$", min_length=3, max_length=32)]
    preview_prefix: Annotated[str, Field(pattern=r"^[a-zA-Z][-a-zA-Z0-9]*-$", max_length=21)] = "ultrachat-completion-"


class DeploymentSettings(Section):
    """One slot: its machine, its server, its limits.

    A liveness delay of null follows the model's size; an environment of null, and a null number of concurrent requests,
    follow the machine (:mod:`mlops.machines.servers`).
    """

    instance_type: str
    instance_count: Annotated[int, Field(ge=1, le=50)] = 1
    max_concurrent_requests: Annotated[int, Field(ge=1)] | None = None
    request_timeout_ms: Annotated[int, Field(ge=1, le=180_000)] = 90_000
    liveness_initial_delay_s: Annotated[int, Field(ge=1)] | None = None
    environment: Path | None = None
    code: Path = servers.CODE
    scoring_script: str = servers.SCRIPT
    identity: str | None = None
    variables: dict[str, str] = Field(default_factory=dict)

    @property
    def server(self) -> servers.Server:
        """What serves it."""
        return servers.chosen(
            self.environment,
            size=self.instance_type,
            code=self.code,
            script=self.scoring_script,
            concurrency=self.max_concurrent_requests,
        )

    @field_validator("scoring_script")
    @classmethod
    def _is_run(cls, script: str, info: ValidationInfo) -> str:
        environment, code = info.data.get("environment"), info.data.get("code", servers.CODE)
        server = servers.chosen(environment, size="", code=code, script=script, concurrency=None)
        if script not in {servers.SCRIPT, server.script}:
            raise ValueError(
                f"{server.name} in '{environment}' runs no script; take '{servers.SCORING}', or leave it out"
            )
        return script

    @field_validator("identity")
    @classmethod
    def _name_or_id(cls, identity: str | None) -> str | None:
        if identity is None or IDENTITY_NAME.fullmatch(identity) or IDENTITY_ID.fullmatch(identity):
            return identity
        raise ValueError("must be the name of a user-assigned identity in the workspace's group, or its ARM id")


class Quality(Section):
    """Thresholds of one quality metric, each between 0 and 1; null is reported and decides nothing."""

    min: Share | None = None
    max_loss: Share | None = 0.05


class Gate(Section):
    """What a deployment must show before it gets traffic. A threshold of null is reported but decides nothing.

    ``quality`` names metrics: ``exact_match``, ``rouge_l``, or ``module:function`` for one's own. ``dry_run`` names
    checks that are reported, not decisive.
    """

    split: str = "test_sft"
    conversations: Annotated[int, Field(ge=1)] = 50
    max_conversations: Annotated[int, Field(ge=1)] = 200
    concurrency: Annotated[int, Field(ge=1, le=64)] = 4
    warmup: Annotated[int, Field(ge=0)] = 2
    timeout_s: Annotated[float, Field(gt=0)] = 90
    seed: int = 42
    parameters: dict[str, Any] = Field(default_factory=dict)
    min_success_rate: Share | None = 1.0
    min_contract_rate: Share | None = 1.0
    max_transport_error_rate: Share | None = 0.05
    max_p95_ms: Annotated[float, Field(gt=0)] | None = 30_000
    max_ms_per_token: Annotated[float, Field(gt=0)] | None = None
    quality: dict[str, Quality] = Field(default_factory=lambda: {"exact_match": Quality(), "rouge_l": Quality()})
    max_latency_ratio: Annotated[float, Field(gt=0)] | None = 1.5
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    dry_run: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _room_for_more(self) -> Gate:
        if self.max_conversations < self.conversations:
            raise ValueError("max_conversations must not be less than conversations")
        return self


class Rollout(Section):
    """How traffic moves to the new slot once the gate has passed, and what is watched meanwhile."""

    steps: list[Annotated[int, Field(ge=1, le=100)]] = Field(default_factory=lambda: [10, 50, 100])
    soak_s: Annotated[float, Field(ge=0)] = 60
    mirror_percent: Annotated[int, Field(ge=0, le=50)] = 0
    mirror_s: Annotated[float, Field(ge=0)] = 60
    probes: Annotated[int, Field(ge=1)] = 10
    probes_per_s: Annotated[float, Field(gt=0)] = 2
    max_soak_s: Annotated[float, Field(gt=0)] = 900
    lease_s: Annotated[int, Field(ge=15, le=60)] = 60
    grace_h: Annotated[float, Field(ge=0)] = 24

    @field_validator("steps")
    @classmethod
    def _ends_at_all(cls, steps: list[int]) -> list[int]:
        if not steps or steps[-1] != 100 or sorted(set(steps)) != steps:
            raise ValueError("the steps must rise and end at 100")
        return steps


class Http(Section):
    """How long Azure may take to answer one call; operations that run longer are polled."""

    connect_timeout_s: Annotated[float, Field(gt=0)] = 10
    read_timeout_s: Annotated[float, Field(gt=0)] = 60


class Cleanup(Section):
    """When something is stale, and what it costs per hour; the grace of an idle slot is ``rollout.grace_h``."""

    older_than_days: Annotated[float, Field(ge=0)] = 7
    failed_h: Annotated[float, Field(ge=0)] = 1
    keep_versions: Annotated[int, Field(ge=1)] | None = None
    scale_down_clusters: bool = False
    at_once: Annotated[int, Field(ge=1, le=16)] = 16
    currency: str = "USD"
    prices_per_hour: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)


class Setup(Section):
    """What ``mlops setup`` makes beside what other sections name; all of it in the workspace's resource group."""

    github_identity: Annotated[str, Field(pattern=f"^{NAME}$")] = "mlops-github"
    hub: Annotated[str, Field(pattern=r"^[A-Za-z0-9][-\w]{2,32}$")] = "ultrachat-hub"
    project: Annotated[str, Field(pattern=r"^[A-Za-z0-9][-\w]{2,32}$")] = "ultrachat-chat"


class Settings(Section):
    """Everything about one target."""

    target: str
    root: Path
    data: Data
    base_model: BaseModelChoice = Field(default_factory=BaseModelChoice)
    training: Training = Field(default_factory=Training)
    compute: Compute
    model: Model
    endpoint: EndpointSettings
    deployment: DeploymentSettings
    gate: Gate = Field(default_factory=Gate)
    rollout: Rollout = Field(default_factory=Rollout)
    cleanup: Cleanup = Field(default_factory=Cleanup)
    setup: Setup = Field(default_factory=Setup)
    http: Http = Field(default_factory=Http)

    @property
    def is_local(self) -> bool:
        """Whether this target lives in the local workspace."""
        return self.target == "local"

    @property
    def target_flag(self) -> str:
        """What a command that is shown to people needs to mean this target."""
        return "" if self.is_local else f" --target {self.target}"

    @property
    def home(self) -> Path:
        """Where prepared data, reports and the local workspace are kept."""
        return Path(os.environ.get("MLOPS_HOME") or self.root / ".mlops").expanduser().absolute()

    @property
    def experiment(self) -> str:
        """The experiment of training jobs, named after the base model."""
        return f"chat_completion_{self.base_model.name}"


SECTIONS = [name for name in Settings.model_fields if name not in ("target", "root")]


def find_file(start: Path | None = None) -> Path:
    """The settings file: MLOPS_SETTINGS, or mlops.yaml here or in a folder above."""
    from_environment = os.environ.get("MLOPS_SETTINGS")
    if from_environment:
        path = Path(from_environment)
        if not path.is_file():
            raise UsageError(f"the settings file '{from_environment}' (from MLOPS_SETTINGS) does not exist")
        return path.absolute()
    folder = (start or Path.cwd()).absolute()
    for candidate in (folder, *folder.parents):
        if (candidate / FILE).is_file():
            return candidate / FILE
    raise UsageError(
        f"no {FILE} in '{folder}' or above it", hint="run mlops inside the checkout, or set MLOPS_SETTINGS"
    )


def load(target: str, path: Path | None = None) -> Settings:
    """Read and validate the settings of one target.

    Raises:
        UsageError: the file is missing or not YAML, the target is unknown, a value is wrong or a key unknown.
    """
    file = read(path or find_file())
    names = sorted(file.targets)
    if not file.problems and target not in names:
        raise UsageError(
            f"no target '{target}' in {file.path.name}; it has {', '.join(names) or 'none'}",
            hint=close_to(target, names) or "choose one with --target or MLOPS_TARGET",
        )
    settings, problems = _validated(file, target)
    if settings is None:
        raise refusal(file, problems, hint=f"target '{target}'")
    return settings


def load_all(path: Path | None = None) -> tuple[dict[str, Settings], list[Problem]]:
    """The settings of every target that is right, and what is wrong with the others, by line, each once.

    Raises:
        UsageError: the file is missing or not YAML.
    """
    file = read(path or find_file())
    valid: dict[str, Settings] = {}
    problems = list(file.problems)
    for target in sorted(file.targets):
        settings, wrong = _validated(file, target)
        problems += wrong
        if settings is not None:
            valid[target] = settings
    if not file.targets and not problems:
        problems.append(Problem(None, "there is no target under 'targets'"))
    return valid, sorted(dict.fromkeys(problems), key=lambda problem: problem.line or 0)


def refusal(file: SettingsFile, problems: Sequence[Problem], *, hint: str) -> UsageError:
    """The error that names every problem, the first one as its message."""
    first, *others = problems
    rest = [f"{file.location(problem.line)}: {problem.message}" for problem in others]
    return UsageError(first.message, location=file.location(first.line), details=rest, hint=hint)


def _validated(file: SettingsFile, target: str) -> tuple[Settings | None, list[Problem]]:
    merged, problems = file.merged(target, SECTIONS)
    if file.problems or problems:
        return None, [*file.problems, *problems]
    try:
        return Settings(target=target, root=file.path.parent, **merged), []
    except ValidationError as error:
        return None, [_problem(item, file, target) for item in error.errors()]


def _problem(item: Any, file: SettingsFile, target: str) -> Problem:
    loc = tuple(str(part) for part in item["loc"])
    line, dotted = file.line(loc, target), ".".join(loc)
    if item["type"] == "extra_forbidden":
        return Problem(line, f"unknown key '{dotted}'{_suggest(loc)}")
    if item["type"] == "missing":
        return Problem(line, f"'{dotted}' is missing")
    message = item["msg"].removeprefix("Value error, ")
    return Problem(line, f"'{dotted}' is '{item['input']}': {message[0].lower()}{message[1:]}")


def _suggest(loc: tuple[str, ...]) -> str:
    model: Any = Settings
    for part in loc[:-1]:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return ""
        model = annotation
    return suggestion(loc[-1], [name for name in model.model_fields if name not in ("target", "root")])
