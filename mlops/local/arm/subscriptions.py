"""What stands around the workspace: tenant, subscription, resource group, provider, storage account; all of it fixed.

Generated clients and command-line tools ask for these before they ask for a workspace.
"""

from __future__ import annotations

from typing import Any

from mlops.local.arm.errors import ArmError
from mlops.local.arm.resources import Answer
from mlops.local.config import Config

PROVIDERS = {
    "microsoft.machinelearningservices": "Microsoft.MachineLearningServices",
    "microsoft.storage": "Microsoft.Storage",
}


def answer(config: Config, method: str, path: str, *, account_key: str) -> Answer | None:
    """Answer a request on one of these; None for all else."""
    parts = [part for part in path.split("/") if part]
    kinds = [part.lower() for part in parts[0::2]]
    if method == "GET" and kinds == ["tenants"] and len(parts) == 1:
        return Answer(200, {"value": [{"id": f"/tenants/{config.tenant}", "tenantId": config.tenant}]})
    if kinds[:1] != ["subscriptions"]:
        return None
    if len(parts) == 1:
        return Answer(200, {"value": [_subscription(config)]}) if method == "GET" else None
    groups = [config.resource_group.lower()]
    names = [part.lower() for part in parts[1::2]]
    if kinds == ["subscriptions", "resourcegroups", "providers", "storageaccounts"] or (
        kinds == ["subscriptions", "resourcegroups", "providers", "storageaccounts", "listkeys"]
    ):
        return _account(config, method, names, account_key, keys=kinds[-1] == "listkeys")
    if len(kinds) > 2 or method not in ("GET", "HEAD"):
        return None
    if names[0] != config.subscription.lower():
        raise ArmError(404, "SubscriptionNotFound", f"The subscription '{parts[1]}' could not be found.")
    if kinds == ["subscriptions"]:
        return Answer(200, _subscription(config))
    if kinds[1] == "locations" and len(names) == 1:
        place = {"id": f"{_id(config)}/locations/{config.region}", "name": config.region, "displayName": config.region}
        return Answer(200, {"value": [place]})
    if kinds[1] == "resourcegroups":
        if len(names) == 1:
            return Answer(200, {"value": [_group(config)]})
        if names[1] not in groups:
            raise ArmError(404, "ResourceGroupNotFound", f"Resource group '{parts[3]}' could not be found.")
        return Answer(204) if method == "HEAD" else Answer(200, _group(config))
    if kinds[1] == "providers" and len(names) == 2 and names[1] in PROVIDERS:
        name = PROVIDERS[names[1]]
        shown = {"id": f"{_id(config)}/providers/{name}", "namespace": name, "registrationState": "Registered"}
        return Answer(200, shown | {"resourceTypes": []})
    return None


def _id(config: Config) -> str:
    return f"/subscriptions/{config.subscription}"


def _subscription(config: Config) -> dict[str, Any]:
    return {
        "id": _id(config),
        "subscriptionId": config.subscription,
        "tenantId": config.tenant,
        "displayName": "local workspace",
        "state": "Enabled",
        "authorizationSource": "RoleBased",
        "subscriptionPolicies": {"locationPlacementId": "Public_2014-09-01", "spendingLimit": "Off"},
    }


def _group(config: Config) -> dict[str, Any]:
    return {
        "id": config.group_id,
        "name": config.resource_group,
        "type": "Microsoft.Resources/resourceGroups",
        "location": config.region,
        "tags": {},
        "properties": {"provisioningState": "Succeeded"},
    }


def _account(config: Config, method: str, names: list[str], account_key: str, *, keys: bool) -> Answer:
    here = [config.subscription.lower(), config.resource_group.lower(), "microsoft.storage", config.account]
    if names[:4] != here:
        raise ArmError(404, "ResourceNotFound", "The storage account was not found.")
    if keys and method == "POST":
        return Answer(200, {"keys": [{"keyName": "key1", "value": account_key, "permissions": "FULL"}]})
    if keys or method != "GET":
        raise ArmError(405, "MethodNotAllowed", f"{method} is not allowed here.")
    shown = {
        "id": f"{config.group_id}/providers/Microsoft.Storage/storageAccounts/{config.account}",
        "name": config.account,
        "type": "Microsoft.Storage/storageAccounts",
        "kind": "StorageV2",
        "sku": {"name": "Standard_LRS", "tier": "Standard"},
        "location": config.region,
        "tags": {},
        "properties": {
            "provisioningState": "Succeeded",
            "primaryLocation": config.region,
            "primaryEndpoints": {"blob": f"https://{config.account}.blob.core.windows.net/"},
            "allowSharedKeyAccess": True,
            "isHnsEnabled": False,
        },
    }
    return Answer(200, shown)
