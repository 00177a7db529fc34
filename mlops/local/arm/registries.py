"""The registry itself, and the signatures that open its files."""

from __future__ import annotations

import asyncio
import re

from mlops.local.arm.assets import pending_upload
from mlops.local.arm.errors import ArmError, not_found
from mlops.local.arm.resources import Answer, Call, ResourceType
from mlops.local.blob.store import Blobs
from mlops.local.registry.part import RegistryPart

ASSET = re.compile(
    r"^azureml://registries/(?P<registry>[^/]+)/(?P<kind>\w+)/(?P<name>[^/]+)/versions/(?P<version>[^/]+)$"
)
READ_S = 24 * 3600


class RegistryType(ResourceType):
    """``registries``: one."""

    kind = "registries"

    async def get(self, call: Call) -> Answer:
        """Its description."""
        config = call.workspace.config
        if call.resource_id.lower() != config.registry_id.lower():
            raise not_found(f"Registry '{call.name}' was not found.")
        return Answer(
            200,
            {
                "id": config.registry_id,
                "name": config.registry,
                "type": "Microsoft.MachineLearningServices/registries",
                "location": config.region,
                "tags": {},
                "identity": {"type": "SystemAssigned"},
                "properties": {
                    "discoveryUrl": f"https://{config.api_host}/registrymanagement/v1.0/registries/{config.registry}/discovery",
                    "intellectualPropertyPublisher": None,
                    "managedResourceGroup": None,
                    "mlFlowRegistryUri": f"azureml://{config.api_host}/mlflow/v1.0/registries/{config.registry}",
                    "publicNetworkAccess": "Enabled",
                    "regionDetails": [{"location": config.region}],
                },
            },
        )

    async def list(self, call: Call) -> Answer:
        """Only that one."""
        call.resource_id = call.workspace.config.registry_id
        return Answer(200, {"value": [(await self.get(call)).body]})

    async def put(self, call: Call) -> Answer:  # noqa: ARG002
        """Not here."""
        raise ArmError(403, "AuthorizationFailed", "The registry cannot be changed.")

    patch = put
    delete = put


class UploadReference(ResourceType):
    """``registries/tempdatarefs/versions``: where a client uploads an asset for the registry."""

    kind = "registries/tempdatarefs/versions"

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    async def put(self, call: Call) -> Answer:  # noqa: ARG002
        """A container with a signature that may write."""
        pending = pending_upload(self._blobs)
        return Answer(
            200,
            {
                "blobReferenceForConsumption": pending["blobReferenceForConsumption"],
                "imageReferenceForConsumption": None,
                "temporaryDataReferenceId": pending["pendingUploadId"],
                "temporaryDataReferenceType": None,
            },
        )


class DataReference(ResourceType):
    """``registries/datarefs/versions``: a signature that may read an asset's files."""

    kind = "registries/datarefs/versions"

    def __init__(self, blobs: Blobs, registry: RegistryPart) -> None:
        self._blobs = blobs
        self._registry = registry

    async def action(self, call: Call, action: str) -> Answer:
        """POST on the reference itself."""
        asset = ASSET.match(str(call.body.get("assetId", "")))
        if action or not asset:
            raise not_found(f"'{call.body.get('assetId')}' was not found.")
        config = call.workspace.config
        identity = f"{config.registry_id}/{asset['kind']}/{asset['name']}/versions/{asset['version']}"
        body = call.workspace.store.get(identity)
        if body is None:
            raise not_found(f"'{call.body.get('assetId')}' was not found.")
        url = str(body["properties"].get("modelUri") or body["properties"].get("codeUri") or "")
        container = url.partition(".blob.core.windows.net/")[2].partition("/")[0]
        blobs = self._blobs
        if asset["kind"] == "models":
            await asyncio.to_thread(self._registry.standin.ensure, publish=self._registry.container)
        token = blobs.sas(container, permissions="rl", lifetime_s=READ_S)
        return Answer(
            200,
            {
                "blobReferenceForConsumption": {
                    "blobUri": url,
                    "storageAccountArmId": blobs.resource_id,
                    "credential": {"credentialType": "SAS", "sasUri": f"{blobs.url(container)}?{token}"},
                }
            },
        )
