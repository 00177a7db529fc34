"""The workspace itself."""

from __future__ import annotations

from mlops.local.arm.errors import ArmError, not_found
from mlops.local.arm.resources import Answer, Call, ResourceType
from mlops.local.config import Config
from mlops.local.operations import now
from mlops.local.store import Document
from mlops.local.workspace import Workspace


def tracking_uri(config: Config) -> str:
    """The workspace's tracking uri, for ``mlflow.set_tracking_uri``."""
    return f"azureml://{config.api_host}/mlflow/v1.0{config.workspace_id}"


class WorkspaceType(ResourceType):
    """``workspaces``: one, made with the state folder; its tags and description can be changed."""

    kind = "workspaces"

    @staticmethod
    def seed(workspace: Workspace) -> None:
        """Write the workspace's document the first time."""
        config = workspace.config
        if workspace.store.get(config.workspace_id) is not None:
            return
        group, made = config.group_id, now()
        workspace.store.put(
            config.workspace_id,
            {
                "id": config.workspace_id,
                "name": config.workspace,
                "type": "Microsoft.MachineLearningServices/workspaces",
                "location": config.region,
                "tags": {},
                "etag": None,
                "properties": {
                    "friendlyName": config.workspace,
                    "description": "",
                    "storageAccount": f"{group}/providers/Microsoft.Storage/storageAccounts/{config.account}",
                    "keyVault": f"{group}/providers/Microsoft.Keyvault/vaults/{config.account}",
                    "applicationInsights": f"{group}/providers/Microsoft.insights/components/{config.account}",
                    "containerRegistry": f"{group}/providers/Microsoft.ContainerRegistry/registries/{config.account}",
                    "hbiWorkspace": False,
                    "tenantId": config.tenant,
                    "imageBuildCompute": None,
                    "provisioningState": "Succeeded",
                    "managedNetwork": {"isolationMode": "Disabled"},
                    "v1LegacyMode": False,
                    "softDeleteEnabled": False,
                    "creationTime": made,
                    "storageHnsEnabled": False,
                    "workspaceId": config.workspace_guid,
                    "privateLinkCount": 0,
                    "publicNetworkAccess": "Enabled",
                    "discoveryUrl": f"https://{config.api_host}/discovery",
                    "mlFlowTrackingUri": tracking_uri(config),
                    "enableDataIsolation": False,
                    "systemDatastoresAuthMode": "accesskey",
                },
                "identity": {"type": "SystemAssigned", "principalId": config.workspace_guid, "tenantId": config.tenant},
                "kind": "Default",
                "sku": {"name": "Basic", "tier": "Basic"},
                "systemData": {
                    "createdAt": made,
                    "createdBy": "local",
                    "createdByType": "User",
                    "lastModifiedAt": made,
                    "lastModifiedBy": "local",
                    "lastModifiedByType": "User",
                },
            },
        )

    async def put(self, call: Call) -> Answer:  # noqa: ARG002
        """Only what exists can be written again."""
        raise self._fixed()

    async def delete(self, call: Call) -> Answer:  # noqa: ARG002
        """Not through this API."""
        raise self._fixed()

    async def patch(self, call: Call) -> Answer:
        """Tags, description and friendly name."""
        self.must(call)
        given, properties = call.body, call.body.get("properties") or {}

        def change(body: Document) -> None:
            if isinstance(given.get("tags"), dict):
                body["tags"] = given["tags"]
            body["properties"].update({k: properties[k] for k in ("description", "friendlyName") if k in properties})

        call.workspace.store.update(call.resource_id, change)
        return Answer(200, self.must(call))

    async def list(self, call: Call) -> Answer:
        """The one, of its group and of its subscription."""
        return Answer(200, {"value": [call.workspace.store.get(call.workspace.config.workspace_id)]})

    async def action(self, call: Call, action: str) -> Answer:
        """The few that clients call."""
        self.must(call)
        config = call.workspace.config
        account_key = call.workspace.services["blobs"].account_key
        match action.lower():
            case "resynckeys":
                return Answer(200, None)
            case "liststorageaccountkeys":
                return Answer(200, {"userStorageKey": account_key})
            case "listkeys":
                account = f"{config.group_id}/providers/Microsoft.Storage/storageAccounts/{config.account}"
                return Answer(
                    200,
                    {
                        "userStorageKey": account_key,
                        "userStorageArmId": account,
                        "userStorageResourceId": account,
                        "appInsightsInstrumentationKey": None,
                        "containerRegistryCredentials": None,
                        "notebookAccessKeys": None,
                    },
                )
        raise not_found(f"The action '{action}' is not known on a workspace.")

    def _fixed(self) -> ArmError:
        message = "The local workspace has one workspace, which cannot be replaced; 'mlops local reset' starts anew."
        return ArmError(409, "Conflict", message)

    def missing(self, call: Call) -> ArmError:
        """ARM's own 404."""
        kind = f"Microsoft.MachineLearningServices/workspaces/{call.name}"
        message = f"The Resource '{kind}' under resource group '{call.workspace.config.resource_group}' was not found."
        return ArmError(404, "ResourceNotFound", message)
