"""``workspaces/computes``: clusters, as far as jobs and quota need them.

Jobs run on this machine whatever cluster they name.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from mlops.local.arm.app import operation_headers
from mlops.local.arm.errors import ArmError, bad_request
from mlops.local.arm.operated import OperatedType
from mlops.local.arm.quota import FamilyQuotas, shortage
from mlops.local.arm.resources import Answer, Call
from mlops.local.arm.shapes import integer, mapping, tags
from mlops.local.arm.skus import Sku, skus
from mlops.local.state.limits import Limits
from mlops.local.state.operations import now
from mlops.local.state.store import Document
from mlops.local.state.workspace import Workspace

NAME = re.compile(r"^[a-zA-Z][-a-zA-Z0-9]{1,22}[a-zA-Z0-9]$")
TYPES = ("AmlCompute", "ComputeInstance")


class Computes(OperatedType):
    """Clusters; created, changed and deleted by operations."""

    kind = "workspaces/computes"
    operation = "compute"

    def __init__(self, workspace: Workspace, limits: Limits, quotas: FamilyQuotas) -> None:
        super().__init__(workspace)
        self._limits = limits
        self._quotas = quotas

    async def put(self, call: Call) -> Answer:
        """Create or change a cluster: 201 and an operation."""
        store = call.workspace.store
        existing = store.get(call.resource_id)
        if existing and call.workspace.operations.running_on(call.resource_id):
            raise ArmError(409, "Conflict", f"The compute '{call.name}' is being changed; try again when that is done.")
        body = self.complete(call, self.document(call, existing), existing)
        store.put(call.resource_id, body)
        operation = call.workspace.operations.start("compute.write", body["id"], prefix="")
        return Answer(201, body, operation_headers(call, operation, result=""))

    def complete(self, call: Call, body: Document, existing: Document | None) -> Document:
        """Check size, priority and quota; fill in what the service shows."""
        properties = body["properties"]
        kind = properties.get("computeType")
        if kind not in TYPES:
            raise bad_request(f"The compute type '{kind}' is not supported; use one of {', '.join(TYPES)}.")
        if existing is None and not NAME.match(call.name):
            raise bad_request(
                f"The compute name '{call.name}' is not valid: 3 to 24 letters, digits and dashes, "
                "beginning with a letter."
            )
        inner = properties["properties"] = mapping(properties.get("properties"), "properties")
        sku = self._size(inner, kind)
        scale = mapping(inner.get("scaleSettings"), "scaleSettings")
        if kind == "AmlCompute":
            least = integer(scale.get("minNodeCount"), "minNodeCount", default=0)
            most = integer(scale.get("maxNodeCount"), "maxNodeCount", default=1)
            if not 0 <= least <= most:
                raise bad_request(f"The minimum node count {least} must lie between 0 and the maximum, {most}.")
            inner["scaleSettings"] = {
                "nodeIdleTimeBeforeScaleDown": "PT2M",
                **scale,
                "minNodeCount": least,
                "maxNodeCount": most,
            }
            self._quota(call, inner, sku)
        if existing:
            before = (existing["properties"].get("properties") or {}).get("vmSize")
            if before != inner["vmSize"]:
                raise bad_request(
                    f"The size of compute '{call.name}' cannot be changed from {before} to {inner['vmSize']}."
                )
        shown = {key: value for key, value in inner.items() if key != "userAccountCredentials"}
        login = mapping(inner.get("userAccountCredentials"), "userAccountCredentials")
        if login:
            shown["userAccountCredentials"] = {**login, "adminUserPassword": None}
        made = (existing or {}).get("properties", {}).get("createdOn", now())
        body["location"] = body.get("location") or call.workspace.config.region
        body["tags"] = tags(body.get("tags"))
        body["properties"] = {
            "description": None,
            "disableLocalAuth": False,
            **properties,
            "createdOn": made,
            "modifiedOn": now(),
            "resourceId": None,
            "computeLocation": body["location"],
            "provisioningState": "Updating" if existing else "Creating",
            "provisioningErrors": None,
            "isAttachedCompute": False,
            "properties": {
                "subnet": None,
                "currentNodeCount": None,
                "targetNodeCount": None,
                "nodeStateCounts": None,
                "allocationState": None,
                "errors": None,
                "virtualMachineImage": None,
                "isolatedNetwork": False,
                **shown,
            },
        }
        return body

    def _size(self, inner: Document, kind: str) -> Sku:
        name = str(inner.get("vmSize") or "Standard_DS3_v2")
        sku = skus().find(name)
        if sku is None:
            since = skus().retired.get(name.lower())
            reason = f"was retired on {since}" if since else "is not offered in this region"
            raise bad_request(
                "The request is invalid.", detail=("InvalidVmSize", f"The specified VM size '{name}' {reason}.")
            )
        if kind not in sku.compute_types:
            raise bad_request(
                "The request is invalid.", detail=("InvalidVmSize", f"'{name}' cannot be used for {kind}.")
            )
        inner["vmSize"] = name.upper()
        asked = str(inner.get("vmPriority") or "Dedicated")
        # without case: the SDK makes "Lowpriority" of the tier "LowPriority"
        priority = {"dedicated": "Dedicated", "lowpriority": "LowPriority"}.get(asked.lower())
        if priority is None:
            raise bad_request(f"The priority '{asked}' is neither Dedicated nor LowPriority.")
        inner["vmPriority"] = priority
        return sku

    def _quota(self, call: Call, inner: Document, sku: Sku) -> None:
        """A cluster must be able to have one node at least, and the nodes that it always keeps."""
        needed = sku.vcpus * max(1, inner["scaleSettings"]["minNodeCount"])
        if inner["vmPriority"] == "LowPriority":
            if needed <= self._limits.low_priority_vcpus and sku.low_priority:
                return
            limit, what = self._limits.low_priority_vcpus, "low-priority vCPU"
        else:
            short = shortage(
                sku,
                needed,
                store=call.workspace.store,
                config=call.workspace.config,
                quotas=self._quotas,
                without=call.resource_id,
            )
            if short is None:
                return
            limit, what = max(short[1] - short[0], 0), f"{sku.title} vCPU"
        raise bad_request(
            "The request is invalid.",
            detail=(
                "ClusterCoreQuotaReached",
                f"The specified subscription has a {what} quota of {limit} left and cannot accommodate for at least 1 "
                f"requested managed compute node which maps to {sku.vcpus} vCPUs.",
            ),
        )

    async def delete(self, call: Call) -> Answer:
        """Delete by an operation; 204 where there is nothing."""
        body = self.enter(call.resource_id, "Deleting")
        if body is None:
            return Answer(204)
        operation = call.workspace.operations.start("compute.delete", body["id"], prefix="")
        return Answer(202, None, operation_headers(call, operation, result=""))

    async def patch(self, call: Call) -> Answer:
        """Change the scale settings."""
        existing = self.must(call)
        outer = mapping(call.body.get("properties"), "properties")
        scale = mapping(mapping(outer.get("properties"), "properties").get("scaleSettings"), "scaleSettings")
        body = {**existing, "properties": {**existing["properties"]}}
        inner = dict(existing["properties"].get("properties") or {})
        inner["scaleSettings"] = {**(inner.get("scaleSettings") or {}), **scale}
        body["properties"]["properties"] = inner
        call.body = body
        return await self.put(call)

    async def action(self, call: Call, action: str) -> Answer:
        """Start and stop (of instances) do nothing here; node lists are empty, since clusters scale to zero."""
        self.must(call)
        if action.lower() in ("start", "stop", "restart"):
            return Answer(202, None)
        if action.lower() == "listnodes":
            return Answer(200, {"nodes": []})
        if action.lower() == "listkeys":
            return Answer(200, {"computeType": "AmlCompute"})
        return await super().action(call, action)

    def missing(self, call: Call) -> ArmError:
        """The 404 of a compute."""
        return ArmError(404, "ResourceNotFound", f"The Resource '{call.resource_id}' was not found.")

    async def _write(self, resource_id: str, arguments: dict[str, Any]) -> None:
        del arguments
        await asyncio.sleep(self._workspace.config.compute_operation_s)

        def ready(body: Document) -> None:
            inner = body["properties"]["properties"]
            nodes = int((inner.get("scaleSettings") or {}).get("minNodeCount") or 0)
            states = ("preparing", "running", "idle", "unusable", "leaving", "preempted")
            body["properties"]["provisioningState"] = "Succeeded"
            inner.update(
                currentNodeCount=nodes,
                targetNodeCount=nodes,
                nodeStateCounts={f"{state}NodeCount": nodes if state == "idle" else 0 for state in states},
                allocationState="Steady",
                allocationStateTransitionTime=now(),
            )

        self._workspace.store.update(resource_id, ready)

    async def _delete(self, resource_id: str, arguments: dict[str, Any]) -> None:
        del arguments
        await asyncio.sleep(self._workspace.config.delete_operation_s)
        self._workspace.store.delete(resource_id)
