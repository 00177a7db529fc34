"""The regional data plane, ``{region}.api.azureml.ms``: discovery, run history, tracking, look-ups of outputs."""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mlops.local.arm.app import read_json
from mlops.local.arm.errors import ArmError
from mlops.local.arm.shapes import sequence
from mlops.local.daemon.services import Services
from mlops.local.state.workspace import Workspace
from mlops.local.tracking.history import History
from mlops.local.tracking.routes import TrackingRoutes

SCOPED = re.compile(
    r"^/(?P<service>history|mlflow|data|modelregistry)/v[\d.]+"
    r"(?P<workspace>/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.MachineLearningServices"
    r"/workspaces/[^/]+)(?P<rest>/.*)?$",
    re.IGNORECASE,
)
ASKING = ("/rundata", "/batchgetresolveduris", "/search", "/query", "/get-by-ids")
"""Ends of paths whose POST changes nothing."""
REGISTRY = re.compile(r"^/registrymanagement/v1\.0/registries/(?P<name>[^/]+)/discovery$", re.IGNORECASE)


class DataPlane:
    """Answers requests whose token was checked."""

    def __init__(self, services: Services) -> None:
        self._workspace = services.workspace
        self._access = services.access
        self._history = History(services.workspace, services.jobs, services.blobs) if services.jobs else None
        self._tracking = TrackingRoutes(services.workspace, services.tracking) if services.tracking else None

    async def answer(self, request: Request, caller: str, oid: str) -> Response | None:
        """Answer a request; None where the path is not one of these."""
        try:
            return await self._answer(request, caller, oid)
        except ArmError as error:
            body = error.body(self._workspace.config.region)
            return JSONResponse(body, error.status, {"x-ms-response-type": "error"})

    async def _answer(self, request: Request, caller: str, oid: str) -> Response | None:
        workspace, path = self._workspace, request.scope["path"]
        if path.rstrip("/") == "/discovery" or path.startswith("/discovery/"):
            return JSONResponse(discovery(workspace))
        registry = REGISTRY.match(path)
        if registry:
            return JSONResponse(registry_discovery(workspace, registry["name"]))
        match = SCOPED.match(path)
        if not match:
            return None
        main = workspace.config.workspace_id
        if match["workspace"].lower() != main.lower() or workspace.store.get(main) is None:
            raise ArmError(404, "UserError", f"The workspace '{match['workspace']}' was not found.")
        rest = match["rest"] or "/"
        reads = request.method == "GET" or rest.lower().endswith(ASKING)
        action = f"Microsoft.MachineLearningServices/workspaces/experiments/runs/{'read' if reads else 'write'}"
        self._access.need(oid, caller, action, main)
        return await self._of_workspace(request, match["service"].lower(), rest, caller)

    async def _of_workspace(self, request: Request, service: str, rest: str, caller: str) -> Response | None:
        if service == "mlflow" and self._tracking is not None:
            return await self._tracking.answer(request, rest, caller)
        if service == "history" and self._history is not None:
            return await self._history.answer(request, rest)
        if rest.lower().endswith("/batchgetresolveduris") and request.method == "POST" and self._history is not None:
            values = [str(value) for value in sequence((await read_json(request)).get("values"), "values")]
            return JSONResponse(self._history.resolve(values, "uri" if service == "data" else "path"))
        return None


def discovery(workspace: Workspace) -> dict[str, str]:
    """Where a workspace's services are."""
    api = f"https://{workspace.config.api_host}"
    names = ("api", "experimentation", "history", "hyperdrive", "labeling", "modelmanagement", "pipelines")
    return {**dict.fromkeys(names, api), "studio": "https://ml.azure.com"}


def registry_discovery(workspace: Workspace, name: str) -> dict[str, Any]:
    """Where a registry's data plane is."""
    config = workspace.config
    if name.lower() != config.registry.lower():
        message = f"Registry {name} was not found; the local workspace has the registry '{config.registry}'."
        raise ArmError(404, "RegistryNotFound", message)
    api = f"https://{config.api_host}"
    return {
        "registryId": config.workspace_guid,
        "registryName": config.registry,
        "tenantId": config.tenant,
        "primaryRegion": config.region,
        "regions": [config.region],
        "subscriptionId": config.subscription,
        "resourceGroup": config.resource_group,
        "workspaceName": None,
        "primaryRegionResourceProviderUri": f"{api}/",
        "registryFqdns": {config.region: {"uri": api}},
    }
