"""``workspaces/onlineEndpoints/deployments``: what is checked before a deployment starts, and its operations."""

from __future__ import annotations

import asyncio
import time
from pathlib import PurePosixPath
from typing import Any

from mlops.local.arm.app import operation_headers
from mlops.local.arm.endpoints import busy, conflict, invalid, legal, state, within
from mlops.local.arm.errors import ArmError, bad_request, not_found
from mlops.local.arm.operated import OperatedType
from mlops.local.arm.quota import FamilyQuotas, deployments, shortage
from mlops.local.arm.resources import Answer, Call
from mlops.local.arm.shapes import integer, mapping, tags, text
from mlops.local.arm.skus import skus
from mlops.local.serving.containers import container_log
from mlops.local.serving.durations import seconds
from mlops.local.serving.part import Serving
from mlops.local.serving.spec import Spec, model_id
from mlops.local.state.operations import OperationFailed, now
from mlops.local.state.store import Document
from mlops.local.state.workspace import Workspace

PROBE: Document = {
    "failureThreshold": 30,
    "successThreshold": 1,
    "timeout": "PT2S",
    "period": "PT10S",
    "initialDelay": "PT10S",
}
REQUESTS: Document = {"maxQueueWait": "PT0S", "requestTimeout": "PT5S", "maxConcurrentRequestsPerInstance": 1}
QUOTA_CODE = "InferencingClientCreateDeploymentFailed"


class Deployments(OperatedType):
    """Deployments; a write starts processes, and succeeds when they answer."""

    kind = "workspaces/onlineEndpoints/deployments"
    operation = "deployment"

    def __init__(self, workspace: Workspace, serving: Serving, quotas: FamilyQuotas) -> None:
        super().__init__(workspace)
        self._serving = serving
        self._quotas = quotas

    # -- requests --------------------------------------------------------------------------------------------------

    async def put(self, call: Call) -> Answer:
        """Create or replace: 201 and an operation."""
        within(call)
        store = call.workspace.store
        existing = store.get(call.resource_id)
        self._unhindered(call, existing)
        body = self.complete(call, self.document(call, existing), existing)
        headers = self._start_write(call, body)
        return Answer(201, body, headers)

    def _start_write(self, call: Call, body: Document, *, patched: bool = False) -> dict[str, str]:
        store, operations = call.workspace.store, call.workspace.operations
        with store.transaction():
            store.put(body["id"], body)
            operation = operations.start("deployment.write", body["id"], prefix="od")
            shown = operation_headers(call, operation)
            body["properties"]["properties"]["AzureAsyncOperationUri"] = shown["Azure-AsyncOperation"]
            store.put(body["id"], body)
        return operation_headers(call, operation, status=False, result="operation") if patched else shown

    def _unhindered(self, call: Call, existing: Document | None) -> None:
        """Nothing else may be under way on the deployment or its endpoint."""
        store, operations = call.workspace.store, call.workspace.operations
        endpoint_id = call.resource_id.rsplit("/", 2)[0]
        endpoint = store.get(endpoint_id)
        if endpoint is None:
            raise not_found(detail=("InferencingClientCallFailed", '{"title":"Not Found"}'))
        if state(endpoint) in ("Creating", "Updating", "Deleting") or operations.running_on(endpoint_id):
            raise busy("endpoint", endpoint)
        if existing is not None and operations.running_on(call.resource_id):
            raise busy("deployment", existing)

    def complete(self, call: Call, body: Document, existing: Document | None) -> Document:
        """Check everything that Azure checks before it starts; fill in what the service adds."""
        limits, config, store = self._serving.limits, call.workspace.config, call.workspace.store
        properties = body["properties"]
        if existing is None:
            if not legal(call.name):
                raise invalid(
                    "Name",
                    f"The deployment name '{call.name}' is not valid: it must begin with a letter, end with a "
                    "letter or a digit, hold letters, digits and dashes only, and be 3 to 32 characters long.",
                )
            if len(store.children(call.collection_id)) >= limits.deployments_per_endpoint:
                raise invalid("", f"An endpoint can have {limits.deployments_per_endpoint} deployments at most.")
            if len(deployments(store, config)) >= limits.deployments:
                raise invalid(
                    "", f"Deployment Quota reached. Current usage/limit: {limits.deployments}/{limits.deployments}"
                )
        kind = properties.get("endpointComputeType") or "Managed"
        if kind != "Managed":
            raise invalid("EndpointComputeType", f"The endpoint compute type '{kind}' is not supported; use Managed.")
        requests = {**REQUESTS, **mapping(properties.get("requestSettings"), "requestSettings")}
        probes = {
            name: {**PROBE, **mapping(properties.get(name), name)} for name in ("livenessProbe", "readinessProbe")
        }
        _check_settings(requests, probes, limits.request_timeout_s)
        sku = {"name": "Default", "tier": "Standard", **mapping(body.get("sku"), "sku")}
        self._check_size(call, properties, sku)
        self._check_assets(call, properties)
        body["sku"] = sku
        body["kind"] = "Managed"
        body["location"] = text(body.get("location"), "location") or config.region
        body["tags"] = tags(body.get("tags"))
        own = (existing or {}).get("properties", {}).get("properties", {})
        body["properties"] = {
            "description": None,
            "modelMountPath": None,
            **properties,
            "properties": {**own, **mapping(properties.get("properties"), "properties")},
            "environmentVariables": _environment(properties.get("environmentVariables")),
            "scaleSettings": mapping(properties.get("scaleSettings"), "scaleSettings") or {"scaleType": "Default"},
            "requestSettings": requests,
            **probes,
            "appInsightsEnabled": bool(properties.get("appInsightsEnabled")),
            "endpointComputeType": kind,
            "egressPublicNetworkAccess": properties.get("egressPublicNetworkAccess") or "Enabled",
            "provisioningState": "Updating" if existing else "Creating",
        }
        return body

    def _check_size(self, call: Call, properties: Document, sku: Document) -> None:
        limits, config, store = self._serving.limits, call.workspace.config, call.workspace.store
        instances = sku.setdefault("capacity", 1)
        if isinstance(instances, bool) or not isinstance(instances, int) or not 1 <= instances <= limits.instances:
            raise invalid(
                "Sku.Capacity", f"The instance count must be from 1 to {limits.instances}, not '{instances}'."
            )
        name = str(properties.get("instanceType") or "")
        if not name:
            raise invalid("VmSize", "The instance type is missing.")
        size = skus().find(name)
        if size is None:
            since = skus().retired.get(name.lower())
            reason = f"was retired on {since}" if since else "is not offered in this region"
            raise invalid("VmSize", f"Not supported VM Size. The instance type '{name}' {reason}.")
        if "MIR" not in size.compute_types:
            raise invalid("VmSize", f"Not supported VM Size. The instance type '{name}' cannot serve online endpoints.")
        needed = size.deployment_vcpus(instances)
        short = shortage(size, needed, store=store, config=config, quotas=self._quotas, without=call.resource_id)
        if short:
            message = (
                f"Not enough quota available for {name} in SubscriptionId {config.subscription}. "
                f"Current usage/limit: {short[0]}/{short[1]}. Additional needed: {needed} "
                "Please see troubleshooting guide, available here: https://aka.ms/oe-tsg#error-outofquota"
            )
            raise invalid("VmSize", message, code=QUOTA_CODE)

    def _check_assets(self, call: Call, properties: Document) -> None:
        store = call.workspace.store
        model = model_id(properties.get("model"))
        code = mapping(properties.get("codeConfiguration"), "codeConfiguration")
        assets = {"model": model, "environment": properties.get("environmentId"), "code": code.get("codeId")}
        documents: dict[str, Document] = {}
        for what, asset in assets.items():
            if not asset:
                continue
            if not isinstance(asset, str) or not asset.lower().startswith(("/subscriptions/", "azureml:")):
                raise bad_request(f"The deployment's {what} must be an id, not '{asset}'.")
            if asset.lower().startswith("/subscriptions/"):
                document = store.get(asset)
                if document is None:
                    raise bad_request(
                        "The request is invalid.", detail=("ResourceNotFound", f"The {what} '{asset}' was not found.")
                    )
                documents[what] = document
        if code and not (code.get("codeId") and code.get("scoringScript")):
            raise invalid("CodeConfiguration", "A code configuration needs both a code id and a scoring script.")
        script = PurePosixPath(text(code.get("scoringScript"), "scoringScript") or "")
        if script.is_absolute() or ".." in script.parts:
            raise invalid("CodeConfiguration", f"The scoring script '{script}' must lie within the code.")
        if not code and "model" in documents:
            kind = str(documents["model"]["properties"].get("modelType") or "custom_model").lower()
            if kind != "mlflow_model":
                raise invalid(
                    "CodeConfiguration",
                    f"A model of type '{kind}' needs a code configuration and an environment; only mlflow_model can be "
                    "deployed without.",
                )
        if not code and not model:
            raise invalid("Model", "A deployment needs a model or a code configuration.")

    async def patch(self, call: Call) -> Answer:
        """Change tags, or the number of instances."""
        existing = self.must(call)
        self._unhindered(call, existing)
        if "properties" in call.body:
            raise bad_request("An online deployment's properties cannot be patched, only its tags and its sku.")
        body: Document = {**existing, "properties": {**existing["properties"], "provisioningState": "Updating"}}
        if "tags" in call.body:
            body["tags"] = tags(call.body["tags"])
        if call.body.get("sku"):
            body["sku"] = {**existing["sku"], **mapping(call.body["sku"], "sku")}
            self._check_size(call, body["properties"], body["sku"])
        return Answer(202, None, self._start_write(call, body, patched=True))

    async def list(self, call: Call) -> Answer:
        """The endpoint's deployments; 404 where there is no endpoint."""
        if call.workspace.store.get(call.collection_id) is None:
            raise self.missing(call)
        return await super().list(call)

    async def delete(self, call: Call) -> Answer:
        """Delete by an operation; refused while the deployment has traffic, 204 where there is nothing."""
        store = call.workspace.store
        existing = store.get(call.resource_id)
        if existing is None:
            return Answer(204)
        endpoint = store.get(call.resource_id.rsplit("/", 2)[0])
        if endpoint is not None and state(endpoint) != "Deleting":
            if state(existing) != "Deleting":
                self._unhindered(call, existing)
            for name, what in (("traffic", "live traffic"), ("mirrorTraffic", "mirrored traffic")):
                weight = endpoint["properties"][name].get(existing["name"], 0)
                if weight:
                    raise conflict(
                        f"The deployment '{existing['name']}' cannot be deleted: it has {weight} % of {what}. "
                        "Set its traffic to 0 first."
                    )
        self.enter(call.resource_id, "Deleting")
        operation = call.workspace.operations.start("deployment.delete", existing["id"], prefix="od")
        return Answer(202, None, operation_headers(call, operation, result="operation"))

    async def action(self, call: Call, action: str) -> Answer:
        """``getLogs`` of either container."""
        if action.lower() != "getlogs":
            return await super().action(call, action)
        body = self.must(call)
        private = call.workspace.store.private(call.resource_id)
        tail = integer(call.body.get("tail"), "tail", default=0)
        generation = private.get("latest") or private.get("generation") or ""
        content = await asyncio.to_thread(
            container_log,
            self._serving.fleet.root(body["id"]) / generation,
            container=str(call.body.get("containerType") or "InferenceServer"),
            tail=tail,
            provisioning=state(body),
        )
        return Answer(200, {"content": content})

    def missing(self, call: Call) -> ArmError:
        """The 404 of a deployment, in the words of the inferencing service."""
        del call
        return not_found(detail=("InferencingClientCallFailed", '{"title":"Not Found"}'))

    # -- operations ------------------------------------------------------------------------------------------------

    async def _write(self, resource_id: str, arguments: dict[str, Any]) -> None:
        del arguments
        store, fleet = self._workspace.store, self._serving.fleet
        body = store.get(resource_id)
        if body is None:
            raise OperationFailed("ResourceNotFound", f"The deployment '{resource_id}' was deleted.")
        begin = time.monotonic()
        spec = Spec.of(body)
        running = fleet.running.get(resource_id.lower())
        if running is None or running.spec != spec:
            await fleet.deploy(spec, body)
        await asyncio.sleep(self._workspace.config.deployment_operation_s - (time.monotonic() - begin))

        def settle(body: Document) -> None:
            if state(body) != "Deleting":
                body["properties"]["provisioningState"] = "Succeeded"
                body["systemData"]["lastModifiedAt"] = now()

        if store.update(resource_id, settle) is None:  # deleted with its endpoint while it started
            await fleet.retire(resource_id)
            raise OperationFailed("ResourceNotFound", f"The deployment '{spec.name}' was deleted.")

    async def _delete(self, resource_id: str, arguments: dict[str, Any]) -> None:
        del arguments
        await asyncio.gather(
            asyncio.sleep(self._workspace.config.delete_operation_s), self._serving.fleet.retire(resource_id)
        )
        name = resource_id.rsplit("/", 1)[1].lower()

        def drop(endpoint: Document) -> None:
            for weights in ("traffic", "mirrorTraffic"):
                kept = {key: value for key, value in endpoint["properties"][weights].items() if key.lower() != name}
                endpoint["properties"][weights] = kept

        with self._workspace.store.transaction():
            self._workspace.store.update(resource_id.rsplit("/", 2)[0], drop)
            self._workspace.store.delete(resource_id)


def _environment(given: Any) -> dict[str, str]:
    variables = mapping(given, "environmentVariables")
    for name, value in variables.items():
        text(value, f"environmentVariables.{name}")
        if not name or "=" in name or "\0" in name + value:
            raise invalid("EnvironmentVariables", f"The environment variable '{name}' cannot be set.")
    return variables


def _check_settings(requests: Document, probes: dict[str, Document], longest_s: float) -> None:
    try:
        timeout_s = seconds(requests["requestTimeout"])
        for probe in probes.values():
            for name in ("timeout", "period", "initialDelay"):
                seconds(probe[name])
            for name in ("failureThreshold", "successThreshold"):
                int(probe[name])
        concurrency = int(requests["maxConcurrentRequestsPerInstance"])
    except (ValueError, TypeError) as error:
        raise invalid("RequestSettings", f"The request settings or probes are not valid: {error}.") from error
    if not 0 < timeout_s <= longest_s:
        raise invalid(
            "RequestSettings.RequestTimeout",
            f"The request timeout must be at most {longest_s:g} seconds, not {timeout_s:g}.",
        )
    if concurrency < 1:
        raise invalid("RequestSettings", f"maxConcurrentRequestsPerInstance must be at least 1, not {concurrency}.")
