"""Clusters, sizes and quota on the wire, and through the real client."""

from __future__ import annotations

from typing import Any

import pytest

from mlops.local.arm.skus import skus
from tests.unit.local.serving.bench import QUICK, Bench


def cluster(size: str = "Standard_NC24ads_A100_v4", priority: str = "Dedicated", low: int = 0, high: int = 2) -> Any:
    scale = {"minNodeCount": low, "maxNodeCount": high, "nodeIdleTimeBeforeScaleDown": "PT2M"}
    inner = {"vmSize": size, "vmPriority": priority, "scaleSettings": scale, "osType": "Linux"}
    return {"location": "eastus", "properties": {"computeType": "AmlCompute", "properties": inner}}


async def test_a_cluster_lives_and_dies(bench: Bench) -> None:
    assert (await bench.arm("GET", "computes/gpu-cluster-big")).status_code == 404
    made = await bench.arm("PUT", "computes/gpu-cluster-big", cluster())
    assert made.status_code == 201
    assert "computeOperationsStatus" in made.headers["Azure-AsyncOperation"]
    assert "Location" not in made.headers
    assert made.json()["properties"]["provisioningState"] == "Creating"
    await bench.done(made)
    body = (await bench.arm("GET", "computes/GPU-cluster-BIG")).json()
    assert body["name"] == "gpu-cluster-big"
    assert body["properties"]["provisioningState"] == "Succeeded"
    assert body["properties"]["properties"]["vmSize"] == "STANDARD_NC24ADS_A100_V4"
    assert body["properties"]["properties"]["nodeStateCounts"]["idleNodeCount"] == 0
    assert [one["name"] for one in (await bench.arm("GET", "computes")).json()["value"]] == ["gpu-cluster-big"]
    gone = await bench.arm("DELETE", "computes/gpu-cluster-big", underlyingResourceAction="Delete")
    assert gone.status_code == 202
    await bench.done(gone)
    assert (await bench.arm("DELETE", "computes/gpu-cluster-big")).status_code == 204


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("cpu", cluster("Standard_Unheard_Of"), "not offered"),
        ("cpu", cluster("Standard_NC6s_v3"), "retired on 2025-09-30"),
        ("cpu", cluster(priority="Spot"), "neither Dedicated nor LowPriority"),
        ("cpu", cluster(low=3, high=2), "minimum node count"),
        ("9cpu", cluster(), "not valid"),
        ("cpu", {"properties": {"computeType": "Kubernetes"}}, "not supported"),
        ("cpu", {"properties": {"computeType": "AmlCompute", "properties": "big"}}, "JSON object"),
        ("cpu", {"tags": [1], **cluster()}, "JSON object"),
    ],
)
async def test_refusals(bench: Bench, name: Any, body: Any, said: Any) -> None:
    refused = await bench.arm("PUT", f"computes/{name}", body)
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "BadRequest"
    assert said in refused.text


@pytest.mark.parametrize("bench", [{"quotas": {"standardNCADSA100v4Family": 20}}], indirect=True)
async def test_without_dedicated_quota_low_priority_is_left(bench: Bench) -> None:
    refused = await bench.arm("PUT", "computes/gpu", cluster())
    assert refused.json()["error"]["details"][0]["code"] == "ClusterCoreQuotaReached"
    await bench.done(await bench.arm("PUT", "computes/gpu", cluster(priority="LowPriority")))


async def test_sizes_usage_and_quota(bench: Bench) -> None:
    where = f"/subscriptions/{QUICK.subscription}/providers/Microsoft.MachineLearningServices/locations/eastus"
    sizes = {one["name"]: one for one in (await bench.arm("GET", f"{where}/vmSizes")).json()["value"]}
    assert sizes["Standard_NC24ads_A100_v4"]["gpus"] == 1
    assert sizes["Standard_ND40rs_v2"]["gpus"] == 8
    await bench.done(await bench.arm("PUT", "computes/gpu", cluster(low=1)))
    used = {one["name"]["value"]: one for one in (await bench.arm("GET", f"{where}/usages")).json()["value"]}
    assert used["Standard NCADSA100v4 Family Cluster Dedicated vCPUs"]["currentValue"] == 24
    quotas = (await bench.arm("GET", f"{where}/quotas")).json()["value"]
    assert len(quotas) == len(skus().families)


def test_reserved_instances() -> None:
    """Azure keeps a fifth more for upgrades, not for the big GPU sizes."""
    plain, gpu = skus().find("standard_ds3_V2"), skus().find("Standard_NC24ads_A100_v4")
    assert plain is not None
    assert gpu is not None
    assert [plain.deployment_vcpus(count) for count in (1, 2, 5, 6)] == [8, 12, 24, 32]
    assert gpu.deployment_vcpus(2) == 48
