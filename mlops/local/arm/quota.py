"""Virtual machine sizes, quota and its use, as ``locations/…`` answers them."""

from __future__ import annotations

from mlops.local.arm.errors import not_found
from mlops.local.arm.resources import Answer, Call, ResourceType
from mlops.local.arm.skus import Sku, skus
from mlops.local.state.config import Config
from mlops.local.state.limits import Limits
from mlops.local.state.store import Document, Store

GRANTED = "/providers/microsoft.quota/granted"
"""Where the limits stand that were asked for and granted."""


class FamilyQuotas:
    """Dedicated vCPUs per family of sizes: what the subscription began with, and what was granted since."""

    def __init__(self, limits: Limits, store: Store) -> None:
        self._limits = limits
        self._granted = {str(body["name"]): int(body["limit"]) for body in store.ending(GRANTED)}

    def of(self, family: str) -> int:
        """The limit of a family."""
        default = self._limits.quotas.get(family, self._limits.family_vcpus)
        return self._granted.get(family, default)

    def grant(self, family: str, vcpus: int) -> None:
        """Raise the limit of a family."""
        self._granted[family] = vcpus


def used_vcpus(store: Store, config: Config, *, without: str = "") -> dict[str, int]:
    """Dedicated vCPUs in use by family: deployments, and the nodes that clusters always keep.

    Args:
        store: the resources.
        config: which workspace.
        without: id of a resource that does not count (it is about to be replaced).
    """
    used: dict[str, int] = {}

    def add(name: object, vcpus: int) -> None:
        sku = skus().find(str(name))
        if sku is not None:
            used[sku.family] = used.get(sku.family, 0) + vcpus

    for body in deployments(store, config):
        if body["id"].lower() != without.lower():
            add(body["properties"].get("instanceType"), deployment_vcpus(body))
    for body in store.children(f"{config.workspace_id}/computes"):
        inner = body["properties"].get("properties") or {}
        sku = skus().find(str(inner.get("vmSize", "")))
        if sku and body["id"].lower() != without.lower() and inner.get("vmPriority") != "LowPriority":
            add(sku.name, sku.vcpus * int((inner.get("scaleSettings") or {}).get("minNodeCount") or 0))
    return used


def deployments(store: Store, config: Config) -> list[Document]:
    """Every online deployment of the workspace."""
    endpoints = store.children(f"{config.workspace_id}/onlineEndpoints")
    return [body for endpoint in endpoints for body in store.children(f"{endpoint['id']}/deployments")]


def deployment_vcpus(body: Document) -> int:
    """Quota that a deployment holds."""
    sku = skus().find(str(body["properties"].get("instanceType", "")))
    return sku.deployment_vcpus(int((body.get("sku") or {}).get("capacity") or 1)) if sku else 0


def shortage(
    sku: Sku, needed: int, *, store: Store, config: Config, quotas: FamilyQuotas, without: str = ""
) -> tuple[int, int] | None:
    """Usage and limit of a size's family where so many more vCPUs do not fit; None where they do."""
    used = used_vcpus(store, config, without=without).get(sku.family, 0)
    limit = quotas.of(sku.family)
    return (used, limit) if used + needed > limit else None


class VmSizes(ResourceType):
    """``locations/{location}/vmSizes``."""

    kind = "locations/vmSizes"

    async def list(self, call: Call) -> Answer:
        """Every size that can be asked for."""
        del call
        return Answer(200, {"value": [described(sku) for sku in skus().sizes.values()]})


def described(sku: Sku) -> Document:
    """A size on the wire."""
    return {
        "name": sku.name,
        "family": sku.family,
        "vCPUs": sku.vcpus,
        "gpus": sku.gpus,
        "osVhdSizeMB": 1047552,
        "maxResourceVolumeMB": sku.disk_mb,
        "memoryGB": sku.memory_gb,
        "lowPriorityCapable": sku.low_priority,
        "premiumIO": True,
        "estimatedVMPrices": None,
        "supportedComputeTypes": list(sku.compute_types),
    }


class DeploymentSkus(ResourceType):
    """``…/deployments/{name}/skus``: how many instances a deployment may have."""

    kind = "workspaces/onlineEndpoints/deployments/skus"

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    async def list(self, call: Call) -> Answer:
        """The one that there is."""
        deployment = call.collection_id
        if call.workspace.store.get(deployment) is None:
            raise not_found(detail=("InferencingClientCallFailed", '{"title":"Not Found"}'))
        capacity = {"minimum": 1, "maximum": self._limits.instances, "default": 1, "scaleType": "Manual"}
        sku = {"name": "Default", "tier": "Standard"}
        kind = "Microsoft.MachineLearningServices/workspaces/onlineEndpoints/deployments"
        return Answer(200, {"value": [{"resourceType": kind, "sku": sku, "capacity": capacity}]})


class Usages(ResourceType):
    """``locations/{location}/usages``: current use and limit per family."""

    kind = "locations/usages"

    def __init__(self, limits: Limits, quotas: FamilyQuotas) -> None:
        self._limits = limits
        self._quotas = quotas

    async def list(self, call: Call) -> Answer:
        """Every family's dedicated vCPUs, their total, and the low priority ones."""
        config, store = call.workspace.config, call.workspace.store
        used = used_vcpus(store, config)
        low = sum(_low_priority(body) for body in store.children(f"{config.workspace_id}/computes"))
        rows = [_usage(call, "Total Cluster Dedicated Regional vCPUs", "totalDedicatedCores", sum(used.values()), -1)]
        rows.append(
            _usage(
                call,
                "Total Cluster LowPriority Regional vCPUs",
                "totalLowPriorityCores",
                low,
                self._limits.low_priority_vcpus,
            )
        )
        for family, title in skus().families.items():
            name = f"{title} Cluster Dedicated vCPUs"
            rows.append(_usage(call, name, "dedicatedCores", used.get(family, 0), self._quotas.of(family)))
        return Answer(200, {"value": rows})


def _low_priority(body: Document) -> int:
    inner = body["properties"].get("properties") or {}
    sku = skus().find(str(inner.get("vmSize", "")))
    if sku is None or inner.get("vmPriority") != "LowPriority":
        return 0
    return sku.vcpus * int((inner.get("scaleSettings") or {}).get("minNodeCount") or 0)


def _usage(call: Call, name: str, kind: str, current: int, limit: int) -> Document:
    return {
        "id": f"{call.resource_id}/{name}",
        "amlWorkspaceLocation": call.workspace.config.region,
        "type": f"Microsoft.MachineLearningServices/{kind}/usages",
        "unit": "Count",
        "currentValue": current,
        "limit": limit,
        "name": {"value": name, "localizedValue": name},
    }


class Quotas(ResourceType):
    """``locations/{location}/quotas``: the limit per family."""

    kind = "locations/quotas"

    def __init__(self, quotas: FamilyQuotas) -> None:
        self._quotas = quotas

    async def list(self, call: Call) -> Answer:
        """Every family's limit."""
        rows = [
            {
                "id": f"{call.resource_id}/{family}",
                "amlWorkspaceLocation": call.workspace.config.region,
                "type": "Microsoft.MachineLearningServices/workspaces/dedicatedCores/quotas",
                "unit": "Count",
                "limit": self._quotas.of(family),
                "name": {"value": family, "localizedValue": f"{title} Cluster Dedicated vCPUs"},
            }
            for family, title in skus().families.items()
        ]
        return Answer(200, {"value": rows})
