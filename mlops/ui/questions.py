"""Questions to the endpoint: those of the page's chat, and those of OpenAI-style clients."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from mlops.chat.context_window import is_refusal
from mlops.core.errors import MlopsError
from mlops.data.payload import check_text
from mlops.scoring.client import Answer, scorer
from mlops.ui import completions, overview
from mlops.ui.ask import Asker
from mlops.ui.fragments import SOON_S

if TYPE_CHECKING:
    from mlops.azure.session import Session
    from mlops.ui.ttl_cache import TtlCache

MAX_BODY = 4 * 2**20
"""A conversation is smaller."""
SLOT = re.compile(r"[A-Za-z0-9-]{1,64}")
"""It becomes a header of the request to the endpoint."""


class Questions:
    """All that can be asked of one session's endpoint."""

    def __init__(self, session: Session, cache: TtlCache) -> None:
        name, timeout_s = session.settings.endpoint.name, session.settings.gate.timeout_s
        self._session = session
        self._cache = cache
        self._asker = Asker(lambda: scorer(session, name, timeout_s=timeout_s), cache)

    async def close(self) -> None:
        """Close the connections."""
        await self._asker.close()

    async def ask(self, request: Request) -> Response:
        """One question of the chat; a line of JSON per piece of the answer, the last one with its figures."""
        raw = await body(request)
        if raw is None or request.headers.get("content-type", "").partition(";")[0] != "application/json":
            return JSONResponse({"error": "a conversation in JSON is expected"}, 400)
        try:
            given = json.loads(raw)
            messages, parameters, slot = given["messages"], given.get("parameters") or {}, given.get("slot")
            text = completions.payload(messages, parameters)
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
            return JSONResponse({"error": "a conversation in JSON is expected"}, 400)
        _, problems = await run_in_threadpool(check_text, text, name="the question")
        if problems or not (slot is None or (isinstance(slot, str) and SLOT.fullmatch(slot))):
            first = f"{problems[0].field} {problems[0].message}" if problems else "slot must be a name"
            return JSONResponse({"error": first.removeprefix("input_data.").strip()}, 400)

        async def lines() -> AsyncIterator[str]:
            try:
                async for event in self._asker.ask(messages, parameters, slot=slot):
                    document = {"piece": event} if isinstance(event, str) else {"answer": usage(event)}
                    yield json.dumps(document) + "\n"
            except MlopsError as error:
                text = f"{error.message} ({error.hint})" if error.hint else error.message
                yield json.dumps({"answer": {"error": text}}) + "\n"

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    async def models(self, _request: Request) -> Response:
        """What can be asked."""
        try:
            return JSONResponse(completions.listed(await self._models()))
        except completions.Refused as refused:
            return JSONResponse(refused.body, refused.status)

    async def model(self, request: Request) -> Response:
        """One of them."""
        name = request.path_params["name"]
        try:
            if name in await self._models():
                return JSONResponse(completions.described(name))
        except completions.Refused as refused:
            return JSONResponse(refused.body, refused.status)
        missing = completions.Refused(404, f"there is no model '{name[:80]}'", param="model", code="model_not_found")
        return JSONResponse(missing.body, missing.status)

    async def complete(self, request: Request) -> Response:
        """An answer in OpenAI's shape."""
        try:
            raw = await body(request)
            if raw is None:
                raise completions.Refused(413, f"the request has more than {MAX_BODY} bytes")
            chat_request = completions.read(raw, await self._models())
            if not chat_request.stream:
                completion, headers = await completions.whole(self._asker, chat_request)
                return Response(json.dumps(completion), headers=headers, media_type="application/json")
            events = completions.streamed(self._asker, chat_request)
            first = await anext(events)
        except completions.Refused as refused:
            return JSONResponse(refused.body, refused.status)

        async def all_events() -> AsyncIterator[str]:
            yield first
            async for event in events:
                yield event

        return StreamingResponse(all_events(), media_type="text/event-stream")

    async def _models(self) -> list[str]:
        """``live`` where traffic rests on a slot, and every slot that stands."""

        def read() -> overview.Overview:
            return overview.read_overview(self._session)

        try:
            current = await self._cache.get("overview", read, keep_s=SOON_S)
        except MlopsError as error:
            raise completions.Refused(502, error.message, kind="server_error") from error
        live = [completions.LIVE] if current.endpoint is not None and current.endpoint.live else []
        return [*live, *(slot.name for slot in current.deployed_slots)]


def usage(answer: Answer) -> dict[str, Any]:
    """What the chat shows of an answer."""
    tokens = answer.completion_tokens
    return {
        "text": answer.texts[0] if answer.texts else "",
        "slot": answer.slot,
        "latency_ms": round(answer.latency_ms),
        "first_ms": None if answer.first_ms is None else round(answer.first_ms),
        "tokens": tokens,
        "tokens_per_s": round(1000 * tokens / answer.latency_ms, 1) if tokens and answer.latency_ms > 0 else None,
        "finish_reason": answer.finish_reason,
        "error": answer.error,
        "too_long": is_refusal(answer.status, answer.error),
    }


async def body(request: Request) -> bytes | None:
    """The body whole; None where it is too large."""
    content = b""
    try:
        async for chunk in request.stream():
            content += chunk
            if len(content) > MAX_BODY:
                return None
    except ClientDisconnect:
        return None
    return content
