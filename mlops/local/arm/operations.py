"""Where clients look for what became of a long-running change of the subscription: Azure's two kinds of headers."""

from __future__ import annotations

import re
from typing import Any

from mlops.local.arm.resources import Answer, Call
from mlops.local.state.operations import Operation
from mlops.local.state.store import Store

PATH = re.compile(
    r"^/subscriptions/[^/]+(?:/providers/[^/]+/locations/[^/]+)?/(?P<how>operationresults|operationstatuses)/(?P<id>[^/]+)$",
    re.IGNORECASE,
)


def retry_after(delay_s: float) -> dict[str, str]:
    """How long a client shall wait; milliseconds in a header of their own, since clients read the other as integer."""
    if delay_s == int(delay_s) and delay_s >= 1:
        return {"Retry-After": str(int(delay_s))}
    return {"retry-after-ms": str(max(1, round(delay_s * 1000)))}


def location_headers(call: Call, operation_id: str, namespace: str = "") -> dict[str, str]:
    """``Location``: 202 until the end, then the resource (or nothing, where it was deleted)."""
    return {
        "Location": _url(call, "operationresults", operation_id, namespace),
        **retry_after(call.workspace.config.retry_after_s),
    }


def status_headers(call: Call, operation_id: str, namespace: str) -> dict[str, str]:
    """``Azure-AsyncOperation``: a document with the state."""
    return {
        "Azure-AsyncOperation": _url(call, "operationStatuses", operation_id, namespace),
        **retry_after(call.workspace.config.retry_after_s),
    }


def answer(store: Store, operation: Operation, how: str, path: str, delay_s: float) -> Answer:
    """What such an address answers."""
    running = operation.status == "InProgress"
    headers = retry_after(delay_s) if running else {}
    if how.lower() == "operationresults":
        if running:
            return Answer(202, None, headers)
        if operation.error:
            return Answer(409, {"error": operation.error})
        body = store.get(operation.resource)
        return Answer(200, body) if body is not None else Answer(204)
    body = {"id": path, "name": operation.id, "status": operation.status, "startTime": operation.started}
    if operation.ended:
        body["endTime"] = operation.ended
    if operation.error:
        body["error"] = operation.error
    return Answer(200, body, headers)


def _url(call: Call, how: str, operation_id: str, namespace: str) -> str:
    config = call.workspace.config
    where: Any = f"/providers/{namespace}/locations/{config.region}" if namespace else ""
    base = f"https://{call.host}/subscriptions/{config.subscription}{where}"
    return f"{base}/{how}/{operation_id}?api-version={call.api_version}"
