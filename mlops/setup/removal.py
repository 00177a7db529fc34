"""Takes away what setup has made: what bears its tag, in an order that works, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mlops.azure import computes, endpoints, groups, identities, management, models, roles, workspaces
from mlops.azure.errors import NotFoundError
from mlops.azure.groups import GroupResource
from mlops.azure.session import Session
from mlops.core.resources import made_here
from mlops.setup.desired import ML, VERSIONS
from mlops.setup.scope import AzureScope

ALERTS = "microsoft.alertsmanagement/smartdetectoralertrules"
ACTIONS = "microsoft.insights/actiongroups"
SMART = "application insights smart detection"
"""The action group that Azure makes with a group's first application insights, an hour later at times."""
ORDER = (
    "microsoft.managedidentity/userassignedidentities",
    "project",
    "hub",
    "default",
    ALERTS,
    ACTIONS,
    "microsoft.insights/components",
    "microsoft.operationalinsights/workspaces",
    "microsoft.containerregistry/registries",
    "microsoft.storage/storageaccounts",
    "microsoft.keyvault/vaults",
)
"""Kinds of resources, and of workspaces: who uses another goes before it."""
WHAT = {
    "microsoft.managedidentity/userassignedidentities": "identity",
    "default": "workspace",
    ALERTS: "alert rule",
    ACTIONS: "action group",
    "microsoft.insights/components": "application insights",
    "microsoft.operationalinsights/workspaces": "log analytics",
    "microsoft.containerregistry/registries": "container registry",
    "microsoft.storage/storageaccounts": "storage account",
    "microsoft.keyvault/vaults": "key vault",
}
SETTLES_S = 30.0
"""How long a group's list may still show what was deleted."""


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What would go, what is lost with it, and what stays."""

    scope: AzureScope
    doomed: Sequence[GroupResource]
    lost: Sequence[str] = ()
    """What is in it that people may miss."""
    remaining: Sequence[str] = ()
    """What stays, and why."""
    clusters: Sequence[str] = ()
    """Of setup's, in a workspace that stays."""
    assignments: Sequence[str] = ()
    """Ids of the role assignments of the identities that go."""
    group_is_ours: bool = False
    group_exists: bool = False

    @property
    def group_goes(self) -> bool:
        """Whether the group is deleted with the last that is in it."""
        return self.group_is_ours and not self.remaining


def plan_removal(session: Session, scope: AzureScope) -> Removal:
    """Look at the group for what bears the tag."""
    group = groups.get(session, scope.group)
    if group is None:
        return Removal(scope=scope, doomed=())
    resources = groups.contents(session, scope.group)
    tagged = [item for item in resources if made_here(item.tags)]
    others = [item.name for item in tagged if _kind(item) == "default" and item.name.lower() != scope.workspace.lower()]
    shared = [item for item in tagged if others and item.id.lower() not in _of_the_place(scope)]
    needed = _needed(session, [item for item in resources if item in shared or not made_here(item.tags)])
    kept = [item for item in tagged if item.id.lower() in needed or _rank(item) is None]
    going = [item for item in tagged if item not in shared and item not in kept]
    belonging = [item for item in resources if not made_here(item.tags) and belongs(item, going, resources)]
    doomed = sorted([*going, *belonging], key=lambda item: (_rank(item) or 0, item.name))
    theirs = [item for item in resources if item not in tagged and item not in belonging]
    remaining = [f"{_what(item)} {item.name}: setup did not make it" for item in theirs]
    remaining += [
        f"{_what(item)} {item.name}: setup made it for the workspace {' or '.join(others)}, or for that too"
        for item in shared
    ]
    remaining += [f"{_what(item)} {item.name}: something that stays uses it" for item in kept if item not in shared]
    if not made_here(group.tags):
        remaining.append(f"resource group {group.name}: setup did not make it")
    goes = {item.id.lower() for item in doomed}
    workspace = scope.id_of(ML, scope.workspace).lower()
    ours = workspace in goes
    stays = not ours and any(item.id.lower() == workspace for item in resources)
    return Removal(
        scope=scope,
        doomed=doomed,
        lost=_lost(session, scope) if ours else (),
        remaining=remaining,
        clusters=[each.name for each in computes.listed(session) if made_here(each.tags)] if stays else (),
        assignments=_assignments(session, scope, doomed),
        group_is_ours=made_here(group.tags),
        group_exists=True,
    )


def remove(session: Session, removal: Removal) -> bool:
    """Delete it; a repeated call goes on. Says whether the group is gone too."""
    scope, console = removal.scope, session.console
    if removal.assignments:
        with console.step(f"Take {len(removal.assignments)} roles away"):
            for each in removal.assignments:
                roles.take(session, each)
    for name in removal.clusters:
        with console.step(f"Delete the cluster {name}"):
            computes.delete(session, name)
    for item in removal.doomed:
        with console.step(f"Delete the {_what(item)} {item.name}"):
            _delete(session, scope, item)
    if not removal.group_goes:
        return False
    resources = _still_there(session, scope)
    if resources:  # somebody has made it meanwhile
        console.warn(f"the group '{scope.group}' stays: it holds {', '.join(item.name for item in resources)}")
        return False
    with console.step(f"Delete the resource group {scope.group}"):
        groups.delete(session, scope.group)
    return True


def _delete(session: Session, scope: AzureScope, item: GroupResource) -> None:
    kind = _kind(item)
    if kind == "default" and item.name.lower() == scope.workspace.lower():
        for endpoint in endpoints.listed(session):
            endpoints.delete(session, endpoint.name)
    if kind in ("default", "hub", "project"):
        workspaces.delete(session, item.name)
    elif kind.startswith("microsoft.managedidentity"):
        identities.delete(session, item.name, scope.group)
    else:
        version = next(version for name, version in VERSIONS.items() if name.lower() == kind)
        management.delete(session, item.id, version)


def _lost(session: Session, scope: AzureScope) -> list[str]:
    """What is in the workspace: endpoints with their traffic, clusters, models."""
    lines = []
    try:
        for each in endpoints.listed(session):
            live = ", ".join(f"{slot} {each.traffic[slot]} %" for slot in each.live)
            lines.append(f"endpoint {each.name}{f', which has traffic: {live}' if live else ', without traffic'}")
        lines += [f"cluster {cluster.name} ({cluster.size})" for cluster in computes.listed(session)]
        name = session.settings.model.name
        count = len(models.versions(session, name, archived=True))
        lines += [f"{count} version{'s' if count > 1 else ''} of the model {name}"] if count else []
    except NotFoundError:
        return lines  # it is being deleted already
    lines.append(f"every job, model and datastore of the workspace {scope.workspace}")
    return lines


def _assignments(session: Session, scope: AzureScope, doomed: Iterable[GroupResource]) -> list[str]:
    assignment_ids = []
    for item in doomed:
        if _kind(item).startswith("microsoft.managedidentity"):
            identity = identities.get(session, item.name, scope.group)
            if identity is not None:
                assignments = roles.of(session, identity.principal_id, scope.group_id)
                assignment_ids += own_roles(assignments, identity.principal_id, scope.group_id)
    return assignment_ids


def own_roles(assignments: Iterable[roles.Assignment], principal: str, group_id: str) -> list[str]:
    """Ids of the assignments in a group that are an identity's own: a team that it is in keeps its roles."""
    inside = f"{group_id.lower()}/"
    return [
        each.id
        for each in assignments
        if each.principal.lower() == principal.lower() and f"{each.scope.rstrip('/').lower()}/".startswith(inside)
    ]


def _of_the_place(scope: AzureScope) -> set[str]:
    """Ids of what setup makes for this workspace alone; identities, hub and project serve all of a group's."""
    names = (
        (ML, scope.workspace),
        ("Microsoft.Storage/storageAccounts", scope.storage),
        ("Microsoft.KeyVault/vaults", scope.vault),
        ("Microsoft.ContainerRegistry/registries", scope.registry),
        ("Microsoft.Insights/components", scope.insights),
        ("Microsoft.OperationalInsights/workspaces", scope.logs),
    )
    return {scope.id_of(kind, name).lower() for kind, name in names}


def _needed(session: Session, staying: Iterable[GroupResource]) -> set[str]:
    """Ids of what the workspaces that stay use, and what their insights write to."""
    needed: set[str] = set()
    for item in staying:
        if item.type.lower() == ML.lower():
            properties = (management.get(session, item.id, VERSIONS[ML]) or {}).get("properties") or {}
            names = ("storageAccount", "keyVault", "applicationInsights", "containerRegistry", "hubResourceId")
            needed |= {str(properties[name]).lower() for name in names if properties.get(name)}
    kind = "Microsoft.Insights/components"
    for insights in [each for each in needed if f"/providers/{kind.lower()}/" in each]:
        document = management.get(session, insights, VERSIONS[kind]) or {}
        needed.add(str((document.get("properties") or {}).get("WorkspaceResourceId") or "").lower())
    return needed


def belongs(item: GroupResource, going: Iterable[GroupResource], resources: Iterable[GroupResource]) -> bool:
    """Whether Azure made it by itself with application insights that go; what serves others too stays with them."""
    ending = [each for each in going if each.type.lower() == "microsoft.insights/components"]
    if item.type.lower() == ALERTS:
        return any(item.name.lower().endswith(f"- {each.name.lower()}") for each in ending)
    alone = all(each in ending for each in resources if each.type.lower() == "microsoft.insights/components")
    return item.type.lower() == ACTIONS and item.name.lower() == SMART and bool(ending) and alone


def _still_there(session: Session, scope: AzureScope) -> list[GroupResource]:
    end = time.monotonic() + SETTLES_S
    while True:
        resources = groups.contents(session, scope.group)
        if not resources or time.monotonic() > end:
            return resources
        time.sleep(1.0)


def _kind(item: GroupResource) -> str:
    return (item.kind or "default").lower() if item.type.lower() == ML.lower() else item.type.lower()


def _rank(item: GroupResource) -> int | None:
    kind = _kind(item)
    return ORDER.index(kind) if kind in ORDER else None


def _what(item: GroupResource) -> str:
    kind = _kind(item)
    return WHAT.get(kind, kind)


def sentences(removal: Removal) -> list[str]:
    """What goes, for people."""
    lines = [f"cluster {name}" for name in removal.clusters]
    lines += [f"{_what(item)} {item.name}" for item in removal.doomed]
    return [*lines, *([f"resource group {removal.scope.group}"] if removal.group_goes else [])]
