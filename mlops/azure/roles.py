"""Who may do what: role assignments and the permissions that follow from them."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from mlops.azure import management
from mlops.azure.errors import NotFoundError, translated
from mlops.azure.session import Session
from mlops.core.errors import MlopsError

ROLES = {
    "8e3af657-a8ff-443c-a75c-2fe8c4bcb635": "Owner",
    "b24988ac-6180-42a0-ab88-20f7382dd24c": "Contributor",
    "acdd72a7-3385-48ef-bd42-f606fba81ae7": "Reader",
    "18d7d88d-d35e-4fb5-a5c3-7773c20a72d9": "User Access Administrator",
    "f58310d9-a9f6-439a-9e8d-f62e7b41a168": "Role Based Access Control Administrator",
    "b7e6dc6d-f1e8-4753-8033-0f276bb0955b": "Storage Blob Data Owner",
    "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1": "Storage Blob Data Reader",
    "ba92f5b4-2d11-453d-a403-e96b0029c9fe": "Storage Blob Data Contributor",
    "7f951dda-4ed3-4680-a7ca-43fe172d538d": "AcrPull",
    "f6c7c914-8db3-469d-8ca1-694a8f32e121": "AzureML Data Scientist",
    "635dd51f-9968-44d3-b7fb-6d9a6bd613ae": "AzureML Metrics Writer (preview)",
    "f1a07417-d97a-45cb-824c-7a7467783830": "Managed Identity Operator",
}
"""Azure's built-in roles by the name of their definition, which is the same everywhere."""
IDS = {name: guid for guid, name in ROLES.items()}
API = "2022-04-01"
REPLICATION_S = 180.0
"""How long Entra may take until Azure finds an identity that was just made."""
NOT_YET = re.compile(r"PrincipalNotFound|does not exist in the directory", re.IGNORECASE)
THERE = re.compile(r"RoleAssignmentExists|role assignment already exists", re.IGNORECASE)


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
    client = session.managers.authorization
    with translated("list the role assignments"):
        assignments = list(client.role_assignments.list_for_scope(scope, filter=f"assignedTo('{principal}')"))
        return [
            Assignment(
                id=item.id, role=_name(client, item.role_definition_id), scope=item.scope, principal=item.principal_id
            )
            for item in assignments
        ]


def assign(session: Session, principal: str, role: str, scope: str) -> None:
    """Give an identity a role at a scope; waits until Azure knows an identity that was just made.

    The assignment's name follows from the three, so that a repeated call meets the same one.
    """
    from azure.mgmt.authorization.v2022_04_01.models import RoleAssignmentCreateParameters

    operations = session.managers.authorization.role_assignments
    name = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{scope.lower()}|{IDS[role]}|{principal.lower()}"))
    definition = f"{management.subscription_id(session)}/providers/Microsoft.Authorization/roleDefinitions/{IDS[role]}"
    body = RoleAssignmentCreateParameters(
        role_definition_id=definition, principal_id=principal, principal_type="ServicePrincipal"
    )
    end, pause_s = time.monotonic() + REPLICATION_S, 0.5
    while True:
        try:
            with translated(f"give the role '{role}' at {management.short(scope)}"):
                operations.create(scope.lstrip("/"), name, body)
            return
        except MlopsError as error:
            if THERE.search(_whole(error)):
                return
            if not NOT_YET.search(_whole(error)) or time.monotonic() + pause_s > end:
                raise
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 10.0)


def take(session: Session, assignment_id: str) -> None:
    """Delete an assignment; one that is gone is no error."""
    operations = session.managers.authorization.role_assignments
    try:
        with translated("take a role away"):
            operations.delete_by_id(assignment_id.lstrip("/"))
    except NotFoundError:
        return


def permissions(session: Session, scope: str) -> list[Permission]:
    """What the caller itself may do at a subscription, a resource group or a resource.

    Args:
        session: the login that asks of itself; this needs no right but to read the scope.
        scope: its ARM id.
    """
    path = f"{scope.rstrip('/')}/providers/Microsoft.Authorization/permissions"
    entries = management.call(session, "GET", path, API).get("value", [])
    return [
        Permission(
            actions=tuple(item.get("actions") or ()),
            not_actions=tuple(item.get("notActions") or ()),
            data_actions=tuple(item.get("dataActions") or ()),
            not_data_actions=tuple(item.get("notDataActions") or ()),
        )
        for item in entries
    ]


def may(allowed: Iterable[Permission], action: str, *, data: bool = False) -> bool:
    """Whether the permissions allow an action: one role must, and what it takes away counts for itself alone."""
    for each in allowed:
        given, taken = (each.data_actions, each.not_data_actions) if data else (each.actions, each.not_actions)
        if _matches(action, given) and not _matches(action, taken):
            return True
    return False


def _matches(action: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(action.lower(), pattern.lower()) for pattern in patterns)


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


def _whole(error: MlopsError) -> str:
    """A refusal with its code, which the sentence for people leaves out."""
    code = getattr(getattr(error.__cause__, "error", None), "code", "")
    return f"{code or ''} {error.message}"
