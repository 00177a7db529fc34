"""Key vaults: a deleted one keeps its name until it is recovered or purged."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from mlops.local.arm.errors import ArmError, bad_request
from mlops.local.arm.group_resource import GroupResource
from mlops.local.arm.operations import location_headers
from mlops.local.arm.resources import Answer, Call, ResourceType
from mlops.local.arm.shapes import integer, mapping
from mlops.local.state.config import Config
from mlops.local.state.operations import now
from mlops.local.state.store import Document
from mlops.local.state.workspace import Workspace

KEPT_DAYS = 90


def grave(config: Config, location: str, name: str) -> str:
    """The id of a deleted vault."""
    where = f"/subscriptions/{config.subscription}/providers/Microsoft.KeyVault/locations/{location}"
    return f"{where}/deletedVaults/{name}"


class Vaults(GroupResource):
    """Key vaults."""

    namespace = "Microsoft.KeyVault"
    kind = "vaults"
    pattern = re.compile(r"(?=.{3,24}$)[A-Za-z](-?[A-Za-z0-9])*")
    creating = "RegisteringDns"

    def invalid(self, name: str) -> ArmError:
        """Azure's sentence."""
        message = (
            f"The vault name '{name}' is invalid. A vault's name must be between 3-24 alphanumeric characters. The "
            "name must begin with a letter, end with a letter or digit, and not contain consecutive hyphens."
        )
        return ArmError(400, "VaultNameNotValid", message)

    def elsewhere(self, call: Call) -> bool:
        """Names are the world's."""
        return any(body["name"].lower() == call.name.lower() for body in self.all())

    def taken(self, name: str) -> ArmError:
        """Azure's sentence."""
        message = (
            f"The vault name '{name}' is already in use. Vault names are globally unique so it is possible that the "
            "name is already taken."
        )
        return ArmError(409, "VaultAlreadyExists", message)

    def check_new(self, call: Call) -> None:
        """A deleted one of the name must be recovered or purged first."""
        super().check_new(call)
        config = call.workspace.config
        location = str(call.body.get("location")).replace(" ", "").lower()
        dead = call.workspace.store.get(grave(config, location, call.name))
        mode = mapping(call.body.get("properties"), "properties").get("createMode") or "default"
        if dead is not None and mode == "default":
            message = (
                "A vault with the same name already exists in deleted state. You need to either recover or purge "
                "existing key vault. Follow this link https://go.microsoft.com/fwlink/?linkid=2149745 for more "
                "information on soft delete."
            )
            raise ArmError(409, "ConflictError", message)
        if dead is None and mode == "recover":
            raise ArmError(404, "VaultNotFound", f"There is no deleted vault with the name '{call.name}' to recover.")

    def fill(self, call: Call, body: Document, existing: Document | None) -> None:
        """What a vault needs, and what a recovered one had."""
        config, store = call.workspace.config, call.workspace.store
        mode = body["properties"].pop("createMode", None) or "default"
        if mode == "recover" and existing is None:
            deleted_id = grave(config, body["location"], call.name)
            buried = store.private(deleted_id)["body"]
            if buried["id"].lower() != call.resource_id.lower():
                raise bad_request(
                    f"The deleted vault '{call.name}' was '{buried['id']}' and can be recovered there only."
                )
            body["properties"] = buried["properties"]
            body["tags"] = body["tags"] or buried["tags"]
            store.delete(deleted_id)
        properties = body["properties"]
        if not properties.get("tenantId") or not mapping(properties.get("sku"), "sku").get("name"):
            raise bad_request("The properties 'tenantId' and 'sku' are required for a key vault.")
        if not properties.get("enableRbacAuthorization") and properties.get("accessPolicies") is None:
            raise bad_request("A key vault needs 'accessPolicies', or 'enableRbacAuthorization': true.")
        days = integer(properties.get("softDeleteRetentionInDays"), "softDeleteRetentionInDays", default=KEPT_DAYS)
        if not 7 <= days <= KEPT_DAYS:
            raise bad_request(
                f"The property 'softDeleteRetentionInDays' is {days}; it must lie between 7 and {KEPT_DAYS}."
            )
        body["properties"] = {
            "accessPolicies": [],
            "enabledForDeployment": False,
            "softDeleteRetentionInDays": KEPT_DAYS,
            "publicNetworkAccess": "Enabled",
            **properties,
            "enableSoftDelete": True,
            "vaultUri": f"https://{body['name'].lower()}.vault.azure.net/",
        }

    async def gone(self, body: Document) -> None:
        """Keep it, out of sight."""
        config, store = self._workspace.config, self._workspace.store
        deleted_id = grave(config, body["location"], body["name"])
        days = int(body["properties"]["softDeleteRetentionInDays"])
        shown = {
            "id": deleted_id,
            "name": body["name"],
            "type": "Microsoft.KeyVault/deletedVaults",
            "properties": {
                "vaultId": body["id"],
                "location": body["location"],
                "tags": body["tags"],
                "deletionDate": now(),
                "scheduledPurgeDate": (datetime.now(UTC) + timedelta(days=days)).isoformat(),
                "purgeProtectionEnabled": bool(body["properties"].get("enablePurgeProtection")),
            },
        }
        store.put(deleted_id, shown, private={"body": body})


class DeletedVaults(ResourceType):
    """``locations/{location}/deletedVaults``, and the list of all of the subscription."""

    namespace = "Microsoft.KeyVault"

    def __init__(self, workspace: Workspace, kind: str = "locations/deletedVaults") -> None:
        self._workspace = workspace
        self.kind = kind
        workspace.operations.register("vault.purge", self._purge)

    async def list(self, call: Call) -> Answer:
        """All of them."""
        store, config = call.workspace.store, call.workspace.config
        base = f"/subscriptions/{config.subscription}/providers/{self.namespace}/locations"
        return Answer(200, {"value": [body for body in store.below(base) if "deletedVaults" in body["id"]]})

    async def action(self, call: Call, action: str) -> Answer:
        """``purge``: the name is free again afterwards."""
        vault = self.must(call)
        if action.lower() != "purge":
            return await super().action(call, action)
        if vault["properties"]["purgeProtectionEnabled"]:
            message = 'Operation "purge" is not allowed because purge protection is enabled for this vault.'
            raise ArmError(409, "MethodNotAllowed", message)
        operation = call.workspace.operations.start("vault.purge", vault["id"], prefix="")
        return Answer(202, None, location_headers(call, operation, self.namespace))

    def missing(self, call: Call) -> ArmError:
        """Azure's 404."""
        message = f"The specified deleted vault '{call.name}' does not exist."
        return ArmError(404, "DeletedVaultNotFound", message)

    async def _purge(self, deleted_id: str, arguments: dict[str, Any]) -> None:
        del arguments
        await asyncio.sleep(self._workspace.config.delete_operation_s)
        self._workspace.store.delete(deleted_id)
