"""The identity that an endpoint runs as: what it needs to pull the model and the image, and no more.

`mlops deploy` refuses for what is missing before it makes an endpoint, and `mlops doctor` finds it, by these functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops.azure import identities, management, roles
from mlops.azure.identities import Identity
from mlops.azure.roles import Assignment
from mlops.core.errors import AzureError, PreconditionError

if TYPE_CHECKING:
    from mlops.azure.session import Session
    from mlops.config.settings import Settings

API = "2024-10-01"
ML = "Microsoft.MachineLearningServices/workspaces"
COVERS = {"Storage Blob Data Reader": ("Storage Blob Data Contributor", "Storage Blob Data Owner")}
ENOUGH = frozenset({"Storage Blob Data Reader", "AcrPull", "AzureML Metrics Writer (preview)"})
"""What a container that serves a model may have; the last one Azure itself gives to an endpoint's own identity."""


@dataclass(frozen=True, kw_only=True)
class WorkspaceScope:
    """A workspace, and the ARM ids of what it rests on; ``registry`` is empty before the first image is built."""

    id: str
    name: str
    region: str
    state: str
    account: str
    registry: str

    @property
    def group(self) -> str:
        """ARM id of its resource group."""
        return self.id.partition("/providers/")[0]


def workspace_scope(session: Session) -> WorkspaceScope | None:
    """The session's workspace; None where there is none."""
    ml = session.ml
    group = f"{management.subscription_id(session)}/resourceGroups/{ml.resource_group_name}"
    id_ = f"{group}/providers/{ML}/{ml.workspace_name}"
    resource = management.get(session, id_, API)
    if resource is None:
        return None
    properties = resource.get("properties") or {}
    return WorkspaceScope(
        id=id_,
        name=str(resource.get("name", ml.workspace_name)),
        region=str(resource.get("location", "")),
        state=str(properties.get("provisioningState", "Succeeded")),
        account=str(properties.get("storageAccount") or ""),
        registry=str(properties.get("containerRegistry") or ""),
    )


def check(session: Session, settings: Settings, workspace: WorkspaceScope) -> Identity | None:
    """The identity that the settings name, with all that it needs; None where the endpoint has its own.

    Raises:
        PreconditionError: it is not there, or lacks a role.
    """
    named = settings.deployment.identity
    if named is None:
        return None
    segments = named.strip("/").split("/")
    group = segments[3] if len(segments) > 3 else session.ml.resource_group_name
    identity = identities.get(session, segments[-1], group)
    if identity is None:
        raise PreconditionError(
            f"there is no identity '{segments[-1]}' in the resource group '{group}'",
            hint=f"mlops setup{settings.target_flag} makes it; or set deployment.identity to null in mlops.yaml",
        )
    lacking = [
        f"{role} on {management.short(scope)}"
        for role, scope in (("Storage Blob Data Reader", workspace.account), ("AcrPull", workspace.registry))
        if scope and not _has(role, scope, roles.of(session, identity.principal_id, scope))
    ]
    if lacking:
        raise PreconditionError(
            f"'{identity.name}' lacks {' and '.join(lacking)}", hint=f"mlops setup{settings.target_flag} gives it"
        )
    return identity


def check_before(session: Session, settings: Settings) -> tuple[str, ...]:
    """The same before an endpoint is made, from the beginning; what the identity has too much is a warning.

    A login that may not read roles is only warned: without them the container cannot pull its image or its model.

    Raises:
        PreconditionError: see :func:`check`.
    """
    if settings.deployment.identity is None:
        return ()
    try:
        workspace = workspace_scope(session)
        identity = check(session, settings, workspace) if workspace else None
        more = excess_roles(session, identity.principal_id, workspace) if identity and workspace else []
    except AzureError as error:
        return (f"the roles of '{settings.deployment.identity}' are not known: {error.message}",)
    return (f"the endpoint's identity has more than it needs: {'; '.join(more)}",) if more else ()


def _has(role: str, scope: str, assignments: list[Assignment]) -> bool:
    return any(each.role in (role, *COVERS.get(role, ())) and each.covers(scope) for each in assignments)


def excess_roles(session: Session, principal: str, workspace: WorkspaceScope) -> list[str]:
    """The roles of an identity in the workspace's group beyond what an endpoint needs, in words."""
    assignments = roles.of(session, principal, workspace.group)
    return list(dict.fromkeys(in_words(each, workspace) for each in assignments if each.role not in ENOUGH))


def in_words(assignment: Assignment, workspace: WorkspaceScope) -> str:
    """``Contributor on the resource group``."""
    scope = assignment.scope.rstrip("/")
    if scope.lower() == workspace.group.lower():
        return f"{assignment.role} on the resource group"
    if workspace.group.lower().startswith(f"{scope.lower()}/"):
        above = "the subscription" if "/subscriptions/" in scope else "all subscriptions"
        return f"{assignment.role} on {above}"
    return f"{assignment.role} on {management.short(scope)}"
