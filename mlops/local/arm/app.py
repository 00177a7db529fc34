"""The control plane's HTTP side: parses ids, finds the type, answers in Azure's manner."""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Iterable
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from mlops.local.arm import operations, schema
from mlops.local.arm.errors import ArmError, bad_request, not_found
from mlops.local.arm.operations import retry_after
from mlops.local.arm.providers import NAMES
from mlops.local.arm.resources import Answer, Call, ResourceType
from mlops.local.arm.target import Target
from mlops.local.state.operations import Operation
from mlops.local.state.workspace import Workspace

LEARNING = "microsoft.machinelearningservices"
OPERATION = re.compile(
    r"/locations/[^/]+/(?P<how>mfeOperationsStatus|mfeOperationResults|computeOperationsStatus|workspaceOperationsStatus)"
    r"/(?P<id>[^/]+)$",
    re.IGNORECASE,
)
MAX_BODY = 4 * 1024 * 1024
"""ARM refuses larger requests."""
MAX_DEPTH = 64
"""Nothing that Azure knows is nested deeper."""


class Authorization(Protocol):
    """Says whether a call may be made; raises :class:`ArmError` where it may not."""

    def authorize(self, call: Call, target: Target) -> None:
        """Refuse what the caller's roles do not permit."""

    def guard(self, call: Call, target: Target) -> None:
        """Refuse what needs a group or a provider that is not there."""


class ControlPlane:
    """Answers requests on ARM ids with the registered types.

    The registry's data plane uses the same ids behind ``/mferp/managementfrontend``; it is served by this class too
    (``prefix``), whose types then are ``registries/…`` and which asks for a token alone, not for a role.
    """

    def __init__(self, workspace: Workspace, types: Iterable[ResourceType], authorization: Authorization) -> None:
        self.workspace = workspace
        self.types = {kind.full_kind.lower(): kind for kind in types}
        self._authorization = authorization

    async def answer(self, request: Request, *, caller: str, oid: str = "", prefix: str = "") -> Response:
        """Answer one authenticated request of a caller, who is named by its client id and its object id."""
        try:
            answer = await self._answer(request, caller=caller, oid=oid, prefix=prefix)
        except ArmError as error:
            headers = {"x-ms-response-type": "error"}
            answer = Answer(error.status, error.body(self.workspace.config.region), headers)
        return respond(answer, request.method)

    async def _answer(self, request: Request, *, caller: str, oid: str, prefix: str) -> Answer:
        target = Target.parse(request.scope["path"].removeprefix(prefix), request.method)
        path = target.path
        operation = OPERATION.search(path)
        if operation and request.method == "GET":
            return self._operation(operation["how"], operation["id"], path)
        generic = operations.PATH.match(path)
        if generic and request.method == "GET":
            return self._result(generic["how"], generic["id"], path)
        call = Call(
            workspace=self.workspace,
            method=request.method,
            resource_id=path,
            query=dict(request.query_params),
            body=await read_json(request),
            caller=caller,
            oid=oid,
            host=request.headers.get("host", "management.azure.com"),
            path_prefix=prefix,
        )
        if not prefix and "api-version" not in request.query_params:
            message = "The api-version query parameter (?api-version=) is required for all requests."
            raise ArmError(400, "MissingApiVersionParameter", message)
        if target.namespace.lower() == LEARNING:
            schema.check(call.body)
        if not prefix:
            self._authorization.authorize(call, target)
            self._authorization.guard(call, target)
        return await self._route(call, target)

    async def _route(self, call: Call, target: Target) -> Answer:
        segments = list(target.segments)
        if not segments:
            raise ArmError(404, "InvalidResourceType", f"The resource type of '{target.path}' is not known here.")
        if call.method == "POST" and len(segments) % 2 == 1 and len(segments) > 1:
            action = segments.pop()
            call.resource_id = target.path.rsplit("/", 1)[0]
            return await self._type(target, segments).action(call, action)
        kind = self._type(target, segments)
        if len(segments) % 2 == 1:
            if call.method != "GET":
                raise ArmError(405, "MethodNotAllowed", f"{call.method} is not allowed on a collection.")
            return await kind.list(call)
        if call.method == "POST":
            return await kind.action(call, "")
        verbs = {"GET": kind.get, "PUT": kind.put, "PATCH": kind.patch, "DELETE": kind.delete, "HEAD": kind.get}
        if call.method not in verbs:
            raise ArmError(405, "MethodNotAllowed", f"{call.method} is not allowed here.")
        return await verbs[call.method](call)

    def _type(self, target: Target, segments: list[str]) -> ResourceType:
        kind = "/".join(segments[0::2])
        resource_type = self.types.get(f"{target.namespace}/{kind}".lower())
        if resource_type is None:
            if target.namespace.lower() not in NAMES:
                message = f"The resource namespace '{target.namespace}' is invalid."
                raise ArmError(404, "InvalidResourceNamespace", message)
            raise ArmError(404, "InvalidResourceType", f"The resource type '{kind}' could not be found.")
        return resource_type

    def _result(self, how: str, operation_id: str, path: str) -> Answer:
        operation = self.workspace.operations.get(operation_id)
        if operation is None:
            raise ArmError(404, "OperationNotFound", f"There is no operation with id '{operation_id}'.")
        return operations.answer(self.workspace.store, operation, how, path, self.workspace.config.retry_after_s)

    def _operation(self, how: str, operation_id: str, path: str) -> Answer:
        operation = self.workspace.operations.get(operation_id)
        if operation is None:
            guid = operation_id.rsplit(":", 1)[-1]
            raise not_found(detail=("OperationNotFound", f"There is no operation with id {guid}"))
        running = operation.status == "InProgress"
        headers = retry_after(self.workspace.config.retry_after_s) if running else {}
        if how.lower() == "mfeoperationresults":
            return Answer(202 if running else 200, operation_body(operation, path), headers)
        return Answer(200, operation_body(operation, path), headers)


def operation_body(operation: Operation, path: str) -> dict[str, Any]:
    """The status document; compute operations show less."""
    running = operation.status == "InProgress"
    status = "Updating" if running else operation.status
    body: dict[str, Any] = {
        "id": path,
        "name": operation.id,
        "startTime": operation.started,
        "percentComplete": 0.0 if running else 100.0,
        "status": status,
    }
    body["endTime"] = operation.ended or "0001-01-01T00:00:00+00:00"
    if operation.error:
        body["error"] = operation.error
    return body


def operation_headers(
    call: Call, operation_id: str, *, status: bool = True, result: str = "resource"
) -> dict[str, str]:
    """The headers that lead a client to an operation.

    Args:
        call: the request that began it.
        operation_id: its id.
        status: send ``Azure-AsyncOperation``.
        result: ``Location`` is the resource's url (PUT), the operation's result (PATCH, DELETE) or left out.
    """
    config = call.workspace.config
    where = f"https://{call.host}/subscriptions/{config.subscription}/providers/Microsoft.MachineLearningServices"
    version = f"?api-version={call.api_version}"
    headers = {"x-ms-async-operation-timeout": "PT30M", **retry_after(config.retry_after_s)}
    compute = ":" not in operation_id
    kind = "computeOperationsStatus" if compute else "mfeOperationsStatus"
    if status:
        tail = f"{version}&service=new" if compute else version
        headers["Azure-AsyncOperation"] = f"{where}/locations/{config.region}/{kind}/{operation_id}{tail}"
    if result == "resource":
        headers["Location"] = call.url()
    elif result == "operation":
        headers["Location"] = f"{where}/locations/{config.region}/mfeOperationResults/{operation_id}{version}"
    return headers


async def read_json(request: Request) -> dict[str, Any]:
    """The request's JSON object; an empty body is an empty object."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY:
            raise ArmError(413, "RequestEntityTooLarge", f"The request is larger than {MAX_BODY} bytes.")
        chunks.append(chunk)
    raw = b"".join(chunks)
    if not raw:
        return {}
    try:
        body = json.loads(raw, parse_constant=_no_number, parse_float=_finite)
        if _depth(body) > MAX_DEPTH:
            raise ValueError("too deep")
        if b"\\ud" in raw.lower():  # half of a surrogate pair is JSON and yet no text
            json.dumps(body, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise bad_request("The request body is not JSON.") from error
    if body is None:
        return {}
    if not isinstance(body, dict):
        raise bad_request("The request body must be a JSON object.")
    return body


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)


def _depth(value: Any) -> int:
    """How deep objects and lists lie in one another."""
    depth, level = 0, [value]
    while level:
        depth += 1
        inner = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, (dict, list))]
        level = [item for items in inner for item in items]
    return depth


def respond(answer: Answer, method: str) -> Response:
    """An HTTP response with the headers that every ARM answer carries."""
    kind = {"GET": "reads", "HEAD": "reads", "DELETE": "deletes"}.get(method, "writes")
    headers = {
        "x-ms-request-id": str(uuid.uuid4()),
        "x-ms-correlation-request-id": str(uuid.uuid4()),
        f"x-ms-ratelimit-remaining-subscription-{kind}": "1199",
        "Cache-Control": "no-cache",
        "x-ms-response-type": "standard",
        **answer.headers,
    }
    if answer.status == 204 or (method == "HEAD"):
        return Response(status_code=answer.status, headers=headers)
    return Response(
        json.dumps(answer.body),
        status_code=answer.status,
        headers=headers,
        media_type="application/json; charset=utf-8",
    )
