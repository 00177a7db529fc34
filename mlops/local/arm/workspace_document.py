"""The document of a workspace: what the service fills in, and the seeded one."""

from __future__ import annotations

import uuid

from mlops.local.arm.shapes import mapping
from mlops.local.state.config import Config
from mlops.local.state.operations import now
from mlops.local.state.store import Document
from mlops.local.state.workspace import Workspace


def tracking_uri(config: Config, workspace_id: str | None = None) -> str:
    """The workspace's tracking uri, for ``mlflow.set_tracking_uri``."""
    return f"azureml://{config.api_host}/mlflow/v1.0{workspace_id or config.workspace_id}"


def is_main(config: Config, workspace_id: str) -> bool:
    """Whether this is the workspace in which things really run."""
    return workspace_id.lower() == config.workspace_id.lower()


def grave(config: Config, workspace_id: str) -> str:
    """The id under which a deleted workspace is kept."""
    return f"/subscriptions/{config.subscription}/deletedWorkspaces/{workspace_id.lower().replace('/', '|')}"


def seed(workspace: Workspace) -> None:
    """Write the document of the seeded workspace."""
    config = workspace.config
    if workspace.store.get(config.workspace_id) is not None:
        return
    group = config.group_id
    given = {
        "friendlyName": config.workspace,
        "storageAccount": f"{group}/providers/Microsoft.Storage/storageAccounts/{config.account}",
        "keyVault": f"{group}/providers/Microsoft.Keyvault/vaults/{config.account}",
        "applicationInsights": f"{group}/providers/Microsoft.insights/components/{config.account}",
        "containerRegistry": f"{group}/providers/Microsoft.ContainerRegistry/registries/{config.account}",
    }
    body: Document = {
        "id": config.workspace_id,
        "name": config.workspace,
        "type": "Microsoft.MachineLearningServices/workspaces",
        "location": config.region,
        "tags": {},
        "kind": "Default",
        "properties": given,
    }
    settle(config, body, None)
    made = now()
    body["systemData"] = {
        "createdAt": made,
        "createdBy": "local",
        "createdByType": "User",
        "lastModifiedAt": made,
        "lastModifiedBy": "local",
        "lastModifiedByType": "User",
    }
    body["properties"]["provisioningState"] = "Succeeded"
    workspace.store.put(config.workspace_id, body)


def settle(config: Config, body: Document, before: Document | None) -> None:
    """Fill in what the service adds."""
    given = body["properties"]
    known = (before or {}).get("properties", {}).get("workspaceId")
    guid = config.workspace_guid if is_main(config, body["id"]) else known or str(uuid.uuid4())
    body["etag"] = None
    body["sku"] = body.get("sku") or {"name": "Basic", "tier": "Basic"}
    identity = mapping(body.get("identity"), "identity") or {"type": "SystemAssigned"}
    body["identity"] = {**identity, "principalId": guid, "tenantId": config.tenant}
    body["properties"] = {
        "description": "",
        "friendlyName": body["name"],
        "applicationInsights": None,
        "containerRegistry": None,
        "hbiWorkspace": False,
        "imageBuildCompute": None,
        "managedNetwork": {"isolationMode": "Disabled"},
        "v1LegacyMode": False,
        "publicNetworkAccess": "Enabled",
        "enableDataIsolation": False,
        "systemDatastoresAuthMode": "accesskey",
        **given,
        "tenantId": config.tenant,
        "softDeleteEnabled": True,
        "creationTime": now(),
        "storageHnsEnabled": False,
        "workspaceId": guid,
        "privateLinkCount": 0,
        "discoveryUrl": f"https://{config.api_host}/discovery",
        "mlFlowTrackingUri": tracking_uri(config, body["id"]),
    }
