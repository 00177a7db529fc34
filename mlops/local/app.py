"""Hands each request to the service behind its host, after the checks that every request must pass."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import time
import uuid
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from mlops.local import hosts
from mlops.local.arm.app import ControlPlane
from mlops.local.blob_service import BlobService
from mlops.local.hosts import Service
from mlops.local.identity import MACHINE_LEARNING, MANAGEMENT, Identity, TokenRefused
from mlops.local.workspace import Workspace

log = logging.getLogger(__name__)
requests_log = logging.getLogger("mlops.local.requests")

REGISTRY_PREFIX = "/mferp/managementfrontend"
OWN_PREFIX = "/__local/"


class App:
    """The ASGI application behind the TLS socket."""

    def __init__(
        self, workspace: Workspace, control: ControlPlane, identity: Identity, blob_service: BlobService
    ) -> None:
        self.workspace = workspace
        self.control = control
        self.identity = identity
        self.blob_service = blob_service
        self._data_plane: Any = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise RuntimeError(f"no {scope['type']} here")
        request = Request(scope, receive)
        begin = time.perf_counter()
        host = _host(request)
        status = 500
        try:
            response = await self._answer(request, host)
            status = response.status_code
            await response(scope, receive, send)
        finally:
            elapsed_ms = (time.perf_counter() - begin) * 1000
            requests_log.info("%s %s %s %d %.1f", request.method, host, scope["path"], status, elapsed_ms)

    async def _answer(self, request: Request, host: str) -> Response:
        service = hosts.service(host, self.workspace.config)
        if service is None:
            return _error(421, "MisdirectedRequest", f"The host '{host}' is not served here.")
        try:
            return await self._dispatch(request, service)
        except TokenRefused as refused:
            return self._unauthorized(str(refused))
        except Exception:
            log.exception("%s %s", request.method, request.scope["path"])
            return _error(500, "InternalServerError", "An internal server error occurred.")

    async def _dispatch(self, request: Request, service: Service) -> Response:
        services = self.workspace.services
        path = request.scope["path"]
        if service is Service.IDENTITY:
            return await self.identity.answer(request)
        if service is Service.BLOBS:
            return await self.blob_service.answer(request)
        if service is Service.SCORING:
            scored: Response = await services["serving"].gateway(request)
            return scored
        if service is Service.TELEMETRY:
            return JSONResponse({"itemsReceived": 1, "itemsAccepted": 1, "errors": []})
        if self.workspace.config.latency_s:
            await asyncio.sleep(self.workspace.config.latency_s)
        if service is Service.CONTROL:
            if path == "/metadata/endpoints":
                return JSONResponse(_cloud(request))
            claims = self.identity.check(request.headers.get("authorization"), MANAGEMENT)
            return await self.control.answer(request, caller=claims["appid"])
        return await self._data(request, path)

    async def _data(self, request: Request, path: str) -> Response:
        """The regional data plane and ml.azure.com."""
        claims = self.identity.check(request.headers.get("authorization"), MANAGEMENT + MACHINE_LEARNING)
        caller = claims["appid"]
        if path.lower().startswith(REGISTRY_PREFIX):
            return await self.control.answer(request, caller=caller, prefix=path[: len(REGISTRY_PREFIX)])
        if self._data_plane is None:
            self._data_plane = importlib.import_module("mlops.local.api")
        answer: Response | None = await self._data_plane.answer(self.workspace, request, caller)
        return answer or _error(404, "NotFound", f"'{path}' is not served here.")

    def _unauthorized(self, message: str) -> Response:
        tenant = self.workspace.config.tenant
        authority = f"https://login.microsoftonline.com/{tenant}"
        challenge = f'Bearer authorization_uri="{authority}", error="invalid_token", error_description="{message}"'
        code = "AuthenticationFailed" if "no bearer" in message else "InvalidAuthenticationToken"
        response = _error(401, code, message)
        response.headers["WWW-Authenticate"] = challenge
        return response


def _host(request: Request) -> str:
    name, _, port = request.headers.get("host", "").lower().partition(":")
    return name.rstrip(".") if port in ("", "443") else f"{name}:{port}"


def _error(status: int, code: str, message: str) -> Response:
    body = {"error": {"code": code, "message": message}}
    headers = {"x-ms-request-id": str(uuid.uuid4()), "x-ms-response-type": "error"}
    return Response(json.dumps(body), status, headers, media_type="application/json")


def _cloud(request: Request) -> Any:
    """The public cloud's endpoints, in the shape of the api-version that was asked for."""
    login = "https://login.microsoftonline.com"
    cloud = {
        "name": "AzureCloud",
        "portal": "https://portal.azure.com",
        "authentication": {
            "loginEndpoint": login,
            "audiences": list(MANAGEMENT),
            "tenant": "common",
            "identityProvider": "AAD",
        },
        "media": "https://rest.media.azure.net",
        "graphAudience": "https://graph.windows.net/",
        "graph": "https://graph.windows.net/",
        "resourceManager": "https://management.azure.com/",
        "suffixes": {
            "storage": "core.windows.net",
            "acrLoginServer": "azurecr.io",
            "keyVaultDns": "vault.azure.net",
            "mlWorkspace": "ml.azure.com",
        },
        "gallery": "https://gallery.azure.com/",
        "mlDataPlane": "https://ml.azure.com",
        "activeDirectoryDataLake": "https://datalake.azure.net/",
        "batch": "https://batch.core.windows.net/",
        "vmImageAliasDoc": "https://raw.githubusercontent.com/Azure/azure-rest-api-specs/master/arm-compute/quickstart-templates/aliases.json",
    }
    return cloud if request.query_params.get("api-version", "") < "2019-01-01" else [cloud]
