"""Endpoints and deployments.

Azure replaces an endpoint whole at every PUT, and a freshly built one carries an empty traffic map. So an endpoint is
created only where there is none, and changed only as a copy of what Azure holds. Every change is asked for until it
holds (:mod:`mlops.azure.ensure`); its caller has the endpoint's lease.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlops.azure.ensure import PASSING, ensure, retry_read, settled
from mlops.azure.errors import NotFoundError, translated
from mlops.azure.session import Session, finished, text
from mlops.config.settings import SLOTS
from mlops.core.errors import AzureError, PreconditionError
from mlops.core.resources import Deployment, Endpoint, Probe, Probes

CONTAINERS = {"storage": "storage-initializer", "server": "inference-server"}
SPEC_TAG = "mlops-spec"
"""A digest of all that makes up a deployment: one that stands with the same digest need not be made again."""
BROKEN = ("failed", "canceled")


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
    probes: Probes
    variables: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """What the deployment is made of, files included, as 16 hexadecimal digits; the same on every machine."""
        values = asdict(self)
        for name in ("environment", "code", "tags"):
            del values[name]
        hasher = hashlib.sha256(repr(sorted(values.items())).encode())
        files = sorted(path for path in self.code.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        for name, file in [("", self.environment), *((file.relative_to(self.code).as_posix(), file) for file in files)]:
            hasher.update(name.encode() + hashlib.sha256(file.read_bytes()).digest())
        return hasher.hexdigest()[:16]


def get(session: Session, name: str) -> Endpoint | None:
    """An endpoint with its traffic; None where there is none."""
    try:
        with translated(f"look up the endpoint '{name}'"):
            return _endpoint(session.ml.online_endpoints.get(name))
    except NotFoundError:
        return None


def required(session: Session, name: str) -> Endpoint:
    """An endpoint with its traffic.

    Raises:
        PreconditionError: there is none.
    """
    endpoint = get(session, name)
    if endpoint is None:
        raise PreconditionError(
            f"there is no endpoint '{name}'", hint=f"mlops deploy{session.settings.target_flag} makes it"
        )
    return endpoint


def required_address(endpoint: Endpoint) -> str:
    """Where an endpoint answers.

    Raises:
        AzureError: it has no address yet.
    """
    if not endpoint.scoring_url:
        state = f"it is '{endpoint.state}'"
        raise AzureError(f"the endpoint '{endpoint.name}' has no scoring address yet ({state})", hint="try again")
    return endpoint.scoring_url


def listed(session: Session) -> list[Endpoint]:
    """Every endpoint of the workspace."""
    with translated("list the endpoints"):
        return [_endpoint(item) for item in session.ml.online_endpoints.list()]


def settle(session: Session, name: str) -> Endpoint | None:
    """An endpoint once nothing changes it any more; None where there is none."""
    return settled(session, f"the endpoint '{name}'", lambda: get(session, name), lambda endpoint: endpoint.state)


def create(
    session: Session, name: str, *, description: str, tags: Mapping[str, str], identity: str | None = None
) -> Endpoint:
    """Create an endpoint with key authentication. Only for a name that :func:`get` did not find."""
    from azure.ai.ml.entities import IdentityConfiguration, ManagedIdentityConfiguration, ManagedOnlineEndpoint

    user = IdentityConfiguration(
        type="user_assigned", user_assigned_identities=[ManagedIdentityConfiguration(resource_id=identity)]
    )

    def make() -> None:
        if retry_read(lambda: get(session, name)) is not None:  # an attempt of ours got that far
            mend(session, name)
            return
        endpoint = ManagedOnlineEndpoint(
            name=name, description=description, auth_mode="key", tags=dict(tags), identity=user if identity else None
        )
        with translated(f"create the endpoint '{name}'"):
            finished(session.ml.online_endpoints.begin_create_or_update(endpoint))

    return ensure(make, lambda: _sound(settle(session, name)), retried_errors=(*PASSING, AzureError))


def mend(session: Session, name: str) -> Endpoint:
    """Bring an endpoint whose last operation failed back to a sound state: what it holds, put once more."""

    def put() -> None:
        with translated(f"mend the endpoint '{name}'"):
            endpoint = session.ml.online_endpoints.get(name)
            finished(session.ml.online_endpoints.begin_create_or_update(endpoint))

    return ensure(put, lambda: _sound(settle(session, name)), retried_errors=(*PASSING, AzureError))


def set_traffic(
    session: Session,
    name: str,
    traffic: Mapping[str, int],
    *,
    mirror: Mapping[str, int] | None = None,
    fence: Callable[[], object] = lambda: None,
) -> Endpoint:
    """Give an endpoint a traffic map, everything else as Azure holds it, and read it back.

    Args:
        session: the workspace.
        name: the endpoint.
        traffic: per cent per deployment; they sum to 0 or 100.
        mirror: per cent of copies for one deployment; none by default.
        fence: called right before each PUT; raises where the caller may not change the endpoint any more.

    Raises:
        AzureError: Azure says that it is done, and the map is another one.
    """
    goal, copies = shares(traffic), shares(mirror or {})

    def holds() -> Endpoint | None:
        current = _sound(settle(session, name))
        return current if current and (shares(current.traffic), shares(current.mirror)) == (goal, copies) else None

    def put() -> None:
        with translated(f"set the traffic of the endpoint '{name}'"):
            endpoint = session.ml.online_endpoints.get(name)
            endpoint.traffic, endpoint.mirror_traffic = dict(traffic), dict(mirror or {})
            fence()
            finished(session.ml.online_endpoints.begin_create_or_update(endpoint))

    return ensure(put, holds, retried_errors=(*PASSING, AzureError))


def shares(traffic: Mapping[str, int]) -> dict[str, int]:
    """A traffic map without its zeros, names in lower case, as two are compared."""
    return {name.lower(): share for name, share in traffic.items() if share}


def _sound(endpoint: Endpoint | None) -> Endpoint | None:
    return endpoint if endpoint is not None and endpoint.state.lower() == "succeeded" else None


def delete(session: Session, name: str) -> None:
    """Delete an endpoint with its deployments; one that is gone is no error."""

    def remove() -> None:
        with translated(f"delete the endpoint '{name}'"):
            finished(session.ml.online_endpoints.begin_delete(name=name))

    ensure(remove, lambda: True if settle(session, name) is None else None, retried_errors=(*PASSING, NotFoundError))


def deployments(session: Session, endpoint: str) -> list[Deployment]:
    """The deployments of an endpoint."""
    with translated(f"list the deployments of '{endpoint}'"):
        return [_deployment(item, endpoint) for item in session.ml.online_deployments.list(endpoint_name=endpoint)]


def deployment(session: Session, endpoint: str, name: str) -> Deployment | None:
    """One deployment once nothing changes it any more; None where there is none."""

    def read() -> Deployment | None:
        try:
            with translated(f"look up the deployment '{name}' of '{endpoint}'"):
                return _deployment(session.ml.online_deployments.get(name=name, endpoint_name=endpoint), endpoint)
        except NotFoundError:
            return None

    return settled(session, f"the deployment '{name}' of '{endpoint}'", read, lambda current: current.state)


def settled_deployments(session: Session, endpoint: str) -> list[Deployment]:
    """The deployments of an endpoint, each once nothing changes it any more."""
    current = [deployment(session, endpoint, item.name) for item in deployments(session, endpoint)]
    return [item for item in current if item is not None]


def deploy(session: Session, spec: DeploymentSpec, *, recreate: bool = False) -> Deployment:
    """Create a deployment, or put another model into it; returns when Azure says that it is ready.

    One that stands and is made of the same is left as it is. One that has failed is deleted first.

    Args:
        session: the workspace.
        spec: the deployment.
        recreate: make it also where the same stands.
    """
    digest, is_put = spec.digest, False

    def holds() -> Deployment | None:
        current = deployment(session, spec.endpoint, spec.name)
        if current is None or current.state.lower() != "succeeded" or current.tags.get(SPEC_TAG) != digest:
            return None
        if not spec.model_id.lower().endswith(f"/{current.model}/versions/{current.model_version}".lower()):
            return None  # changed by hand, and the tag was left
        return current if is_put or not recreate else None

    def put() -> None:
        nonlocal is_put
        current = retry_read(lambda: deployment(session, spec.endpoint, spec.name))
        if current is not None and current.state.lower() in BROKEN:
            delete_deployment(session, spec.endpoint, spec.name)
        is_put = True
        with translated(f"deploy to the slot '{spec.name}'"):
            finished(session.ml.online_deployments.begin_create_or_update(_entity(spec, digest)))

    return ensure(put, holds)


def _entity(spec: DeploymentSpec, digest: str) -> Any:
    from azure.ai.ml import load_environment
    from azure.ai.ml.entities import CodeConfiguration, ManagedOnlineDeployment, OnlineRequestSettings, ProbeSettings

    def probe(settings: Probe) -> Any:
        return ProbeSettings(
            initial_delay=settings.initial_delay_s,
            period=settings.period_s,
            timeout=settings.timeout_s,
            failure_threshold=settings.failure_threshold,
            success_threshold=settings.success_threshold,
        )

    return ManagedOnlineDeployment(
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
        liveness_probe=probe(spec.probes.liveness),
        readiness_probe=probe(spec.probes.readiness),
        environment_variables=dict(spec.variables),
        tags={**spec.tags, SPEC_TAG: digest},
    )


def delete_deployment(session: Session, endpoint: str, name: str) -> None:
    """Delete one deployment; one that is gone is no error."""

    def remove() -> None:
        with translated(f"delete the deployment '{name}' of '{endpoint}'"):
            finished(session.ml.online_deployments.begin_delete(name=name, endpoint_name=endpoint))

    def is_absent() -> bool | None:
        return True if deployment(session, endpoint, name) is None else None

    ensure(remove, is_absent, retried_errors=(*PASSING, NotFoundError))


def logs(session: Session, endpoint: str, deployment: str, *, container: str = "server", lines: int = 50) -> str:
    """The tail of a deployment's container log; ``container`` is ``server`` or ``storage``."""

    def read() -> str:
        with translated(f"read the logs of '{deployment}'"):
            log: str = session.ml.online_deployments.get_logs(
                name=deployment, endpoint_name=endpoint, lines=lines, container_type=CONTAINERS[container]
            )
        return log

    return retry_read(read)


def key(session: Session, endpoint: str) -> str:
    """The primary key of an endpoint."""

    def read() -> str:
        with translated(f"read the key of the endpoint '{endpoint}'"):
            primary: str = session.ml.online_endpoints.get_keys(endpoint).primary_key
        return primary

    primary_key = retry_read(read)
    session.console.mask(primary_key)
    return primary_key


def slot_name(name: str) -> str:
    """A deployment's name as we compare it: Azure takes ``Blue`` for ``blue``."""
    return name.lower() if name.lower() in SLOTS else name


def scoring_url(given: str | None) -> str | None:
    """Where an endpoint answers payloads.

    For a server that takes every path Azure may name the root. Both of ours answer at ``/score``, and in a rollout from
    one to the other a request may reach either.
    """
    return f"{given.rstrip('/')}/score" if given and urlsplit(given).path in ("", "/") else given


def _endpoint(entity: Any) -> Endpoint:
    return Endpoint(
        name=entity.name,
        state=text(entity.provisioning_state),
        auth_mode=text(entity.auth_mode),
        scoring_url=scoring_url(entity.scoring_uri),
        traffic={slot_name(name): int(share) for name, share in (entity.traffic or {}).items()},
        mirror={slot_name(name): int(share) for name, share in (entity.mirror_traffic or {}).items()},
        tags=dict(entity.tags or {}),
    )


def _deployment(entity: Any, endpoint: str) -> Deployment:
    model = str(getattr(entity.model, "id", None) or entity.model or "")
    segments = model.rstrip("/").split("/")
    is_model_id = len(segments) >= 4 and segments[-2].lower() == "versions"
    context = getattr(entity, "creation_context", None)
    return Deployment(
        name=slot_name(entity.name),
        endpoint=endpoint,
        state=text(entity.provisioning_state),
        model=segments[-3] if is_model_id else model,
        model_version=segments[-1] if is_model_id else "",
        instance_type=entity.instance_type or "",
        instance_count=int(entity.instance_count or 1),
        tags=dict(entity.tags or {}),
        created=getattr(context, "created_at", None),
        changed=getattr(context, "last_modified_at", None),
    )
