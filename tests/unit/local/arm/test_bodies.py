"""What no client would send is refused, and never breaks anything."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.unit.local.arm.conftest import Cloud

ML = "Microsoft.MachineLearningServices"
KINDS = {
    "Microsoft.Storage/storageAccounts/stodd": ("accessTier",),
    "Microsoft.KeyVault/vaults/kv-odd": (
        "tenantId",
        "sku",
        "accessPolicies",
        "createMode",
        "softDeleteRetentionInDays",
    ),
    "Microsoft.OperationalInsights/workspaces/log-odd": ("sku",),
    "Microsoft.Insights/components/appi-odd": ("WorkspaceResourceId",),
    "Microsoft.ContainerRegistry/registries/crodd": ("adminUserEnabled",),
    "Microsoft.ManagedIdentity/userAssignedIdentities/id-odd": ("clientId",),
    "Microsoft.ManagedIdentity/userAssignedIdentities/id-odd/federatedIdentityCredentials/one": (
        "issuer",
        "subject",
        "audiences",
    ),
    f"{ML}/workspaces/w-odd": ("storageAccount", "keyVault", "hubResourceId"),
    f"{ML}/workspaces/w-odd/connections/one": ("category", "authType", "credentials", "metadata"),
    "Microsoft.Authorization/roleAssignments/00000000-0000-0000-0000-000000000001": (
        "principalId",
        "principalType",
        "roleDefinitionId",
    ),
}
"""Each with those of its properties that the workspace reads."""
ODD: tuple[Any, ...] = (None, 7, "text", [1], {"name": 7}, {"keys": {"a": {"b": None}}}, True)
NAMES = ("location", "tags", "sku", "properties", "kind", "identity")
FIT: dict[str, Any] = {
    "location": "eastus",
    "sku": {"name": "Standard_LRS"},
    "kind": "web",
    "properties": {
        "tenantId": "t",
        "sku": {"name": "standard"},
        "accessPolicies": [],
        "issuer": "https://x",
        "subject": "s",
        "audiences": ["a"],
        "category": "CustomKeys",
        "authType": "CustomKeys",
        "credentials": {"keys": {"key": "k"}},
    },
}


def odd_bodies(names: tuple[str, ...]) -> list[Any]:
    """A fit body with one thing in it that does not fit."""
    properties: dict[str, Any] = FIT["properties"]
    outer = [{**FIT, name: value} for name, value in itertools.product(NAMES, ODD)]
    inner = [{**FIT, "properties": {**properties, name: value}} for name, value in itertools.product(names, ODD)]
    return [*outer, *inner]


@pytest.mark.parametrize("kind", KINDS)
def test_odd_bodies(cloud: Cloud, kind: str) -> None:
    path = f"{cloud.group_id}/providers/{kind}"
    for number, body in enumerate(odd_bodies(KINDS[kind])):
        where = path if kind.endswith(("1", "one")) else f"{path}{number}"
        for method in ("PUT", "PATCH", "DELETE"):
            status, said = cloud.call(method, where, None if method == "DELETE" else body)
            assert status < 500, (method, where, body, said)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/subscriptions",
        "/subscriptions/",
        "/nothing/at/all",
        "/providers",
        "/providers/Microsoft.Authorization",
        "/providers/Microsoft.Authorization/roleDefinitions",
        "/providers/Microsoft.Nothing/things",
        "{sub}/providers",
        "{sub}/providers/",
        "{sub}/providers/Microsoft.Nothing",
        "{sub}/providers/Microsoft.KeyVault/locations/nowhere/deletedVaults/none",
        "{sub}/resourceGroups/none/providers/Microsoft.Storage",
        "{sub}/resourceGroups/none/resources",
        "{sub}/operationresults/none",
        "{sub}/providers/Microsoft.Storage/locations/eastus/operationStatuses/none",
        "{sub}/providers/Microsoft.Compute/locations/eastus/providers/Microsoft.Quota/quotas",
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "PATCH", "DELETE", "HEAD"])
def test_odd_paths(cloud: Cloud, method: str, path: str) -> None:
    status, _ = cloud.call(method, path.replace("{sub}", f"/subscriptions/{cloud.subscription}"))
    assert status < 500
