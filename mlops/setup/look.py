"""What Azure has of all that setup wants. It only looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from mlops.azure import computes, groups, management, roles
from mlops.azure import identities as people
from mlops.azure.errors import NotFoundError
from mlops.azure.session import Session
from mlops.resources import Cluster
from mlops.settings import Settings
from mlops.setup import capacity
from mlops.setup.place import Place
from mlops.setup.subjects import Subject
from mlops.setup.wanted import KEY_VAULT_API, ML, PROVIDERS, VERSIONS, Wanted, flow_workspaces, foundations, workspace

AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be there: the place, and what was asked for beyond the settings."""

    place: Place
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
class Facts:
    """What there is."""

    unregistered: Sequence[str]
    group: groups.Group | None
    workspace: Mapping[str, Any] | None
    documents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Resources that exist, by their ids in lower case."""
    buried_vault: bool = False
    """A key vault of the name was deleted, and keeps it until it is recovered."""
    identities: Mapping[str, people.Identity] = field(default_factory=dict)
    assignments: Mapping[str, Sequence[roles.Assignment]] = field(default_factory=dict)
    federations: Mapping[str, people.Federation] = field(default_factory=dict)
    """Of GitHub's identity, by their names."""
    cluster: Cluster | None = None
    capacity: capacity.Capacity | None = None
    """None where it cannot be looked at yet."""

    def document(self, resource_id: str) -> Mapping[str, Any] | None:
        """A resource that was looked at."""
        return self.documents.get(resource_id.lower())


def wanted(order: Order, found: Mapping[str, Any] | None) -> list[Wanted]:
    """Every resource, in the order in which they are made."""
    place, setup = order.place, order.settings.setup
    flow = flow_workspaces(place, found, hub=setup.hub, project=setup.project) if order.prompt_flow else []
    return [*foundations(place, found), workspace(place, found), *flow]


def look(session: Session, order: Order) -> Facts:
    """Look at everything, several things at a time."""
    place = order.place
    with ThreadPoolExecutor(AT_ONCE) as pool:
        unregistered = pool.submit(management.unregistered, session, PROVIDERS)
        group = pool.submit(groups.get, session, place.group)
        workspace_id = place.id_of(ML, place.workspace)
        found = _document(session, workspace_id, VERSIONS[ML], group.result())
        asked = [item for item in wanted(order, found) if item.id.lower() != workspace_id.lower()]
        documents = list(pool.map(lambda item: _document(session, item.id, item.api_version, group.result()), asked))
        there = {item.id.lower(): body for item, body in zip(asked, documents, strict=True) if body is not None}
        if found is not None:
            there[workspace_id.lower()] = found
        vault = next(item for item in asked if item.what == "key vault")
        buried = pool.submit(_buried, session, place, vault) if vault.id.lower() not in there else None
        asked_for = list(pool.map(lambda name: _identity(session, name, group.result()), order.identities))
        standing = {name: item for name, item in zip(order.identities, asked_for, strict=True) if item is not None}
        assigned = {
            name: pool.submit(roles.of, session, item.principal_id, place.group_id) for name, item in standing.items()
        }
        trusted = _federations(session, order) if order.github_identity in standing else []
        cluster = pool.submit(computes.get, session, order.settings.compute.name) if found is not None else None
        region = None
        if "Microsoft.MachineLearningServices" not in unregistered.result():
            region = pool.submit(capacity.look, session, order.settings, place, ask=order.quota)
        return Facts(
            unregistered=unregistered.result(),
            group=group.result(),
            workspace=found,
            documents=there,
            buried_vault=buried.result() if buried else False,
            identities=standing,
            assignments={name: each.result() for name, each in assigned.items()},
            federations={item.name: item for item in trusted},
            cluster=cluster.result() if cluster else None,
            capacity=region.result() if region else None,
        )


def _document(session: Session, resource_id: str, api: str, group: groups.Group | None) -> dict[str, Any] | None:
    """A resource; not asked for where its group is not there."""
    return management.get(session, resource_id, api) if group is not None else None


def _identity(session: Session, name: str, group: groups.Group | None) -> people.Identity | None:
    return people.get(session, name, group.name) if group is not None else None


def _federations(session: Session, order: Order) -> list[people.Federation]:
    name = order.github_identity
    return people.federations(session, name, order.place.group) if name else []


def _buried(session: Session, place: Place, vault: Wanted) -> bool:
    path = f"{place.subscription_id}/providers/Microsoft.KeyVault/locations/{place.region}/deletedVaults/{vault.name}"
    try:
        management.call(session, "GET", path, KEY_VAULT_API)
    except NotFoundError:
        return False
    return True
