"""What stands before the scoring processes: checks keys, chooses a deployment, limits, times out, mirrors."""

from __future__ import annotations

import asyncio
import hmac
import uuid
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from mlops.local.serving.fleet import Fleet, Running
from mlops.local.serving.process import Instance
from mlops.local.serving.streamed import Stream, Streamed
from mlops.local.serving.traffic import Share, Split
from mlops.local.serving.upstream import Broken, Reply, Unreachable, exchange
from mlops.local.state.limits import Limits
from mlops.local.state.operations import OperationFailed
from mlops.local.state.workspace import Workspace

DEPLOYMENT = "azureml-model-deployment"
HOP_BY_HOP = {"connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding"}
NOT_FORWARDED = HOP_BY_HOP | {"authorization", "expect", "host", "proxy-authorization", "upgrade", "x-request-id"}
NOT_RETURNED = HOP_BY_HOP | {"date", "server", "x-request-id"}
NO_ROUTE = (
    "No valid deployments to route to. Please check that the endpoint has at least one deployment with positive weight "
    "values or use a deployment specific header to route."
)


@dataclass
class Route:
    """An endpoint as the gateway sees it."""

    resource_id: str
    auth_mode: str
    keys: tuple[bytes, ...]
    token_secret: str
    split: Split
    mirror: str | None
    share: Share


class Tokens(Protocol):
    """Who knows whether a token of Entra holds."""

    def check(self, authorization: str | None, audiences: tuple[str, ...]) -> dict[str, Any]:
        """The token's claims; raises TokenRefused."""


class Gateway:
    """Answers for every ``*.inference.ml.azure.com``."""

    def __init__(self, workspace: Workspace, fleet: Fleet, limits: Limits, tokens: Tokens) -> None:
        self._workspace = workspace
        self._tokens = tokens
        self._fleet = fleet
        self._limits = limits
        self._routes: dict[str, Route] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def forget(self, endpoint: str) -> None:
        """Read an endpoint anew with its next request; for whoever changed it."""
        self._routes.pop(endpoint.lower(), None)

    async def answer(self, request: Request) -> Response:
        """Score, or say why not."""
        given = request.headers.get("x-request-id", "")
        request_id = given if given and len(given) <= 100 else str(uuid.uuid4())
        response = await self._answer(request, request_id)
        response.headers["x-request-id"] = request_id
        response.headers["server"] = "azureml-frontdoor"
        return response

    async def _answer(self, request: Request, request_id: str) -> Response:
        endpoint = request.headers.get("host", "").partition(":")[0].partition(".")[0].lower()
        route = self._route(endpoint)
        if route is None:
            return plain(404, f"There is no endpoint '{endpoint}'.")
        denied = self._denied(route, request.headers.get("authorization", ""))
        if denied:
            return plain(401, denied, {"WWW-Authenticate": "Bearer"})
        try:
            body = await read(request, self._limits.request_bytes)
        except ClientDisconnect:
            return plain(499, "client closed the request")
        if body is None:
            return plain(413, f"The request is larger than {self._limits.request_bytes} bytes.")
        named = request.headers.get(DEPLOYMENT)
        name = named or route.split.next()
        running = self._fleet.running.get(f"{route.resource_id}/deployments/{name}".lower()) if name else None
        if running is None:
            if name and not named:
                return self._counted(route, name, plain(503, "no healthy upstream"))
            return plain(404, NO_ROUTE if not named else f"{NO_ROUTE} There is no deployment '{named}'.")
        call = Call(request, body, request_id)
        if not named and route.mirror and route.share.next():
            self._copy(route, call)
        response = await self._score(running, call)
        response.headers[DEPLOYMENT] = running.spec.name
        return self._counted(route, running.spec.name, response)

    def _counted(self, route: Route, deployment: str, response: Response) -> Response:
        key = f"{route.resource_id}/deployments/{deployment}".lower()
        self._fleet.counts.setdefault(key, Counter())[response.status_code] += 1
        return response

    def _copy(self, route: Route, call: Call) -> None:
        """Send the mirror its copy, and forget the answer."""
        running = self._fleet.running.get(f"{route.resource_id}/deployments/{route.mirror}".lower())
        if running is None:
            return

        async def send(running: Running) -> None:
            response = self._counted(route, running.spec.name, await self._score(running, call))
            if isinstance(response, Streamed):
                await response.stream.run_out()

        self._kept(send(running))

    def _kept(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that goes on whatever becomes of the request that began it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _score(self, running: Running, call: Call) -> Response:
        spec = running.spec
        if running.in_flight >= spec.pending_limit:
            return plain(
                429,
                f"Too many pending requests: the deployment takes no more than {spec.pending_limit} at a time.",
                {"Retry-After": "1"},
            )
        running.in_flight += 1
        try:
            async with asyncio.timeout(spec.timeout_s) as limit:
                if running.asleep:
                    await asyncio.shield(self._kept(self._fleet.wake(running)))
                reply = await forward(running, call)
                if reply.stream is not None:
                    count_in_flight(running, reply.stream, until=limit.when())
        except TimeoutError:
            return plain(408, "upstream request timeout")
        except (Unreachable, OperationFailed):
            return plain(503, "no healthy upstream")
        except Broken:
            running.alarm.set()
            return plain(
                502, "upstream connect error or disconnect/reset before headers. reset reason: connection termination"
            )
        finally:
            running.in_flight -= 1
        return returned(reply)

    # -- who may ---------------------------------------------------------------------------------------------------

    def _route(self, endpoint: str) -> Route | None:
        cached = self._routes.get(endpoint)
        if cached is not None:
            return cached
        resource_id = f"{self._workspace.config.workspace_id}/onlineEndpoints/{endpoint}"
        body = self._workspace.store.get(resource_id)
        if body is None or body["properties"]["provisioningState"] in ("Creating", "Deleting"):
            return None
        properties, private = body["properties"], self._workspace.store.private(resource_id)
        mirror = next(((name, weight) for name, weight in properties["mirrorTraffic"].items() if weight), (None, 0))
        route = Route(
            resource_id=body["id"],
            auth_mode=str(properties["authMode"]).lower(),
            keys=tuple(private[name].encode() for name in ("primaryKey", "secondaryKey")),
            token_secret=private["tokenSecret"],
            split=Split(properties["traffic"]),
            mirror=mirror[0],
            share=Share(mirror[1]),
        )
        self._routes[endpoint] = route
        return route

    def _denied(self, route: Route, authorization: str) -> str | None:
        """Why a request is not let in; None where it is."""
        scheme, _, secret = authorization.partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not secret:
            return "key_auth_bad_header_forbidden"
        if route.auth_mode == "key":
            # every key is compared, so that the time tells nothing
            matches = [hmac.compare_digest(secret.encode(), key) for key in route.keys]
            return None if any(matches) else "key_auth_access_denied"
        if route.auth_mode == "amltoken":
            return None if self._token_holds(route, secret) else "token_auth_access_denied"
        return None if self._entra_holds(authorization) else "token_auth_access_denied"

    def _token_holds(self, route: Route, token: str) -> bool:
        import jwt

        try:
            claims = jwt.decode(
                token,
                route.token_secret,
                algorithms=["HS256"],
                audience="azureml",
                issuer="azureml",
                options={"require": ["exp", "aud", "iss"]},
            )
        except jwt.PyJWTError:
            return False
        return str(claims.get("serviceId", "")).lower() == route.resource_id.lower()

    def _entra_holds(self, authorization: str) -> bool:
        from mlops.local.entra.identity import MACHINE_LEARNING, TokenRefused

        try:
            self._tokens.check(authorization, MACHINE_LEARNING)
        except TokenRefused:
            return False
        return True


class Call:
    """A request as it goes to a scoring process."""

    def __init__(self, request: Request, body: bytes, request_id: str) -> None:
        self.method = request.method
        query = request.scope.get("query_string", b"").decode("latin-1")
        raw = request.scope.get("raw_path") or request.scope["path"].encode()
        self.target = raw.decode("latin-1").partition("?")[0] + (f"?{query}" if query else "")
        self.headers = [(name, value) for name, value in request.headers.items() if name not in NOT_FORWARDED]
        self.headers.append(("x-request-id", request_id))
        self.body = body


async def forward(running: Running, call: Call) -> Reply:
    """Send a call to the least busy instance; one that refuses the connection has seen nothing: the next is asked."""
    while True:
        instance = running.pick()
        if instance is None:
            raise Unreachable("no instance is healthy")
        instance.in_flight += 1
        try:
            reply = await exchange(instance.port, call.method, call.target, call.headers, call.body)
            if reply.stream is not None:
                count_in_flight(instance, reply.stream)
            return reply
        except Unreachable:
            instance.healthy = False
            running.alarm.set()
        finally:
            instance.in_flight -= 1


def count_in_flight(counter: Running | Instance, stream: Stream, *, until: float | None = None) -> None:
    """Count a stream as in flight to its end, which comes by the event loop's time ``until`` at the latest."""

    def release() -> None:
        counter.in_flight -= 1

    counter.in_flight += 1
    stream.at_end(release)
    if until is not None:
        stream.at_end(asyncio.get_running_loop().call_at(until, stream.close).cancel)


def returned(reply: Reply) -> Response:
    """The scoring process's answer as Azure passes it on: all that is not a success is a model error, 424."""
    headers = {name: value for name, value in reply.headers if name not in NOT_RETURNED}
    status = reply.status
    if not 200 <= status < 300:
        headers["ms-azureml-model-error-statuscode"] = str(status)
        headers["ms-azureml-model-error-reason"] = "model_error"
        status = 424
    if reply.stream is not None:
        return Streamed(reply.stream, status_code=status, headers=headers)
    return Response(reply.body, status_code=status, headers=headers)


def plain(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    """An answer of the gateway's own."""
    return Response(text, status_code=status, headers=headers, media_type="text/plain")


async def read(request: Request, limit: int) -> bytes | None:
    """The body whole; None where it is larger than that."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        return None
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            return None
        chunks.append(chunk)
    return b"".join(chunks)
