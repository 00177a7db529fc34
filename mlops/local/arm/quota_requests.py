"""Microsoft.Quota on the region of Azure ML: limits, and requests for higher ones.

A request is decided by Azure itself within moments, or it fails and says that Microsoft's support must be asked; here
the border between the two is ``MLOPS_LOCAL_QUOTA_GRANT``. What is granted raises the limit that clusters and
deployments really meet.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from mlops.local.arm.errors import ArmError, bad_request
from mlops.local.arm.operations import location_headers
from mlops.local.arm.quota import FamilyQuotas, used_vcpus
from mlops.local.arm.resources import Answer, Call, ResourceType
from mlops.local.arm.shapes import integer, mapping
from mlops.local.arm.skus import skus
from mlops.local.state.operations import OperationFailed, now
from mlops.local.state.store import Document
from mlops.local.state.workspace import Workspace

LEARNING = "/providers/microsoft.machinelearningservices/locations/"


def scope_of(call: Call) -> str:
    """The region that quota is asked of; other services' is not kept here."""
    at = call.resource_id.lower().rfind("/providers/microsoft.quota/")
    scope = call.resource_id[:at]
    if LEARNING not in scope.lower():
        raise bad_request(f"Quota of '{scope}' is not kept here, only that of Microsoft.MachineLearningServices.")
    region = scope.rsplit("/", 1)[1]
    if region.lower() != call.workspace.config.region:
        message = f"The location '{region}' is not served here, only '{call.workspace.config.region}'."
        raise ArmError(400, "InvalidLocation", message)
    return scope


def family(name: str) -> str:
    """A family as the sizes name it."""
    known = next((each for each in skus().families if each.lower() == name.lower()), None)
    if known is None:
        raise ArmError(404, "InvalidResourceName", f"The resource name '{name}' is not known.")
    return known


class QuotaLimits(ResourceType):
    """``quotas``: the limit of each family, which a PUT or a PATCH asks to be raised."""

    namespace = "Microsoft.Quota"
    kind = "quotas"

    def __init__(self, workspace: Workspace, quotas: FamilyQuotas) -> None:
        self._workspace = workspace
        self._quotas = quotas
        workspace.operations.register("quota.request", self._decide)

    async def get(self, call: Call) -> Answer:
        """The limit of a family."""
        return Answer(200, self._shown(scope_of(call), family(call.name)))

    async def list(self, call: Call) -> Answer:
        """Every family's."""
        scope = scope_of(call)
        return Answer(200, {"value": [self._shown(scope, name) for name in skus().families]})

    async def put(self, call: Call) -> Answer:
        """Ask: 202, and the place where the decision will stand."""
        scope, name = scope_of(call), family(call.name)
        limit = mapping(mapping(call.body.get("properties"), "properties").get("limit"), "properties.limit")
        requested = integer(limit.get("value"), "properties.limit.value", default=-1)
        if requested < 0:
            raise bad_request("The property 'limit' must hold 'limitObjectType' and 'value', a whole number.")
        current = self._quotas.of(name)
        if requested == current:
            return Answer(200, self._shown(scope, name))
        if requested < current:
            message = f"The limit of '{name}' is {current}; a quota is not reduced to {requested}."
            raise ArmError(400, "QuotaReductionNotSupported", message)
        guid = str(uuid.uuid4())
        request_id = f"{scope}/providers/Microsoft.Quota/quotaRequests/{guid}"
        part = {
            "name": {"value": name, "localizedValue": skus().families[name]},
            "resourceType": "dedicated",
            "unit": "Count",
            "limit": {"limitObjectType": "LimitValue", "value": requested},
            "provisioningState": "InProgress",
            "subRequestId": str(uuid.uuid4()),
        }
        properties = {"provisioningState": "InProgress", "requestSubmitTime": now(), "value": [part]}
        body = {"id": request_id, "name": guid, "type": "Microsoft.Quota/quotaRequests", "properties": properties}
        call.workspace.store.put(request_id, body)
        operation = call.workspace.operations.start(
            "quota.request", f"{scope}/providers/Microsoft.Quota/quotas/{name}", {"request": request_id}, prefix=""
        )
        shown = {**body, "properties": {**properties, "provisioningState": "Accepted"}}
        return Answer(202, shown, location_headers(call, operation, self.namespace))

    patch = put

    async def delete(self, call: Call) -> Answer:
        """Not offered."""
        raise ArmError(405, "MethodNotAllowed", f"The quota '{call.name}' cannot be deleted.")

    def _shown(self, scope: str, name: str) -> Document:
        return {
            "id": f"{scope}/providers/Microsoft.Quota/quotas/{name}",
            "name": name,
            "type": "Microsoft.Quota/quotas",
            "properties": {
                "limit": {
                    "limitObjectType": "LimitValue",
                    "limitType": "Independent",
                    "value": self._quotas.of(name),
                },
                "unit": "Count",
                "name": {"value": name, "localizedValue": skus().families[name]},
                "resourceType": "dedicated",
                "isQuotaApplicable": True,
                "properties": {},
            },
        }

    async def _decide(self, quota_id: str, arguments: dict[str, Any]) -> None:
        config, store = self._workspace.config, self._workspace.store
        await asyncio.sleep(config.quota_operation_s)
        request = store.get(arguments["request"])
        if request is None:
            return
        (part,) = request["properties"]["value"]
        name, requested = part["name"]["value"], int(part["limit"]["value"])
        granted = requested <= config.quota_grant
        message = None if granted else "This request needs to be reviewed: please contact Microsoft's support."
        if granted:
            store.put(f"{quota_id.rsplit('/', 2)[0]}/granted/{name}", {"name": name, "limit": requested})
            self._quotas.grant(name, requested)

        def decided(body: Document) -> None:
            state = "Succeeded" if granted else "Failed"
            body["properties"].update(provisioningState=state, message=message)
            body["properties"]["value"][0].update(provisioningState=state, message=message)
            if not granted:
                body["properties"]["error"] = {"code": "ContactSupport", "message": message}

        store.update(request["id"], decided)
        if not granted:
            raise OperationFailed("ContactSupport", str(message))


class QuotaRequests(ResourceType):
    """``quotaRequests``: what became of them."""

    namespace = "Microsoft.Quota"
    kind = "quotaRequests"

    async def list(self, call: Call) -> Answer:
        """The newest first."""
        scope_of(call)
        return Answer(200, {"value": call.workspace.store.children(call.resource_id)[::-1]})

    async def put(self, call: Call) -> Answer:
        """A request is made by writing a quota."""
        raise ArmError(405, "MethodNotAllowed", f"Write the quota itself instead of '{call.name}'.")

    patch = put
    delete = put

    def missing(self, call: Call) -> ArmError:
        """Azure's 404."""
        return ArmError(404, "NotFound", f"The quota request '{call.name}' was not found.")


class QuotaUsages(ResourceType):
    """``usages``: what of each family is in use."""

    namespace = "Microsoft.Quota"
    kind = "usages"

    async def get(self, call: Call) -> Answer:
        """That of one family."""
        scope, name = scope_of(call), family(call.name)
        return Answer(200, self._shown(call, scope, name))

    async def list(self, call: Call) -> Answer:
        """Every family's."""
        scope = scope_of(call)
        return Answer(200, {"value": [self._shown(call, scope, name) for name in skus().families]})

    def _shown(self, call: Call, scope: str, name: str) -> Document:
        used = used_vcpus(call.workspace.store, call.workspace.config).get(name, 0)
        return {
            "id": f"{scope}/providers/Microsoft.Quota/usages/{name}",
            "name": name,
            "type": "Microsoft.Quota/usages",
            "properties": {
                "usages": {"value": used, "usagesType": "Individual"},
                "unit": "Count",
                "name": {"value": name, "localizedValue": skus().families[name]},
                "resourceType": "dedicated",
                "isQuotaApplicable": True,
            },
        }
