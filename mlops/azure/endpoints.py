"""Endpoints and deployments.

Azure replaces an endpoint whole at every PUT, and a freshly built one carries an empty traffic map. So an endpoint is
created only where there is none, and changed only as a copy of what Azure holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlops.azure.errors import NotFoundError, translated
from mlops.azure.session import Session, finished, text
from mlops.errors import AzureError
from mlops.resources import Deployment, Endpoint

CONTAINERS = {"storage": "storage-initializer", "server": "inference-server"}


@dataclass(frozen=True, kw_only=True)
class DeploymentSpec:
    """A deployment before it is made."""

    name: str
    endpoint: str
    model_id: str
    instance_type: str
    instance_count: int
    environment: Path
    code: Path
    scoring_script: str
    max_concurrent_requests: int
    request_timeout_ms: int
    liveness_initial_delay_s: int
    variables: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


def get(session: Session, name: str) -> Endpoint | None:
    """An endpoint with its traffic; None where there is none."""
    try:
        with translated(f"look up the endpoint '{name}'"):
            return _endpoint(session.ml.online_endpoints.get(name))
    except NotFoundError:
        return None


def listed(session: Session) -> list[Endpoint]:
    """Every endpoint of the workspace."""
    with translated("list the endpoints"):
        return [_endpoint(item) for item in session.ml.online_endpoints.list()]


def create(
    session: Session, name: str, *, description: str, tags: Mapping[str, str], identity: str | None = None
) -> Endpoint:
    """Create an endpoint with key authentication. Only for a name that :func:`get` did not find."""
    from azure.ai.ml.entities import IdentityConfiguration, ManagedIdentityConfiguration, ManagedOnlineEndpoint

    user = IdentityConfiguration(
        type="user_assigned", user_assigned_identities=[ManagedIdentityConfiguration(resource_id=identity)]
    )
    endpoint = ManagedOnlineEndpoint(
        name=name, description=description, auth_mode="key", tags=dict(tags), identity=user if identity else None
    )
    with translated(f"create the endpoint '{name}'"):
        return _endpoint(finished(session.ml.online_endpoints.begin_create_or_update(endpoint)))


def set_traffic(session: Session, name: str, traffic: Mapping[str, int]) -> Endpoint:
    """Give an endpoint a traffic map, everything else as Azure holds it, and read it back.

    Raises:
        AzureError: Azure says that it is done, and the map is another one.
    """
    with translated(f"set the traffic of the endpoint '{name}'"):
        endpoint = session.ml.online_endpoints.get(name)
        endpoint.traffic = dict(traffic)
        finished(session.ml.online_endpoints.begin_create_or_update(endpoint))
        seen = _endpoint(session.ml.online_endpoints.get(name))
    wanted = {key.lower(): share for key, share in traffic.items() if share}
    if {key.lower(): share for key, share in seen.traffic.items() if share} != wanted:
        raise AzureError(
            f"the traffic of '{name}' is {dict(seen.traffic)} after it was set to {dict(traffic)}",
            hint="somebody else may be changing the endpoint; look with `mlops endpoint status`",
        )
    return seen


def delete(session: Session, name: str) -> None:
    """Delete an endpoint with its deployments."""
    with translated(f"delete the endpoint '{name}'"):
        finished(session.ml.online_endpoints.begin_delete(name=name))


def deployments(session: Session, endpoint: str) -> list[Deployment]:
    """The deployments of an endpoint."""
    with translated(f"list the deployments of '{endpoint}'"):
        return [_deployment(item, endpoint) for item in session.ml.online_deployments.list(endpoint_name=endpoint)]


def deploy(session: Session, spec: DeploymentSpec) -> Deployment:
    """Create a deployment, or put another model into it; returns when Azure says that it is ready."""
    from azure.ai.ml import load_environment
    from azure.ai.ml.entities import CodeConfiguration, ManagedOnlineDeployment, OnlineRequestSettings, ProbeSettings

    with translated(f"deploy to the slot '{spec.name}'"):
        deployment = ManagedOnlineDeployment(
            name=spec.name,
            endpoint_name=spec.endpoint,
            model=spec.model_id,
            environment=load_environment(spec.environment),
            code_configuration=CodeConfiguration(code=str(spec.code), scoring_script=spec.scoring_script),
            instance_type=spec.instance_type,
            instance_count=spec.instance_count,
            request_settings=OnlineRequestSettings(
                request_timeout_ms=spec.request_timeout_ms,
                max_concurrent_requests_per_instance=spec.max_concurrent_requests,
            ),
            liveness_probe=ProbeSettings(initial_delay=spec.liveness_initial_delay_s),
            readiness_probe=ProbeSettings(initial_delay=10),
            environment_variables=dict(spec.variables),
            tags=dict(spec.tags),
        )
        finished(session.ml.online_deployments.begin_create_or_update(deployment))
        found = session.ml.online_deployments.get(name=spec.name, endpoint_name=spec.endpoint)
    return _deployment(found, spec.endpoint)


def delete_deployment(session: Session, endpoint: str, name: str) -> None:
    """Delete one deployment."""
    with translated(f"delete the deployment '{name}' of '{endpoint}'"):
        finished(session.ml.online_deployments.begin_delete(name=name, endpoint_name=endpoint))


def logs(session: Session, endpoint: str, deployment: str, *, container: str = "server", lines: int = 50) -> str:
    """The tail of a deployment's container log; ``container`` is ``server`` or ``storage``."""
    with translated(f"read the logs of '{deployment}'"):
        log: str = session.ml.online_deployments.get_logs(
            name=deployment, endpoint_name=endpoint, lines=lines, container_type=CONTAINERS[container]
        )
    return log


def key(session: Session, endpoint: str) -> str:
    """The primary key of an endpoint."""
    with translated(f"read the key of the endpoint '{endpoint}'"):
        found: str = session.ml.online_endpoints.get_keys(endpoint).primary_key
    session.console.mask(found)
    return found


def _endpoint(found: Any) -> Endpoint:
    return Endpoint(
        name=found.name,
        state=text(found.provisioning_state),
        auth_mode=text(found.auth_mode),
        scoring_url=found.scoring_uri,
        traffic={name: int(share) for name, share in (found.traffic or {}).items()},
        mirror={name: int(share) for name, share in (found.mirror_traffic or {}).items()},
        tags=dict(found.tags or {}),
    )


def _deployment(found: Any, endpoint: str) -> Deployment:
    model = str(getattr(found.model, "id", None) or found.model or "")
    parts = model.rstrip("/").split("/")
    named = len(parts) >= 4 and parts[-2].lower() == "versions"
    context = getattr(found, "creation_context", None)
    return Deployment(
        name=found.name,
        endpoint=endpoint,
        state=text(found.provisioning_state),
        model=parts[-3] if named else model,
        model_version=parts[-1] if named else "",
        instance_type=found.instance_type or "",
        instance_count=int(found.instance_count or 1),
        tags=dict(found.tags or {}),
        created=getattr(context, "created_at", None),
        changed=getattr(context, "last_modified_at", None),
    )
