"""Who may do what: role assignments, and what the login itself may do at a scope."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mlops.azure import management
from mlops.azure.errors import NotFoundError, translated
from mlops.azure.session import Session
from mlops.errors import AzureError, MlopsError

ROLES = {
    "Owner": "8e3af657-a8ff-443c-a75c-2fe8c4bcb635",
    "Contributor": "b24988ac-6180-42a0-ab88-20f7382dd24c",
    "Reader": "acdd72a7-3385-48ef-bd42-f606fba81ae7",
    "User Access Administrator": "18d7d88d-d35e-4fb5-a5c3-7773c20a72d9",
    "Role Based Access Control Administrator": "f58310d9-a9f6-439a-9e8d-f62e7b41a168",
    "Storage Blob Data Owner": "b7e6dc6d-f1e8-4753-8033-0f276bb0955b",
    "Storage Blob Data Contributor": "ba92f5b4-2d11-453d-a403-e96b0029c9fe",
    "Storage Blob Data Reader": "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1",
    "AcrPull": "7f951dda-4ed3-4680-a7ca-43fe172d538d",
    "AzureML Data Scientist": "f6c7c914-8db3-469d-8ca1-694a8f32e121",
    "Managed Identity Operator": "f1a07417-d97a-45cb-824c-7a7467783830",
}
"""Built-in roles; their ids are the same in every subscription ("Azure built-in roles")."""
API = "2022-04-01"
REPLICATION_S = 180.0
"""How long Entra may take until Azure finds an identity that was just made."""
NOT_YET = re.compile(r"PrincipalNotFound|does not exist in the directory", re.IGNORECASE)
THERE = re.compile(r"RoleAssignmentExists|role assignment already exists", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """A role that a principal has at a scope, and so below it."""

    id: str
    role: str
    """The role's name; its id where it is none that we know."""
    scope: str
    principal: str


@dataclass(frozen=True, kw_only=True)
class Permission:
    """Actions that the login may take at a scope, but for those that are taken out."""

    actions: tuple[str, ...]
    not_actions: tuple[str, ...]

    def allows(self, action: str) -> bool:
        """Whether an action is among them; ``*`` stands for anything, case does not matter."""
        return _matches(self.actions, action) and not _matches(self.not_actions, action)


def of(session: Session, principal: str, scope: str, *, below: bool = False) -> list[Assignment]:
    """The assignments of a principal that hold at a scope: those made there and above it.

    Args:
        session: the login.
        principal: object id of an identity, a person or an application; what its groups have counts.
        scope: ARM id of a resource, a group or a subscription.
        below: also those made on what lies below the scope.
    """
    operations = management.client(session, "authorization").role_assignments
    with translated(f"list the roles of '{principal}'"):
        listed = list(operations.list_for_scope(scope.lstrip("/"), filter=f"assignedTo('{principal}')"))
    names = {guid: name for name, guid in ROLES.items()}
    found = [
        Assignment(
            id=str(item.id),
            role=names.get(str(item.role_definition_id).rsplit("/", 1)[-1].lower(), str(item.role_definition_id)),
            scope=str(item.scope),
            principal=str(item.principal_id),
        )
        for item in listed
    ]
    return [item for item in found if within(scope, item.scope) or (below and within(item.scope, scope))]


def assign(session: Session, principal: str, role: str, scope: str) -> None:
    """Give an identity a role at a scope; waits until Azure knows an identity that was just made.

    The assignment's name follows from the three, so that a repeated call meets the same one.
    """
    from azure.mgmt.authorization.v2022_04_01.models import RoleAssignmentCreateParameters

    operations = management.client(session, "authorization").role_assignments
    name = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{scope.lower()}|{ROLES[role]}|{principal.lower()}"))
    definition = (
        f"{management.subscription_id(session)}/providers/Microsoft.Authorization/roleDefinitions/{ROLES[role]}"
    )
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
    operations = management.client(session, "authorization").role_assignments
    try:
        with translated("take a role away"):
            operations.delete_by_id(assignment_id.lstrip("/"))
    except NotFoundError:
        return


def permissions(session: Session, scope: str) -> list[Permission]:
    """What the login may do at a scope (a subscription, a group, a resource)."""
    path = f"{scope.rstrip('/')}/providers/Microsoft.Authorization/permissions"
    document = management.call(session, "GET", path, API)
    return [
        Permission(actions=tuple(item.get("actions") or ()), not_actions=tuple(item.get("notActions") or ()))
        for item in document.get("value", [])
    ]


def missing(granted: Sequence[Permission], wanted: Iterable[str]) -> list[str]:
    """The actions among those wanted that no permission allows."""
    return [action for action in wanted if not any(item.allows(action) for item in granted)]


def within(inner: str, outer: str) -> bool:
    """Whether a scope is another one or lies below it."""
    inside, outside = inner.rstrip("/").lower(), outer.rstrip("/").lower()
    return inside == outside or inside.startswith(f"{outside}/")


def _matches(patterns: Iterable[str], action: str) -> bool:
    return any(
        re.fullmatch(".*".join(re.escape(part) for part in pattern.split("*")), action, re.IGNORECASE)
        for pattern in patterns
    )


def _whole(error: MlopsError) -> str:
    """A refusal with its code, which the sentence for people leaves out."""
    code = getattr(getattr(error.__cause__, "error", None), "code", "") if isinstance(error, AzureError) else ""
    return f"{code or ''} {error.message}"
