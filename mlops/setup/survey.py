"""What Azure has of all that setup wants. It only looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from mlops import flow
from mlops.azure import computes, connections, endpoints, groups, identities, management, roles
from mlops.azure.errors import DeniedError, NotFoundError
from mlops.azure.identities import Federation, Identity
from mlops.azure.session import Session
from mlops.config.settings import Settings
from mlops.core.resources import Cluster
from mlops.setup import capacity
from mlops.setup.desired import (
    ML,
    PROVIDERS,
    VERSIONS,
    ResourceSpec,
    dependents,
    flow_workspaces,
    workspace,
    workspace_dependencies,
)
from mlops.setup.scope import AzureScope
from mlops.setup.subjects import Subject

AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class SetupRequest:
    """What is to be there: the place, and what was asked for beyond the settings."""

    scope: AzureScope
    settings: Settings
    endpoint_identity: str | None
    """Name of the identity of deployments; None where the settings name none, or one that stands elsewhere."""
    subjects: Sequence[Subject] = ()
    """Of the environments whose jobs may log in; none: GitHub gets no identity."""
    prompt_flow: bool = False
    quota: bool | None = None
    """Whether to ask for quota; None: where it is short and was not asked for before."""

    @property
    def github_identity(self) -> str | None:
        """Name of the identity that GitHub's jobs log in as."""
        return self.settings.setup.github_identity if self.subjects else None

    @property
    def identities(self) -> list[str]:
        """Both, as far as they are wanted."""
        return [name for name in (self.endpoint_identity, self.github_identity) if name]


@dataclass(frozen=True, kw_only=True)
class CurrentState:
    """What there is."""

    unregistered: Sequence[str]
    group: groups.Group | None
    workspace: Mapping[str, Any] | None
    documents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Resources that exist, by their ids in lower case."""
    buried_vault: bool = False
    """A key vault of the name was deleted, and keeps it until it is recovered."""
    identities: Mapping[str, Identity] = field(default_factory=dict)
    assignments: Mapping[str, Sequence[roles.Assignment]] = field(default_factory=dict)
    federations: Mapping[str, Federation] = field(default_factory=dict)
    """Of GitHub's identity, by their names."""
    cluster: Cluster | None = None
    capacity: capacity.Capacity | None = None
    """None where it cannot be looked at yet."""
    scoring_url: str | None = None
    """Of the target's endpoint, where there is one; looked for only for Prompt flow."""
    connected_to: str | None = None
    """What the project's connection leads to."""

    def document(self, resource_id: str) -> Mapping[str, Any] | None:
        """A resource that was looked at."""
        return self.documents.get(resource_id.lower())


def desired_resources(request: SetupRequest, document: Mapping[str, Any] | None) -> list[ResourceSpec]:
    """Every resource, in the order in which they are made."""
    scope, setup = request.scope, request.settings.setup
    flow = flow_workspaces(scope, document, hub=setup.hub, project=setup.project) if request.prompt_flow else []
    return [*workspace_dependencies(scope, document), workspace(scope, document), *flow]


def read_current_state(session: Session, request: SetupRequest) -> CurrentState:
    """Look at everything, several things at a time."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        providers = pool.submit(management.unregistered, session, PROVIDERS)
        group = groups.get(session, request.scope.group)
        return _Survey(session, request, pool, group, frozenset(providers.result())).current_state()


@dataclass(frozen=True)
class _Survey:
    """One look; what is of a provider that is not registered cannot be there, and asking would register it."""

    session: Session
    request: SetupRequest
    pool: ThreadPoolExecutor
    group: groups.Group | None
    unregistered: frozenset[str]

    def current_state(self) -> CurrentState:
        """All of them."""
        session, request, scope, pool = self.session, self.request, self.request.scope, self.pool
        workspace_id = scope.id_of(ML, scope.workspace)
        workspace = self._document(workspace_id, ML)
        specs = [item for item in desired_resources(request, workspace) if item.id.lower() != workspace_id.lower()]
        documents = pool.map(lambda item: self._document(item.id, item.kind), specs)
        people = dict(zip(request.identities, pool.map(self._identity, request.identities), strict=True))
        existing = {name: item for name, item in people.items() if item is not None}
        assigned = {
            name: [pool.submit(roles.of, session, item.principal_id, scope) for scope in _scopes(scope, workspace)]
            for name, item in existing.items()
        }
        name = request.github_identity
        trusted = identities.federations(session, name, scope.group) if name in existing and name else []
        learning = pool.submit(self._learning, workspace=workspace is not None)
        documents_by_id = {
            item.id.lower(): body for item, body in zip(specs, documents, strict=True) if body is not None
        }
        if workspace is not None:
            documents_by_id[workspace_id.lower()] = workspace
        return CurrentState(
            unregistered=sorted(self.unregistered, key=PROVIDERS.index),
            group=self.group,
            workspace=workspace,
            documents=documents_by_id,
            buried_vault=self._buried(next(item for item in specs if item.what == "key vault"), documents_by_id),
            identities=existing,
            assignments={
                name: [one for each in asked_for for one in each.result()] for name, asked_for in assigned.items()
            },
            federations={item.name: item for item in trusted},
            cluster=learning.result()[0],
            capacity=learning.result()[1],
            scoring_url=learning.result()[2],
            connected_to=self._connected_to(documents_by_id),
        )

    def _document(self, resource_id: str, kind: str) -> dict[str, Any] | None:
        if self.group is None or kind.partition("/")[0] in self.unregistered:
            return None
        return management.get(self.session, resource_id, VERSIONS[kind])

    def _identity(self, name: str) -> Identity | None:
        if self.group is None or "Microsoft.ManagedIdentity" in self.unregistered:
            return None
        return identities.get(self.session, name, self.group.name)

    def _learning(self, *, workspace: bool) -> tuple[Cluster | None, capacity.Capacity | None, str | None]:
        """Cluster, quota, endpoint's address: one after another, since the SDK's models are not safe in threads."""
        session, request = self.session, self.request
        cluster = computes.get(session, request.settings.compute.name) if workspace else None
        quota = None
        if not {"Microsoft.MachineLearningServices", "Microsoft.Quota"} & self.unregistered:
            quota = capacity.measure(session, request.settings, request.scope, ask=request.quota)
        endpoint = None
        if workspace and request.prompt_flow:
            endpoint = endpoints.get(session, request.settings.endpoint.name)
        return cluster, quota, endpoint.scoring_url if endpoint is not None else None

    def _connected_to(self, documents: Mapping[str, Any]) -> str | None:
        project = self.request.scope.id_of(ML, self.request.settings.setup.project)
        if not self.request.prompt_flow or project.lower() not in documents:
            return None
        connection = management.get(self.session, f"{project}/connections/{flow.NAME}", connections.VERSION)
        return str(connection["properties"].get("target") or "") if connection is not None else None

    def _buried(self, vault: ResourceSpec, documents: Mapping[str, Any]) -> bool:
        if vault.id.lower() in documents or "Microsoft.KeyVault" in self.unregistered:
            return False
        scope = self.request.scope
        path = f"{scope.subscription_id}/providers/Microsoft.KeyVault/locations/{scope.region}/deletedVaults"
        try:
            management.call(self.session, "GET", f"{path}/{vault.name}", VERSIONS[vault.kind])
        except (NotFoundError, DeniedError):  # who has rights on the group alone may not ask
            return False
        return True


def _scopes(scope: AzureScope, workspace: Mapping[str, Any] | None) -> list[str]:
    """Where roles are looked for: the group, and what a standing workspace uses of another one."""
    uses = dependents(scope, workspace)
    above = f"{scope.group_id.lower()}/"
    return [scope.group_id, *(each for each in (uses.storage, uses.registry) if not each.lower().startswith(above))]
