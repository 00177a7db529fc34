"""Who may do what: role assignments and the permissions that follow from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from mlops.azure.errors import NotFoundError, translated
from mlops.azure.session import Session, patience

ROLES = {
    "8e3af657-a8ff-443c-a75c-2fe8c4bcb635": "Owner",
    "b24988ac-6180-42a0-ab88-20f7382dd24c": "Contributor",
    "acdd72a7-3385-48ef-bd42-f606fba81ae7": "Reader",
    "18d7d88d-d35e-4fb5-a5c3-7773c20a72d9": "User Access Administrator",
    "f58310d9-a9f6-439a-9e8d-f62e7b41a168": "Role Based Access Control Administrator",
    "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1": "Storage Blob Data Reader",
    "ba92f5b4-2d11-453d-a403-e96b0029c9fe": "Storage Blob Data Contributor",
    "7f951dda-4ed3-4680-a7ca-43fe172d538d": "AcrPull",
    "f6c7c914-8db3-469d-8ca1-694a8f32e121": "AzureML Data Scientist",
    "635dd51f-9968-44d3-b7fb-6d9a6bd613ae": "AzureML Metrics Writer (preview)",
}
"""Azure's built-in roles by the name of their definition, which is the same everywhere."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """A role that somebody has somewhere; ``role`` is its name, ``scope`` the ARM id at and below which it holds."""

    id: str
    role: str
    scope: str
    principal: str

    def covers(self, scope: str) -> bool:
        """Whether it holds for that resource: assigned there or above."""
        here = self.scope.rstrip("/").lower()
        return scope.lower() == here or scope.lower().startswith(f"{here}/")


@dataclass(frozen=True, kw_only=True)
class Permission:
    """What one of the caller's roles lets it do at a scope; names may hold wildcards."""

    actions: tuple[str, ...] = ()
    not_actions: tuple[str, ...] = ()
    data_actions: tuple[str, ...] = ()
    not_data_actions: tuple[str, ...] = ()


def of(session: Session, principal: str, scope: str) -> list[Assignment]:
    """The roles of a principal at a scope, above it and below, those of its groups included.

    Args:
        session: the login that asks.
        principal: the object id of a user, an application or an identity.
        scope: an ARM id.
    """
    client = _client(session)
    with translated("list the role assignments"):
        found = list(client.role_assignments.list_for_scope(scope, filter=f"assignedTo('{principal}')"))
        return [
            Assignment(
                id=item.id, role=_name(client, item.role_definition_id), scope=item.scope, principal=item.principal_id
            )
            for item in found
        ]  # fmt: skip


def permissions(session: Session, scope: str) -> list[Permission]:
    """What the caller itself may do at a resource group, or at a resource of one.

    Args:
        session: the login that asks of itself; this needs no right but to read the scope.
        scope: the ARM id of a resource group or of a resource.
    """
    client = _client(session)
    with translated("ask what this login may do"):
        found = _permissions(client, scope)
        return [
            Permission(
                actions=tuple(item.actions or ()),
                not_actions=tuple(item.not_actions or ()),
                data_actions=tuple(item.data_actions or ()),
                not_data_actions=tuple(item.not_data_actions or ()),
            )
            for item in found
        ]


def may(held: Iterable[Permission], action: str, *, data: bool = False) -> bool:
    """Whether the permissions allow an action: one role must, and what it takes away counts for itself alone."""
    for each in held:
        given, taken = (each.data_actions, each.not_data_actions) if data else (each.actions, each.not_actions)
        if _matches(action, given) and not _matches(action, taken):
            return True
    return False


def _matches(action: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(action.lower(), pattern.lower()) for pattern in patterns)


def _permissions(client: Any, scope: str) -> list[Any]:
    parts = scope.strip("/").split("/")
    group, rest = parts[3], parts[5:]
    if not rest:
        return list(client.permissions.list_for_resource_group(group))
    namespace, kind, name = rest[0], rest[-2], rest[-1]
    parent = "/".join(rest[1:-2])
    return list(client.permissions.list_for_resource(group, namespace, parent, kind, name))


def _name(client: Any, definition: str) -> str:
    """A role's name; its definition's id where it has none any more."""
    known = ROLES.get(definition.rstrip("/").rpartition("/")[2].lower())
    if known:
        return known
    try:
        with translated("look up a role"):
            return str(client.role_definitions.get_by_id(definition).role_name)
    except NotFoundError:
        return definition


def _client(session: Session) -> Any:
    from azure.mgmt.authorization import AuthorizationManagementClient

    return AuthorizationManagementClient(session.credential, session.ml.subscription_id, **patience(session.settings))
