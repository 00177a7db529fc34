"""Fault rules and the record of requests reach the subscription as they reach everything else."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.unit.local.arm.conftest import Cloud, admin, refused

ACCOUNT = {"location": "eastus", "sku": {"name": "Standard_LRS"}, "kind": "StorageV2"}


@pytest.fixture(autouse=True)
def clean(cloud: Cloud) -> Any:
    del cloud
    yield
    admin("faults", "DELETE")
    admin("requests", "POST", {"record": False})


def test_an_operation_fails_and_can_be_done_again(cloud: Cloud) -> None:
    account_id = cloud.id_of("Microsoft.Storage/storageAccounts", f"st{uuid.uuid4().hex[:8]}")
    rule = {
        "kind": "operation",
        "match": {"operation": "storageAccounts.create"},
        "code": "Broken",
        "message": "no disk",
    }
    admin("faults", "POST", [rule])
    refused("Broken", lambda: cloud.put(account_id, ACCOUNT))
    assert cloud.get(account_id)["properties"]["provisioningState"] == "Failed"
    assert cloud.put(account_id, ACCOUNT)["properties"]["provisioningState"] == "Succeeded"


def test_an_answer_is_lost_after_the_work_was_done(cloud: Cloud) -> None:
    rule = {
        "kind": "status",
        "status": 409,
        "code": "Lost",
        "when": "after",
        "match": {"method": "PUT", "path": ".*/userAssignedIdentities/id-lost$"},
    }
    admin("faults", "POST", [rule])
    refused("Lost", lambda: cloud.identity("id-lost"))
    assert cloud.identities.user_assigned_identities.get(cloud.group, "id-lost").principal_id


def test_requests_are_recorded(cloud: Cloud) -> None:
    admin("requests", "POST", {"record": True})
    cloud.resources.resource_groups.get(cloud.group)
    cloud.identity("id-traced")
    methods = [entry["method"] for entry in admin("requests")]
    assert methods == ["GET", "PUT"]
