"""What a workspace depends on besides its key vault: storage account, log analytics, insights, container registry.

Blobs are served for the storage account of the real workspace. Nothing stands behind the others here: they are
documents whose names, states and deletions behave as Azure's do.
"""

from __future__ import annotations

import re
import secrets
import uuid

from mlops.local.arm.errors import ArmError, bad_request
from mlops.local.arm.group_resource import GroupResource
from mlops.local.arm.operations import location_headers, status_headers
from mlops.local.arm.resources import Answer, Call
from mlops.local.arm.shapes import mapping
from mlops.local.blob.store import Blobs
from mlops.local.state.limits import Limits
from mlops.local.state.operations import now
from mlops.local.state.store import Document
from mlops.local.state.workspace import Workspace


class StorageAccounts(GroupResource):
    """Storage accounts; the blobs of the one that the workspace uses are served."""

    namespace = "Microsoft.Storage"
    kind = "storageAccounts"
    pattern = re.compile(r"[a-z0-9]{3,24}")

    def __init__(self, workspace: Workspace, limits: Limits, blobs: Blobs) -> None:
        super().__init__(workspace, limits)
        self._blobs = blobs

    def invalid(self, name: str) -> ArmError:
        """Azure's sentence."""
        message = (
            f"{name} is not a valid storage account name. Storage account name must be between 3 and 24 characters in "
            "length and use numbers and lower-case letters only."
        )
        return ArmError(400, "AccountNameInvalid", message)

    def elsewhere(self, call: Call) -> bool:
        """Names are the world's."""
        return any(body["name"] == call.name for body in self.all())

    def taken(self, name: str) -> ArmError:
        """Azure's sentence."""
        message = f"The storage account named {name} is already taken."
        return ArmError(409, "StorageAccountAlreadyTaken", message)

    def fill(self, call: Call, body: Document, existing: Document | None) -> None:  # noqa: ARG002
        """Endpoints and defaults."""
        sku = mapping(body.get("sku"), "sku") or (existing or {}).get("sku") or {}
        if not sku.get("name"):
            raise bad_request("The property 'sku.name' is required for a storage account.")
        body["sku"] = {"name": sku["name"], "tier": str(sku["name"]).partition("_")[0]}
        body["kind"] = body.get("kind") or (existing or {}).get("kind") or "StorageV2"
        body["properties"] = {
            "accessTier": "Hot",
            "allowBlobPublicAccess": False,
            "allowSharedKeyAccess": True,
            "minimumTlsVersion": "TLS1_2",
            "supportsHttpsTrafficOnly": True,
            "publicNetworkAccess": "Enabled",
            "isHnsEnabled": False,
            **body["properties"],
            "primaryLocation": body["location"],
            "statusOfPrimary": "available",
            "primaryEndpoints": {"blob": f"https://{body['name']}.blob.core.windows.net/"},
            "creationTime": (existing or {}).get("properties", {}).get("creationTime") or now(),
        }

    def began(self, call: Call, body: Document, operation: str) -> Answer:
        """202 and where to look, as the storage service does."""
        del body
        return Answer(202, None, location_headers(call, operation, self.namespace))

    async def gone(self, body: Document) -> None:
        """Its blobs go with it."""
        self._blobs.forget_account(body["name"])

    async def action(self, call: Call, action: str) -> Answer:
        """``listKeys``."""
        body = self.must(call)
        if action.lower() != "listkeys":
            return await super().action(call, action)
        key = self._blobs.account_key
        if body["name"] not in call.workspace.accounts:
            key = call.workspace.store.private(call.resource_id).get("key") or secrets.token_urlsafe(64)
            call.workspace.store.update_private(call.resource_id, key=key)
        shown = [{"keyName": name, "value": key, "permissions": "FULL"} for name in ("key1", "key2")]
        return Answer(200, {"keys": shown})


class LogAnalytics(GroupResource):
    """Log analytics workspaces."""

    namespace = "Microsoft.OperationalInsights"
    kind = "workspaces"
    operation = "logAnalytics"  # not to be taken for Azure ML's
    pattern = re.compile(r"[A-Za-z0-9][-A-Za-z0-9]{2,61}[A-Za-z0-9]")
    rule = "4 to 63 letters, digits and '-', which neither begins nor ends it"

    def fill(self, call: Call, body: Document, existing: Document | None) -> None:  # noqa: ARG002
        """Its customer id."""
        before = (existing or {}).get("properties", {})
        body["properties"] = {
            "retentionInDays": 30,
            "sku": {"name": "PerGB2018"},
            **body["properties"],
            "customerId": before.get("customerId") or str(uuid.uuid4()),
        }


class ApplicationInsights(GroupResource):
    """Application insights."""

    namespace = "Microsoft.Insights"
    kind = "components"
    quick = True

    def fill(self, call: Call, body: Document, existing: Document | None) -> None:
        """Keys, and the log analytics workspace behind it."""
        if not (body.get("kind") or (existing or {}).get("kind")):
            raise bad_request("The property 'kind' is required for an application insights component.")
        body["kind"] = body.get("kind") or (existing or {}).get("kind")
        before = (existing or {}).get("properties", {})
        behind = next((value for key, value in body["properties"].items() if key.lower() == "workspaceresourceid"), "")
        if behind and call.workspace.store.get(str(behind)) is None:
            message = f"The workspace resource '{behind}' was not found."
            raise ArmError(400, "WorkspaceNotFound", message)
        key = before.get("InstrumentationKey") or str(uuid.uuid4())
        body["properties"] = {
            "Application_Type": "web",
            **body["properties"],
            "ApplicationId": body["name"],
            "AppId": before.get("AppId") or str(uuid.uuid4()),
            "InstrumentationKey": key,
            "ConnectionString": f"InstrumentationKey={key}",
            "TenantId": call.workspace.config.subscription,
            "IngestionMode": "LogAnalytics" if behind else "ApplicationInsights",
        }


class ContainerRegistries(GroupResource):
    """Container registries."""

    namespace = "Microsoft.ContainerRegistry"
    kind = "registries"
    pattern = re.compile(r"[A-Za-z0-9]{5,50}")

    def invalid(self, name: str) -> ArmError:
        """Azure's sentence."""
        del name
        message = (
            "Invalid resource name. Registry names may contain alpha numeric characters only and must be between 5 and "
            "50 characters."
        )
        return ArmError(400, "InvalidResourceName", message)

    def elsewhere(self, call: Call) -> bool:
        """Names are the world's."""
        return any(body["name"].lower() == call.name.lower() for body in self.all())

    def taken(self, name: str) -> ArmError:
        """Azure's sentence."""
        message = f"The registry DNS name {name.lower()}.azurecr.io is already in use."
        return ArmError(409, "AlreadyInUse", message)

    def fill(self, call: Call, body: Document, existing: Document | None) -> None:  # noqa: ARG002
        """Its login server."""
        sku = mapping(body.get("sku"), "sku") or (existing or {}).get("sku") or {}
        if not sku.get("name"):
            raise ArmError(400, "MissingSku", "The registry must have a sku.")
        body["sku"] = {"name": sku["name"], "tier": sku["name"]}
        body["properties"] = {
            "adminUserEnabled": False,
            "publicNetworkAccess": "Enabled",
            "policies": {"quarantinePolicy": {"status": "disabled"}},
            **body["properties"],
            "loginServer": f"{body['name'].lower()}.azurecr.io",
            "creationDate": (existing or {}).get("properties", {}).get("creationDate") or now(),
        }

    def began(self, call: Call, body: Document, operation: str) -> Answer:
        """201 and a document with the state."""
        return Answer(201, body, status_headers(call, operation, self.namespace))

    async def delete(self, call: Call) -> Answer:
        """By an operation."""
        body = self.enter(call.resource_id, "Deleting")
        if body is None:
            return Answer(204)
        operation = call.workspace.operations.start(f"{self.operation}.delete", body["id"], prefix="")
        return Answer(202, None, location_headers(call, operation, self.namespace))
