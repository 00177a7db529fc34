"""Groups, providers and a workspace's dependencies, by Azure's own clients."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.support.waiting import until
from tests.unit.local.arm.conftest import VERSION, Cloud, refused

STORAGE = "Microsoft.Storage/storageAccounts"
VAULTS = "Microsoft.KeyVault/vaults"


def account(**more: Any) -> dict[str, Any]:
    return {"location": "eastus", "sku": {"name": "Standard_LRS"}, "kind": "StorageV2", **more}


def vault(**more: Any) -> dict[str, Any]:
    properties = {"tenantId": str(uuid.UUID(int=10)), "sku": {"family": "A", "name": "standard"}, "accessPolicies": []}
    return {"location": "eastus", "properties": {**properties, **more}}


def test_a_group_lives_and_dies_with_what_it_holds(cloud: Cloud) -> None:
    groups, name = cloud.resources.resource_groups, f"g-{uuid.uuid4().hex[:6]}"
    assert groups.check_existence(name) is False
    refused("ResourceGroupNotFound", lambda: groups.get(name))
    made = groups.create_or_update(name, {"location": "East US", "tags": {"a": "1"}})
    assert (made.location, made.tags) == ("eastus", {"a": "1"})
    refused("InvalidResourceGroupLocation", lambda: groups.create_or_update(name, {"location": "westus"}))
    assert groups.update(name, {"tags": {"b": "2"}}).tags == {"b": "2"}
    assert [group.name for group in groups.list(filter="tagName eq 'b' and tagValue eq '2'")] == [name]
    inside = f"{made.id}/providers/{STORAGE}/st{uuid.uuid4().hex[:8]}"
    cloud.put(inside, account(tags={"mine": "yes"}))
    listed = cloud.resources.resources.list_by_resource_group(name, filter="tagName eq 'mine' and tagValue eq 'yes'")
    assert [group.id for group in listed] == [inside]
    groups.begin_delete(name).result()
    assert groups.check_existence(name) is False
    refused("ResourceGroupNotFound", lambda: cloud.get(inside))
    refused("ResourceGroupNotFound", lambda: cloud.put(inside, account()))


def test_a_provider_must_be_registered_first(cloud: Cloud) -> None:
    providers = cloud.resources.providers
    assert providers.unregister("Microsoft.Storage").registration_state == "NotRegistered"
    account_id = cloud.id_of(STORAGE, f"st{uuid.uuid4().hex[:8]}")
    refused("MissingSubscriptionRegistration", lambda: cloud.put(account_id, account()))
    assert providers.register("Microsoft.Storage").registration_state in ("Registering", "Registered")
    until(lambda: providers.get("Microsoft.Storage").registration_state == "Registered")
    assert cloud.put(account_id, account())["properties"]["provisioningState"] == "Succeeded"
    refused("InvalidResourceNamespace", lambda: providers.get("Microsoft.Nothing"))


def test_the_api_version_is_needed_and_never_judged(cloud: Cloud) -> None:
    from azure.core.rest import HttpRequest

    client = cloud.resources
    assert client.send_request(HttpRequest("GET", f"{cloud.group_id}?api-version=1066")).status_code == 200
    none = client.send_request(HttpRequest("GET", cloud.group_id))
    assert (none.status_code, none.json()["error"]["code"]) == (400, "MissingApiVersionParameter")


def test_names_of_accounts_are_the_worlds(cloud: Cloud) -> None:
    name, other = f"st{uuid.uuid4().hex[:8]}", f"g-{uuid.uuid4().hex[:6]}"
    cloud.put(cloud.id_of(STORAGE, name), account())
    again = cloud.put(cloud.id_of(STORAGE, name), account(tags={"now": "tagged"}))
    assert again["tags"] == {"now": "tagged"}
    elsewhere = cloud.resources.resource_groups.create_or_update(other, {"location": "eastus"}).id
    refused("StorageAccountAlreadyTaken", lambda: cloud.put(f"{elsewhere}/providers/{STORAGE}/{name}", account()))
    refused("AccountNameInvalid", lambda: cloud.put(cloud.id_of(STORAGE, "Not-Legal"), account()))
    refused("InvalidResourceLocation", lambda: cloud.put(cloud.id_of(STORAGE, name), account(location="westus")))
    status, keys = cloud.call("POST", f"{cloud.id_of(STORAGE, name)}/listKeys")
    assert (status, len(keys["keys"])) == (200, 2)
    patched = cloud.resources.resources.begin_update_by_id(
        cloud.id_of(STORAGE, name), {"tags": {"b": "c"}}, api_version=VERSION
    )
    assert patched.result().tags == {"b": "c"}
    cloud.delete(cloud.id_of(STORAGE, name))
    refused("ResourceNotFound", lambda: cloud.get(cloud.id_of(STORAGE, name)))
    cloud.delete(cloud.id_of(STORAGE, name))


def test_a_deleted_vault_keeps_its_name(cloud: Cloud) -> None:
    name = f"kv-{uuid.uuid4().hex[:8]}"
    vault_id = cloud.id_of(VAULTS, name)
    made = cloud.put(vault_id, vault())
    cloud.delete(vault_id)
    refused("ResourceNotFound", lambda: cloud.get(vault_id))
    refused("ConflictError", lambda: cloud.put(vault_id, vault()))
    where = f"/subscriptions/{cloud.subscription}/providers/Microsoft.KeyVault"
    grave = f"{where}/locations/eastus/deletedVaults/{name}"
    assert cloud.call("GET", grave)[1]["properties"]["vaultId"] == vault_id
    assert name in [deleted["name"] for deleted in cloud.call("GET", f"{where}/deletedVaults")[1]["value"]]
    recovered = cloud.put(
        vault_id, {"location": "eastus", "properties": {"createMode": "recover", **vault()["properties"]}}
    )
    assert recovered["properties"]["vaultUri"] == made["properties"]["vaultUri"]
    refused("VaultNotFound", lambda: cloud.put(vault_id + "x", vault(createMode="recover")))
    cloud.delete(vault_id)
    assert cloud.call("POST", f"{grave}/purge")[0] == 202
    until(lambda: cloud.call("GET", grave)[0] == 404)
    cloud.put(vault_id, vault())


@pytest.mark.parametrize(
    ("kind", "name", "code"),
    [
        (VAULTS, "9-begins-with-a-digit", "VaultNameNotValid"),
        (VAULTS, "two--hyphens", "VaultNameNotValid"),
        ("Microsoft.ContainerRegistry/registries", "with-hyphen", "InvalidResourceName"),
        ("Microsoft.OperationalInsights/workspaces", "abc", "BadRequest"),
    ],
)
def test_illegal_names_are_refused(cloud: Cloud, kind: str, name: str, code: str) -> None:
    body = {**account(), **vault()} if kind == VAULTS else account()
    refused(code, lambda: cloud.put(cloud.id_of(kind, name), body))


def test_insights_needs_the_log_workspace_that_it_names(cloud: Cloud) -> None:
    logs = cloud.id_of("Microsoft.OperationalInsights/workspaces", "log-one")
    insights = cloud.id_of("Microsoft.Insights/components", "appi-one")
    body = {"location": "eastus", "kind": "web", "properties": {"WorkspaceResourceId": logs}}
    refused("WorkspaceNotFound", lambda: cloud.put(insights, body))
    assert cloud.put(logs, {"location": "eastus"})["properties"]["customerId"]
    assert cloud.put(insights, body)["properties"]["IngestionMode"] == "LogAnalytics"


def test_names_can_be_asked_for(cloud: Cloud) -> None:
    from azure.core.rest import HttpRequest

    path = f"/subscriptions/{cloud.subscription}/providers/Microsoft.Storage/checkNameAvailability?api-version=1"
    names = {"Not-Legal": "AccountNameInvalid", f"st{uuid.uuid4().hex[:8]}": None}
    for name, reason in names.items():
        body = {"name": name, "type": STORAGE}
        answer = cloud.resources.send_request(HttpRequest("POST", path, json=body)).json()
        assert answer.get("reason") == reason
