"""The environment variables ``MLOPS_LOCAL_*``: how a local workspace begins, what it allows, how slow it is.

The daemon reads them when it starts; a daemon that runs goes by those that it was started with.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from mlops.local.arm.roles import Role, named
from mlops.local.daemon.services import PARTS
from mlops.local.state.config import Config
from mlops.local.state.limits import Limits

PREFIX = "MLOPS_LOCAL_"
NEEDS = {"jobs": ("registry",), "serving": ("jobs",)}
"""Parts that a part cannot do without."""


class WrongVariable(ValueError):
    """Variables with values that cannot be used: a line for each."""


@dataclass(frozen=True)
class Wants:
    """What would do as a variable's value, for the message about one that does not."""

    text: str


def _split(text: str) -> list[str]:
    return text.replace(",", " ").split()


def _known_parts(text: str) -> str:
    names = _split(text)
    for name in names:
        if name not in (*PARTS, "none"):
            raise ValueError(f"there is no part '{name}'")
        missing = [each for each in NEEDS.get(name, ()) if each not in names]
        if missing:
            raise ValueError(f"'{name}' needs {' and '.join(missing)}")
    return text


def _named_roles(text: str) -> list[Role]:
    roles = []
    for name in filter(None, (part.strip() for part in text.split(","))):
        role = named(name)
        if role is None:
            raise ValueError(f"'{name}' is not a built-in role")
        roles.append(role)
    return roles


def _known_roles(text: str) -> str:
    _named_roles(text)
    return text


Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False), Wants("give seconds, 0 or more")]
Count = Annotated[int, Field(ge=0), Wants("give a whole number, 0 or more")]
Name = Annotated[str, AfterValidator(lambda name: name or "local")]
Flag = Annotated[bool, BeforeValidator(lambda text: text or "0"), Wants("give 1 or 0")]
Quotas = Annotated[
    dict[str, Count], NoDecode, BeforeValidator(json.loads), Wants('give JSON: {"standardNCADSA100v4Family": 24}')
]
Names = Annotated[frozenset[str], NoDecode, BeforeValidator(lambda text: _split(text.lower()))]
Parts = Annotated[str, AfterValidator(_known_parts), Wants(f"give some of {', '.join(PARTS)}, or none")]
Roles = Annotated[str, AfterValidator(_known_roles), Wants("give names of Azure's built-in roles, separated by commas")]


class Variables(BaseSettings):
    """One field per variable, whose name is the field's in capitals after ``MLOPS_LOCAL_``."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", validate_default=False)

    resource_group: Name = Field(default="local", description="resource group of the local workspace")
    workspace: Name = Field(default="local", description="name of the local workspace")
    empty: Flag = Field(
        default=False, description="1 starts with an empty subscription, as `mlops local start --empty`"
    )
    roles: Roles = Field(
        default="Owner,Storage Blob Data Contributor",
        description="roles on the subscription that the login of `mlops local env` starts with",
    )
    parts: Parts = Field(
        default=",".join(PARTS),
        description="parts of the local workspace to run; `none` leaves identity, blob storage and control plane",
    )
    endpoint_s: Seconds = Field(default=0.3, description="seconds that creating or updating an endpoint takes")
    deployment_s: Seconds = Field(
        default=0.3, description="minimum seconds that creating or updating a deployment takes"
    )
    compute_s: Seconds = Field(default=0.3, description="seconds that creating or updating a cluster takes")
    delete_s: Seconds = Field(default=0.2, description="seconds that a deletion takes")
    resource_s: Seconds = Field(
        default=0.2, description="seconds that a storage account, a key vault or a provider registration takes"
    )
    federated_s: Seconds = Field(
        default=0.02, description="seconds that writing a federated credential takes; concurrent writes are refused"
    )
    principal_s: Seconds = Field(
        default=0, description="seconds until a new identity is visible in the directory (replication delay)"
    )
    quota_s: Seconds = Field(default=0.2, description="seconds until a quota request is decided")
    quota_grant: Count = Field(
        default=0, description="maximum vCPUs per VM family that quota requests are granted automatically"
    )
    latency_s: Seconds = Field(default=0, description="seconds added to every response of the control plane")
    retry_after_s: Seconds = Field(default=1, description="`Retry-After` of long-running operations, in seconds")
    token_s: Seconds = Field(default=3600, description="lifetime of Azure tokens, in seconds")
    assertion_s: Seconds = Field(default=300, description="lifetime of GitHub's OIDC tokens, in seconds")
    job_s: Seconds = Field(
        default=21600, description="lifetime of a GitHub job's permission to request OIDC tokens, in seconds"
    )
    endpoints: Count = Field(default=100, description="maximum endpoints in the subscription")
    family_vcpus: Count = Field(default=400, description="dedicated vCPU quota of each VM family")
    low_priority_vcpus: Count = Field(default=400, description="low-priority vCPU quota")
    quotas: Quotas = Field(
        default={}, description='vCPU quota of single VM families, as JSON: `{"standardNCADSA100v4Family": 24}`'
    )
    taken_names: Names = Field(
        default=frozenset(), description="resource names that are already taken in the region, comma-separated"
    )
    instance_processes: Count = Field(default=2, description="maximum processes per deployment on this machine")
    start_s: Seconds = Field(default=120, description="maximum seconds until a scoring process is ready")
    drain_s: Seconds = Field(
        default=30, description="maximum seconds to wait for in-flight requests before a scoring process stops"
    )
    lazy_start: Flag = Field(default=False, description="1 starts a deployment's processes on its first request")
    max_processes: Count = Field(
        default=1, description="maximum processes of a distributed training step on this machine"
    )

    def config(self) -> Config:
        """Names and delays."""
        return Config(
            resource_group=self.resource_group,
            workspace=self.workspace,
            endpoint_operation_s=self.endpoint_s,
            deployment_operation_s=self.deployment_s,
            compute_operation_s=self.compute_s,
            delete_operation_s=self.delete_s,
            resource_operation_s=self.resource_s,
            federated_write_s=self.federated_s,
            principal_s=self.principal_s,
            quota_operation_s=self.quota_s,
            quota_grant=self.quota_grant,
            latency_s=self.latency_s,
            retry_after_s=self.retry_after_s,
            token_s=self.token_s,
            assertion_s=self.assertion_s,
            job_s=self.job_s,
            max_processes=self.max_processes,
        )

    def limits(self) -> Limits:
        """What the subscription and this machine allow."""
        return Limits(
            endpoints=self.endpoints,
            family_vcpus=self.family_vcpus,
            low_priority_vcpus=self.low_priority_vcpus,
            quotas=self.quotas,
            taken_names=self.taken_names,
            instance_processes=self.instance_processes,
            start_timeout_s=self.start_s,
            drain_s=self.drain_s,
            lazy=self.lazy_start,
        )

    def login_roles(self) -> list[Role]:
        """The roles that the login begins with."""
        return _named_roles(self.roles)

    def wanted_parts(self) -> list[str]:
        """Names of the parts that shall run."""
        return _split(self.parts)


def read() -> Variables:
    """The variables as this process's environment has them.

    Raises:
        WrongVariable: some cannot be used.
    """
    try:
        return Variables()
    except ValidationError as error:
        raise WrongVariable("\n".join(_sentence(dict(item)) for item in error.errors())) from error


def _sentence(error: dict[str, Any]) -> str:
    """``MLOPS_LOCAL_ENDPOINT_S is 'soon': give seconds, 0 or more``, with the reason where there is one of ours."""
    field, *inner = error["loc"]
    wants = next(each.text for each in Variables.model_fields[field].metadata if isinstance(each, Wants))
    reason = str(error.get("ctx", {}).get("error", "")) if error["type"] == "value_error" else ""
    where = f"{PREFIX}{field.upper()}" + "".join(f"['{key}']" for key in inner)
    return f"{where} is '{error['input']}': {f'{reason}; ' if reason else ''}{wants}"
