"""Connections of workspaces, hubs and projects: a target with a secret that only ``listSecrets`` shows."""

from __future__ import annotations

from mlops.local.arm.errors import ArmError, bad_request
from mlops.local.arm.resources import Answer, Call, ResourceType
from mlops.local.arm.shapes import mapping, text
from mlops.local.state.store import Document

SECRETS = {"CustomKeys": "keys", "ApiKey": "key", "PAT": "pat", "SAS": "sas", "AccountKey": "key", "None": ""}
"""What is secret in the credentials of each kind."""


class Connections(ResourceType):
    """``workspaces/connections``; a project sees its hub's connections as well."""

    kind = "workspaces/connections"

    async def put(self, call: Call) -> Answer:
        """Create or replace; the secret is kept apart and never shown."""
        existing = call.workspace.store.get(call.resource_id)
        body = self.document(call, existing)
        given = mapping(body["properties"], "properties")
        auth, category = (text(given.get(name), f"properties.{name}") for name in ("authType", "category"))
        if not category or not auth:
            raise bad_request("A connection needs a 'category' and an 'authType'.")
        if auth not in SECRETS:
            raise bad_request(f"The authType '{auth}' is not known here; use one of {', '.join(SECRETS)}.")
        credentials = mapping(given.pop("credentials", None), "properties.credentials")
        if SECRETS[auth] and not credentials.get(SECRETS[auth]):
            raise bad_request(f"A connection with authType '{auth}' needs 'credentials.{SECRETS[auth]}'.")
        if auth == "CustomKeys":
            keys = mapping(credentials["keys"], "properties.credentials.keys")
            credentials = {"keys": {name: text(value, f"keys.{name}") for name, value in keys.items()}}
        body["properties"] = {
            "metadata": {},
            "isSharedToAll": True,
            "sharedUserList": [],
            "useWorkspaceManagedIdentity": False,
            **given,
            "credentials": None,
            "createdByWorkspaceArmId": call.parent_id,
            "group": "AzureAI" if category != "CustomKeys" else "ServicesAndApps",
        }
        call.workspace.store.put(body["id"], body, private={"credentials": credentials})
        return Answer(200, body)

    async def patch(self, call: Call) -> Answer:
        """Change parts; without credentials the old ones stay."""
        existing = self.must(call)
        given = mapping(call.body.get("properties"), "properties")
        kept = call.workspace.store.private(call.resource_id)["credentials"]
        call.body = {"properties": {**existing["properties"], "credentials": kept, **given}}
        return await self.put(call)

    async def list(self, call: Call) -> Answer:
        """All of a workspace, with its hub's; by category and target where asked."""
        store = call.workspace.store
        owner = call.resource_id.rsplit("/", 1)[0]
        hub = (store.get(owner) or {}).get("properties", {}).get("hubResourceId")
        connections = [*store.children(call.resource_id), *(store.children(f"{hub}/connections") if hub else [])]
        for name in ("category", "target"):
            value = call.query.get(name)
            if value:
                connections = [
                    body for body in connections if str(body["properties"].get(name)).lower() == value.lower()
                ]
        return Answer(200, {"value": connections})

    async def action(self, call: Call, action: str) -> Answer:
        """``listSecrets``."""
        body: Document = self.must(call)
        if action.lower() != "listsecrets":
            return await super().action(call, action)
        credentials = call.workspace.store.private(call.resource_id)["credentials"]
        return Answer(200, {**body, "properties": {**body["properties"], "credentials": credentials}})

    def missing(self, call: Call) -> ArmError:
        """Azure's 404."""
        return ArmError(404, "NotFound", f"Connection '{call.name}' was not found in workspace.")
