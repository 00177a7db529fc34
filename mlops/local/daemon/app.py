"""Hands each request to the service behind its host, after the checks that every request must pass."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Awaitable
from typing import Any
from urllib.parse import quote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from mlops.local.arm.app import ControlPlane
from mlops.local.blob.errors import BlobError
from mlops.local.blob.service import BlobService
from mlops.local.daemon import admin_api, hosts
from mlops.local.daemon.admin_api import AdminApi
from mlops.local.daemon.data_plane import DataPlane
from mlops.local.daemon.faults import CODES, Rule, die
from mlops.local.daemon.hosts import Service
from mlops.local.daemon.services import Services
from mlops.local.entra.identity import MACHINE_LEARNING, MANAGEMENT, TokenRefused

log = logging.getLogger(__name__)
requests_log = logging.getLogger("mlops.local.requests")

REGISTRY_PREFIX = "/mferp/managementfrontend"
MAX_BODY = 64 * 1024 * 1024
"""No request but an upload of a blob comes near this."""


class TooLarge(Exception):
    """A body beyond MAX_BODY."""


class App:
    """The ASGI application behind the TLS socket."""

    def __init__(self, services: Services, control: ControlPlane, admin: AdminApi) -> None:
        self.workspace = services.workspace
        self.control = control
        self.identity = services.identity
        self.blob_service = BlobService(services.blobs, services.identity, services.access)
        self.data_plane = DataPlane(services)
        self.serving = services.serving
        self.admin = admin
        self.faults = services.faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise RuntimeError(f"no {scope['type']} here")
        begin = time.perf_counter()
        request = Request(scope, receive)
        host = _host(request)
        status = 0  # no answer
        noted = None
        if not scope["path"].startswith(admin_api.PREFIX):
            noted = self.admin.trace.arrived(
                request.method, host, scope["path"], scope["query_string"].decode("latin-1"), _agent(request)
            )
        try:
            response = await self._answer(request, host)
            if response is None:
                _abort(send)
                return
            status = response.status_code
            await response(scope, receive, send)
        finally:
            elapsed_ms = (time.perf_counter() - begin) * 1000
            if noted is not None:
                noted.status, noted.elapsed_ms = status, elapsed_ms
            requests_log.info("%s %s %s %d %.1f", request.method, host, quote(scope["path"]), status, elapsed_ms)

    async def _answer(self, request: Request, host: str) -> Response | None:
        """The answer, None for a connection that breaks."""
        service = hosts.service(host, self.workspace.accounts)
        if service is None:
            return _error(421, "MisdirectedRequest", f"The host '{host}' is not served here.")
        if service is Service.CONTROL and request.scope["path"].startswith(admin_api.PREFIX):
            return await self._guarded(self.admin.answer(request), request)
        rule = self.faults.hit(
            method=request.method,
            host=host,
            path=request.scope["path"],
            query=request.scope["query_string"].decode("latin-1"),
            agent=_agent(request),
        )
        if rule is None:
            return await self._guarded(self._dispatch(request, service), request)
        log.info("fault: %s %s of %s %s%s", rule.kind, rule.when, request.method, host, request.scope["path"])
        return await self._struck(rule, request, service)

    async def _struck(self, rule: Rule, request: Request, service: Service) -> Response | None:
        """The answer of a request that a fault rule strikes."""
        response = None
        if rule.when == "after":
            response = await self._guarded(self._dispatch(request, service), request)
        if rule.kind == "die":
            die()
        if rule.kind == "kill_client":
            self.faults.kill_client(rule)
        if rule.kind == "crash":
            self.faults.crash(rule.endpoint, rule.deployment)
        if rule.kind == "hang":
            await self.faults.hang(rule.delay_s)
        if rule.kind == "slow":
            await asyncio.sleep(rule.delay_s)
        if rule.kind in ("slow", "crash"):
            return response or await self._guarded(self._dispatch(request, service), request)
        return _fault(rule, service) if rule.kind == "status" else None

    async def _guarded(self, work: Awaitable[Response], request: Request) -> Response:
        try:
            return await work
        except TokenRefused as refused:
            return self._unauthorized(str(refused), refused.code)
        except TooLarge:
            response = _error(413, "RequestEntityTooLarge", f"The request is larger than {MAX_BODY} bytes.")
            response.headers["Connection"] = "close"
            return response
        except ClientDisconnect:
            return _error(400, "BadRequest", "The request ended early.")
        except Exception:
            log.exception("%s %s", request.method, request.scope["path"])
            return _error(500, "InternalServerError", "An internal server error occurred.")

    async def _dispatch(self, request: Request, service: Service) -> Response:
        path = request.scope["path"]
        if service is Service.BLOBS:
            return await self.blob_service.answer(request)
        request = _limited(request)
        if service is Service.IDENTITY:
            return await self.identity.answer(request)
        if service is Service.GITHUB:
            return self.identity.github.answer(request, _host(request))
        if service is Service.SCORING:
            return await self.serving.gateway(request) if self.serving else _error(404, "NotFound", "Nothing serves.")
        if service is Service.TELEMETRY:
            return JSONResponse({"itemsReceived": 1, "itemsAccepted": 1, "errors": []})
        if self.workspace.config.latency_s:
            await asyncio.sleep(self.workspace.config.latency_s)
        if service is Service.CONTROL:
            if path == "/metadata/endpoints":
                return JSONResponse(_cloud(request))
            claims = self.identity.check(request.headers.get("authorization"), MANAGEMENT)
            return await self.control.answer(request, caller=claims["appid"], oid=claims["oid"])
        return await self._data(request, path)

    async def _data(self, request: Request, path: str) -> Response:
        """The regional data plane and ml.azure.com."""
        caller = oid = ""
        if path.rstrip("/") != "/discovery":  # the one address here that Azure, too, answers without a token
            claims = self.identity.check(request.headers.get("authorization"), MANAGEMENT + MACHINE_LEARNING)
            caller, oid = claims["appid"], claims["oid"]
        if path.lower().startswith(REGISTRY_PREFIX):
            return await self.control.answer(request, caller=caller, prefix=path[: len(REGISTRY_PREFIX)])
        answer = await self.data_plane.answer(request, caller, oid)
        return answer or _error(404, "NotFound", f"'{path}' is not served here.")

    def _unauthorized(self, message: str, code: str) -> Response:
        tenant = self.workspace.config.tenant
        authority = f"https://login.microsoftonline.com/{tenant}"
        challenge = f'Bearer authorization_uri="{authority}", error="invalid_token", error_description="{message}"'
        response = _error(401, code, message)
        response.headers["WWW-Authenticate"] = challenge
        return response


def _host(request: Request) -> str:
    name, _, port = request.headers.get("host", "").lower().partition(":")
    return name.rstrip(".") if port in ("", "443") else f"{name}:{port}"


def _agent(request: Request) -> str:
    return request.headers.get("user-agent", "")


def _limited(request: Request) -> Request:
    """The request, with an end to its body."""
    if int(request.headers.get("content-length") or 0) > MAX_BODY:
        raise TooLarge
    receive = request.receive
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > MAX_BODY:
            raise TooLarge
        return message

    return Request(request.scope, counted)


def _abort(send: Send) -> None:
    """Break the connection off, as a network does; uvicorn's ``send`` belongs to the object that holds it."""
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is None:
        raise RuntimeError("this server's connections cannot be broken off")
    transport.abort()


def _fault(rule: Rule, service: Service) -> Response:
    """The answer of a fault rule, in the manner of the service."""
    message = rule.message or "This answer was asked for by a fault rule."
    if service is Service.BLOBS:
        code = rule.code or {503: "ServerBusy", 500: "InternalError"}.get(rule.status, CODES.get(rule.status, "Error"))
        refused = BlobError(code, message, status=rule.status)
        headers = {"x-ms-error-code": code}
        response = Response(refused.body(), rule.status, headers, media_type="application/xml")
    else:
        response = _error(rule.status, rule.code or CODES.get(rule.status, "Error"), message)
    if rule.retry_after is not None:
        response.headers["Retry-After"] = f"{rule.retry_after:g}"
    return response


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
