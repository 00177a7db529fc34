"""The resources that a workspace leans on, as Azure is asked for them, and what makes an existing one unfit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlops.core.resources import MANAGED_BY, MANAGED_TAG
from mlops.setup.scope import AzureScope

TAGS = {MANAGED_TAG: MANAGED_BY}
ML = "Microsoft.MachineLearningServices/workspaces"
PROVIDERS = (
    "Microsoft.MachineLearningServices",
    "Microsoft.Storage",
    "Microsoft.KeyVault",
    "Microsoft.OperationalInsights",
    "Microsoft.Insights",
    "Microsoft.ContainerRegistry",
    "Microsoft.ManagedIdentity",
    "Microsoft.Quota",
    "Microsoft.Network",  # managed endpoints and clusters lean on these four
    "Microsoft.Compute",
    "Microsoft.PolicyInsights",
    "Microsoft.Cdn",
)
"""Resource providers, which a fresh subscription has none of."""
VERSIONS = {
    "Microsoft.OperationalInsights/workspaces": "2022-10-01",
    "Microsoft.Insights/components": "2020-02-02",
    "Microsoft.Storage/storageAccounts": "2023-05-01",
    "Microsoft.KeyVault/vaults": "2023-07-01",
    "Microsoft.ContainerRegistry/registries": "2023-07-01",
    "Microsoft.ManagedIdentity/userAssignedIdentities": "2023-01-31",
    "microsoft.alertsmanagement/smartDetectorAlertRules": "2021-04-01",
    "microsoft.insights/actionGroups": "2023-01-01",
    ML: "2024-10-01",
}
"""Api-versions by kind."""

Document = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ResourceSpec:
    """One resource."""

    what: str
    kind: str
    name: str
    id: str
    body: Document
    unfit: Callable[[Document], str | None] = field(default=lambda _: None)
    lacks: Callable[[Document], Document] = field(default=lambda _: {})
    """What an existing one is to be given, as the body of a PATCH."""

    @property
    def api_version(self) -> str:
        """By its kind."""
        return VERSIONS[self.kind]


@dataclass(frozen=True, kw_only=True)
class Dependents:
    """ARM ids of what a workspace uses."""

    storage: str
    vault: str
    insights: str
    registry: str


def dependents(scope: AzureScope, workspace: Mapping[str, Any] | None) -> Dependents:
    """What the workspace uses already; where there is none yet, or it lacks one, what setup makes."""
    now = (workspace or {}).get("properties") or {}
    return Dependents(
        storage=now.get("storageAccount") or scope.id_of("Microsoft.Storage/storageAccounts", scope.storage),
        vault=now.get("keyVault") or scope.id_of("Microsoft.KeyVault/vaults", scope.vault),
        insights=now.get("applicationInsights") or scope.id_of("Microsoft.Insights/components", scope.insights),
        registry=now.get("containerRegistry") or scope.id_of("Microsoft.ContainerRegistry/registries", scope.registry),
    )


def workspace_dependencies(scope: AzureScope, workspace: Mapping[str, Any] | None) -> list[ResourceSpec]:
    """What is made before the workspace, in this order; what a standing workspace uses is only looked at."""
    uses = dependents(scope, workspace)
    logs = scope.id_of("Microsoft.OperationalInsights/workspaces", scope.logs)
    specs = [
        _spec(
            "storage account",
            uses.storage,
            scope,
            sku={"name": "Standard_LRS"},
            kind_of="StorageV2",
            unfit=_not_for_a_workspace,
            properties={
                "minimumTlsVersion": "TLS1_2",
                "allowBlobPublicAccess": False,
                "supportsHttpsTrafficOnly": True,
                "isHnsEnabled": False,  # Azure ML takes no account with a hierarchy for its own
            },
        ),
        _spec(
            "key vault",
            uses.vault,
            scope,
            properties={
                "tenantId": scope.tenant,
                "sku": {"family": "A", "name": "standard"},
                "enableRbacAuthorization": True,
                "accessPolicies": [],
            },
        ),
        _spec(
            "container registry",
            uses.registry,
            scope,
            sku={"name": "Standard"},
            properties={"adminUserEnabled": True},  # as in the one that Azure ML makes itself: its nodes pull with it
        ),
    ]
    insights = _spec(
        "application insights",
        uses.insights,
        scope,
        kind_of="web",
        properties={"Application_Type": "web", "WorkspaceResourceId": logs},
    )
    ours = uses.insights.lower() == scope.id_of("Microsoft.Insights/components", scope.insights).lower()
    log_analytics = _spec("log analytics", logs, scope, properties={"sku": {"name": "PerGB2018"}})
    return [*([log_analytics] if ours else []), insights, *specs]


def workspace(scope: AzureScope, document: Mapping[str, Any] | None) -> ResourceSpec:
    """The workspace itself."""
    uses = dependents(scope, document)
    dependency_ids = {
        "storageAccount": uses.storage,
        "keyVault": uses.vault,
        "applicationInsights": uses.insights,
        "containerRegistry": uses.registry,
    }

    def unfit(document: Document) -> str | None:
        kind = str(document.get("kind") or "Default")
        region = str(document.get("location") or "").replace(" ", "").lower()
        if kind.lower() != "default":
            return f"it is a {kind.lower()}, not a workspace for jobs"
        return f"it is in '{region}', not in '{scope.region}'" if region != scope.region else None

    def lacks(document: Document) -> Document:
        absent = {key: value for key, value in dependency_ids.items() if not document["properties"].get(key)}
        return {"properties": absent} if absent else {}

    return _spec(
        "workspace",
        scope.id_of(ML, scope.workspace),
        scope,
        kind_of="Default",
        sku={"name": "Basic", "tier": "Basic"},
        identity={"type": "SystemAssigned"},
        unfit=unfit,
        lacks=lacks,
        properties={
            "friendlyName": scope.workspace,
            "publicNetworkAccess": "Enabled",
            "allowRecoverSoftDeletedWorkspace": True,  # a deleted one keeps its name for 14 days
            **dependency_ids,
        },
    )


def flow_workspaces(
    scope: AzureScope, document: Mapping[str, Any] | None, *, hub: str, project: str
) -> list[ResourceSpec]:
    """A hub and a project in it, for Prompt flow; they share what the workspace leans on."""
    uses = dependents(scope, document)
    hub_id = scope.id_of(ML, hub)

    def fit(kind: str) -> Callable[[Document], str | None]:
        def unfit(document: Document) -> str | None:
            is_kind = str(document.get("kind") or "Default")
            return None if is_kind.lower() == kind.lower() else f"it is a {is_kind.lower()}, not a {kind.lower()}"

        return unfit

    return [
        _spec(
            "hub",
            hub_id,
            scope,
            kind_of="Hub",
            identity={"type": "SystemAssigned"},
            unfit=fit("Hub"),
            properties={
                "friendlyName": hub,
                "storageAccount": uses.storage,
                "keyVault": uses.vault,
                "applicationInsights": uses.insights,
                "containerRegistry": uses.registry,
            },
        ),
        _spec(
            "project",
            scope.id_of(ML, project),
            scope,
            kind_of="Project",
            identity={"type": "SystemAssigned"},
            unfit=fit("Project"),
            properties={"friendlyName": project, "hubResourceId": hub_id},
        ),
    ]


def provisioning(document: Mapping[str, Any]) -> str:
    """A resource's provisioning state; one that says none is there."""
    return str((document.get("properties") or {}).get("provisioningState") or "Succeeded")


def kind_of_id(resource_id: str) -> str:
    """``Namespace/type`` of an ARM id."""
    segments = resource_id.strip("/").split("/")
    return f"{segments[-3]}/{segments[-2]}"


def _spec(
    what: str,
    resource_id: str,
    scope: AzureScope,
    *,
    properties: Document,
    kind_of: str | None = None,
    unfit: Callable[[Document], str | None] = lambda _: None,
    lacks: Callable[[Document], Document] = lambda _: {},
    **rest: Any,
) -> ResourceSpec:
    known = {kind.lower(): kind for kind in VERSIONS}
    body = {"location": scope.region, "tags": dict(TAGS), **rest, "properties": properties}
    if kind_of is not None:
        body["kind"] = kind_of
    return ResourceSpec(
        what=what,
        kind=known[kind_of_id(resource_id).lower()],  # Azure's own answers spell them in several cases
        name=resource_id.rsplit("/", 1)[-1],
        id=resource_id,
        body=body,
        unfit=unfit,
        lacks=lacks,
    )


def _not_for_a_workspace(account: Document) -> str | None:
    if account["properties"].get("isHnsEnabled"):
        return "it has a hierarchical namespace, which a workspace's own account must not have"
    sku = str((account.get("sku") or {}).get("name") or "")
    return f"its sku is '{sku}'; a workspace takes a standard one" if sku.lower().startswith("premium") else None
