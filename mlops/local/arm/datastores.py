"""Datastores: names for blob containers of the workspace's storage account."""

from __future__ import annotations

import re

from mlops.local.arm.errors import bad_request, not_found
from mlops.local.arm.resources import Answer, Call, ResourceType
from mlops.local.arm.shapes import integer
from mlops.local.blob.store import Blobs
from mlops.local.state.operations import now
from mlops.local.state.store import Document
from mlops.local.state.workspace import Workspace

NAME = re.compile(r"[A-Za-z0-9_]{1,255}")
SAS_HOURS = 24
PERMISSIONS = "racwdl"


class DatastoreType(ResourceType):
    """``workspaces/datastores``."""

    kind = "workspaces/datastores"

    def __init__(self, blobs: Blobs) -> None:
        self.blobs = blobs

    def seed(self, workspace: Workspace) -> None:
        """The two that every workspace has."""
        config, accounts = workspace.config, workspace.accounts
        for name, container in (("workspaceblobstore", config.container), ("workspaceartifactstore", "azureml")):
            identity = f"{config.workspace_id}/datastores/{name}"
            if workspace.store.get(identity) is not None:
                continue
            made = now()
            workspace.store.put(
                identity,
                {
                    "id": identity,
                    "name": name,
                    "type": "Microsoft.MachineLearningServices/workspaces/datastores",
                    "properties": {
                        "description": None,
                        "tags": None,
                        "properties": None,
                        "isDefault": name == "workspaceblobstore",
                        "credentials": {"credentialsType": "AccountKey"},
                        "datastoreType": "AzureBlob",
                        "subscriptionId": config.subscription,
                        "resourceGroup": self.blobs.resource_id.split("/")[4],
                        "accountName": accounts.shown,
                        "containerName": container,
                        "endpoint": "core.windows.net",
                        "protocol": "https",
                        "serviceDataAccessAuthIdentity": "None",
                    },
                    "systemData": {
                        "createdAt": made,
                        "createdBy": "local",
                        "createdByType": "Application",
                        "lastModifiedAt": made,
                        "lastModifiedBy": "local",
                        "lastModifiedByType": "Application",
                    },
                },
            )

    def complete(self, call: Call, body: Document, existing: Document | None) -> Document:
        """Only containers of the workspace's own account."""
        properties = body["properties"]
        if properties.get("datastoreType") != "AzureBlob":
            raise bad_request("The local workspace has blob datastores only ('datastoreType': 'AzureBlob').")
        if properties.get("accountName") not in call.workspace.accounts:
            raise bad_request(f"The storage account must be '{call.workspace.accounts.shown}'.")
        if existing is None and not NAME.fullmatch(call.name):
            raise bad_request(f"'{call.name}' is not a valid datastore name: letters, digits and '_', at most 255.")
        if not properties.get("containerName"):
            raise bad_request("The datastore names no container.")
        credentials = dict(properties.get("credentials") or {"credentialsType": "None"})
        credentials.pop("secrets", None)
        properties.update(credentials=credentials, endpoint="core.windows.net", protocol="https")
        properties["isDefault"] = bool((existing or {}).get("properties", {}).get("isDefault", False))
        return body

    def selected(self, call: Call, body: Document) -> bool:
        """``isDefault``, ``names`` and ``searchText``."""
        is_default = call.query.get("isDefault", "").lower()
        if is_default in ("true", "false") and bool(body["properties"].get("isDefault")) != (is_default == "true"):
            return False
        names = [name.strip().lower() for name in call.query.get("names", "").split(",") if name.strip()]
        if names and body["name"].lower() not in names:
            return False
        return call.query.get("searchText", "").lower() in body["name"].lower()

    async def action(self, call: Call, action: str) -> Answer:
        """``listSecrets``: the account's key, or a signature where one that expires was asked for."""
        properties = self.must(call)["properties"]
        if action.lower() != "listsecrets":
            raise not_found(f"The action '{action}' is not known on a datastore.")
        if call.body.get("expirableSecret"):
            hours = integer(call.body.get("expireAfterHours"), "expireAfterHours", default=1)
            lifetime_s = min(max(hours, 0.1), SAS_HOURS) * 3600
            token = self.blobs.sas(properties["containerName"], permissions=PERMISSIONS, lifetime_s=lifetime_s)
            return Answer(200, {"secretsType": "Sas", "sasToken": token})
        return Answer(200, {"secretsType": "AccountKey", "key": self.blobs.account_key})
