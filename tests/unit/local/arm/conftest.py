"""An empty subscription, and Azure's own management clients on it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import until
from tests.unit.local.conftest import Local, make_local

STANDING = {"MLOPS_LOCAL_EMPTY": "0", "MLOPS_LOCAL_PARTS": "none"}
"""For another daemon beside the module's, which comes up faster and has a group."""
QUICK = {"MLOPS_LOCAL_RESOURCE_S": "0.05", "MLOPS_LOCAL_QUOTA_S": "0.05", "MLOPS_LOCAL_QUOTA_GRANT": "500"}
PROVIDERS = (
    "Storage",
    "KeyVault",
    "OperationalInsights",
    "Insights",
    "ContainerRegistry",
    "ManagedIdentity",
    "MachineLearningServices",
    "Quota",
)
VERSION = "2024-01-01"


@dataclass
class Cloud:
    """The clients that setup uses, logged in as whoever the environment names."""

    local: Local
    credential: Any
    subscription: str
    group: str = field(default_factory=lambda: f"g-{uuid.uuid4().hex[:8]}")

    @cached_property
    def resources(self) -> Any:
        from azure.mgmt.resource.resources import ResourceManagementClient

        return ResourceManagementClient(self.credential, self.subscription, polling_interval=0.05)

    @cached_property
    def identities(self) -> Any:
        from azure.mgmt.msi import ManagedServiceIdentityClient

        return ManagedServiceIdentityClient(self.credential, self.subscription)

    @cached_property
    def authorization(self) -> Any:
        from azure.mgmt.authorization import AuthorizationManagementClient

        return AuthorizationManagementClient(self.credential, self.subscription, api_version="2022-04-01")

    @cached_property
    def quota(self) -> Any:
        from azure.mgmt.quota import QuotaMgmtClient

        return QuotaMgmtClient(self.credential, self.subscription, polling_interval=0.05)

    @property
    def group_id(self) -> str:
        return f"/subscriptions/{self.subscription}/resourceGroups/{self.group}"

    def id_of(self, kind: str, name: str) -> str:
        return f"{self.group_id}/providers/{kind}/{name}"

    def put(self, resource_id: str, body: dict[str, Any]) -> dict[str, Any]:
        """Write a resource and wait until it is there."""
        poller = self.resources.resources.begin_create_or_update_by_id(resource_id, body, api_version=VERSION)
        document: dict[str, Any] = poller.result().as_dict()
        return document

    def get(self, resource_id: str) -> dict[str, Any]:
        document: dict[str, Any] = self.resources.resources.get_by_id(resource_id, api_version=VERSION).as_dict()
        return document

    def delete(self, resource_id: str) -> None:
        self.resources.resources.begin_delete_by_id(resource_id, api_version=VERSION).result()

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """A request without a client's help: status and body."""
        from azure.core.rest import HttpRequest

        request = HttpRequest(method, path, params={"api-version": VERSION}, json=body)
        response = self.resources.send_request(request)
        return response.status_code, response.json() if response.content else None

    def role(self, name: str) -> str:
        """A role's id."""
        (definition,) = self.authorization.role_definitions.list(self.group_id, filter=f"roleName eq '{name}'")
        identity: str = definition.id
        return identity

    def assign(self, role: str, principal: str, scope: str) -> Any:
        """Give a role."""
        properties = {
            "roleDefinitionId": self.role(role),
            "principalId": principal,
            "principalType": "ServicePrincipal",
        }
        return self.authorization.role_assignments.create(scope, str(uuid.uuid4()), {"properties": properties})

    def identity(self, name: str) -> Any:
        """A managed identity."""
        return self.identities.user_assigned_identities.create_or_update(self.group, name, {"location": "eastus"})

    def workspace_dependencies(self, mark: str) -> dict[str, str]:
        """A workspace's dependencies, as its properties name them."""
        tenant = os.environ["AZURE_TENANT_ID"]
        named = {
            "storageAccount": self.id_of("Microsoft.Storage/storageAccounts", f"st{mark}"),
            "keyVault": self.id_of("Microsoft.KeyVault/vaults", f"kv-{mark}"),
            "applicationInsights": self.id_of("Microsoft.Insights/components", f"appi-{mark}"),
            "containerRegistry": self.id_of("Microsoft.ContainerRegistry/registries", f"cr{mark}"),
        }
        self.put(named["storageAccount"], {"location": "eastus", "sku": {"name": "Standard_LRS"}, "kind": "StorageV2"})
        vault = {"tenantId": tenant, "sku": {"family": "A", "name": "standard"}, "enableRbacAuthorization": True}
        self.put(named["keyVault"], {"location": "eastus", "properties": vault})
        self.put(named["applicationInsights"], {"location": "eastus", "kind": "web"})
        self.put(named["containerRegistry"], {"location": "eastus", "sku": {"name": "Basic"}})
        return named

    def workspace(self, name: str, properties: dict[str, Any], kind: str = "Default") -> dict[str, Any]:
        """A workspace, a hub or a project."""
        body = {"location": "eastus", "kind": kind, "identity": {"type": "SystemAssigned"}, "properties": properties}
        return self.put(self.id_of("Microsoft.MachineLearningServices/workspaces", name), body)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Iterator[Local]:
    """A daemon whose subscription began empty; its environment is this process's for as long as the module runs."""
    local = make_local(tmp_path_factory.mktemp("empty"), shared_cache, MLOPS_LOCAL_EMPTY="1", **QUICK)
    before = dict(os.environ)
    try:
        environment = local.env
        os.environ.clear()
        os.environ.update(environment)
        yield local
    finally:
        os.environ.clear()
        os.environ.update(before)
        local.stop()


@pytest.fixture(scope="module")
def cloud(empty: Local) -> Iterator[Cloud]:
    """The clients, with a group of the module's own and every provider registered."""
    from azure.identity import DefaultAzureCredential

    with DefaultAzureCredential() as credential:
        made = Cloud(empty, credential, os.environ["AZURE_SUBSCRIPTION_ID"])
        for name in PROVIDERS:
            made.resources.providers.register(f"Microsoft.{name}")
        until(
            lambda: all(
                made.resources.providers.get(f"Microsoft.{name}").registration_state == "Registered"
                for name in PROVIDERS
            )
        )
        made.resources.resource_groups.create_or_update(made.group, {"location": "eastus"})
        yield made


def refused(code: str, work: Callable[[], Any]) -> Any:
    """Do what Azure refuses with a code; the error."""
    from azure.core.exceptions import HttpResponseError

    with pytest.raises(HttpResponseError) as caught:
        work()
    assert caught.value.error is not None, caught.value
    assert caught.value.error.code == code, caught.value
    return caught.value


def admin(path: str, method: str = "GET", body: Any = None) -> Any:
    """The daemon's own routes, of the daemon that this process's environment names."""
    from mlops.local.daemon import client

    return client.request(path, method=method, body=body)
