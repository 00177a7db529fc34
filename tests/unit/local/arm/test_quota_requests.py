"""Requests for quota: granted up to a border, refused beyond it, and a grant really counts."""

from __future__ import annotations

from typing import Any

from tests.unit.local.arm.conftest import Cloud, refused

FAMILY = "standardNCADSA100v4Family"


def asked(limit: int) -> dict[str, Any]:
    value = {"limitObjectType": "LimitValue", "value": limit}
    return {"properties": {"limit": value, "name": {"value": FAMILY}, "resourceType": "dedicated"}}


def usage(cloud: Cloud) -> int:
    path = f"/subscriptions/{cloud.subscription}/providers/Microsoft.MachineLearningServices/locations/eastus/quotas"
    (limit,) = [row["limit"] for row in cloud.call("GET", path)[1]["value"] if row["name"]["value"] == FAMILY]
    return int(limit)


def test_requests_for_quota(cloud: Cloud) -> None:
    scope = f"subscriptions/{cloud.subscription}/providers/Microsoft.MachineLearningServices/locations/eastus"
    before = usage(cloud)
    assert cloud.quota.quota.get(FAMILY, scope).properties.limit.value == before
    assert FAMILY in [item.name for item in cloud.quota.quota.list(scope)]

    def ask(limit: int) -> None:
        cloud.quota.quota.begin_create_or_update(FAMILY, scope, asked(limit)).result()

    refused("QuotaReductionNotSupported", lambda: ask(1))
    refused("ContactSupport", lambda: ask(501))
    assert usage(cloud) == before
    (request,) = cloud.quota.quota_request_status.list(scope)
    assert request.properties.provisioning_state == "Failed"
    assert request.properties.value[0].limit.value == 501
    assert cloud.quota.quota_request_status.get(request.name, scope).properties.error.code == "ContactSupport"
    refused("InvalidResourceName", lambda: cloud.quota.quota.get("standardNothingFamily", scope))
    ask(before + 48)
    assert usage(cloud) == before + 48
    assert [item.properties.provisioning_state for item in cloud.quota.quota_request_status.list(scope)] == [
        "Succeeded",
        "Failed",
    ]
    cloud.local.stop()
    cloud.local.start()
    assert usage(cloud) == before + 48
    assert cloud.quota.usages.get(FAMILY, scope).properties.usages.value == 0
