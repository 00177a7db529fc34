"""The page's routes: pages, their parts, questions to the endpoint, and the API for OpenAI-style clients."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from mlops.chat.room import is_refusal
from mlops.endpoint import Answer, scorer
from mlops.errors import MlopsError
from mlops.payload import check_text
from mlops.ui import completions, overview, releases
from mlops.ui.access import Guard
from mlops.ui.asking import Asker
from mlops.ui.parts import SOON_S, part, shown
from mlops.ui.rendering import HERE, page, render
from mlops.ui.shelf import PATIENCE_S, Shelf

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from mlops.azure.session import Session

MAX_BODY = 4 * 2**20
"""A conversation is smaller."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A part in a page: its address, and how often it is asked for again while somebody looks."""

    kind: str
    name: str = ""
    every_s: int = 0

    @property
    def address(self) -> str:
        """Where the part alone is."""
        from urllib.parse import quote

        return f"/parts/{self.kind}" + (f"/{quote(self.name, safe='')}" if self.name else "")


class Site:
    """All that is served for one session."""

    def __init__(self, session: Session, *, patience_s: float = PATIENCE_S) -> None:
        self.session = session
        self.shelf = Shelf(patience_s=patience_s)
        name, timeout_s = session.settings.endpoint.name, session.settings.gate.timeout_s
        self.asker = Asker(lambda: scorer(session, name, timeout_s=timeout_s), self.shelf)

    def app(self, *, token: str, port: int) -> ASGIApp:
        """The application, behind its guard."""
        routes = [
            Route("/", self.home),
            Route("/chat", self.chat),
            Route("/training", self.training),
            Route("/training/{name}", self.job),
            Route("/models", self.models),
            Route("/releases/{name}", self.release),
            Route("/releases/{name}/{picture}", self.picture),
            Route("/parts/{kind}", self.part),
            Route("/parts/{kind}/{name}", self.part),
            Route("/ask", self.ask, methods=["POST"]),
            Route("/v1/models", self.v1_models),
            Route("/v1/models/{name}", self.v1_model),
            Route("/v1/chat/completions", self.v1_chat, methods=["POST"]),
            Mount("/static", StaticFiles(directory=HERE / "static")),
        ]
        handlers: dict[Any, Any] = {404: _missing, 405: _missing}
        return Guard(
            Starlette(routes=routes, lifespan=self._lifespan, exception_handlers=handlers), token=token, port=port
        )

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        yield
        await self.asker.close()

    # -- pages -----------------------------------------------------------------------------------------------------

    async def home(self, request: Request) -> Response:
        """The endpoint and its releases."""
        places = [Place(kind="endpoint", every_s=10), Place(kind="releases", every_s=15)]
        return await self._page(request, "Endpoint", places)

    async def chat(self, request: Request) -> Response:
        """The chat."""
        return await self._page(request, "Chat", [Place(kind="chat")])

    async def training(self, request: Request) -> Response:
        """The newest jobs."""
        return await self._page(request, "Training", [Place(kind="jobs", every_s=20)])

    async def job(self, request: Request) -> Response:
        """One job."""
        name = request.path_params["name"]
        places = [Place(kind="curve", name=name, every_s=20), Place(kind="job", name=name, every_s=20)]
        return await self._page(request, "Training", places, title=name)

    async def models(self, request: Request) -> Response:
        """The model's versions."""
        return await self._page(request, "Models", [Place(kind="models", every_s=60)])

    async def release(self, request: Request) -> Response:
        """One rollout with its report."""
        name = request.path_params["name"]
        return await self._page(request, "Endpoint", [Place(kind="release", name=name)], title="Release")

    async def _page(self, request: Request, tab: str, places: Sequence[Place], *, title: str = "") -> Response:
        """A page with its parts: as places that the browser fills, or at once for a browser without scripts."""
        whole = "whole" in request.query_params
        status, contents = 200, []
        for place in places:
            html = None
            wanted = part(self.session, place.kind, place.name)
            if whole and place.kind == "chat":
                html = render("no_scripts.html")
            elif whole and wanted is not None:
                html, code = await shown(self.shelf, wanted)
                status = max(status, code)
            contents.append((place, html))
        settings = self.session.settings
        return page(
            "page.html", status=status, tab=tab, title=title or tab, target=settings.target, contents=contents,
            whole=whole, endpoint=settings.endpoint.name, workspace=self.session.ml.workspace_name,
        )  # fmt: skip

    async def part(self, request: Request) -> Response:
        """One part alone; ``fresh`` asks Azure whatever is kept."""
        wanted = part(self.session, request.path_params["kind"], request.path_params.get("name", ""))
        if wanted is None:
            return _missing(request, None)
        if "fresh" in request.query_params:
            self.shelf.forget(wanted.key)
        html, status = await shown(self.shelf, wanted)
        return Response(html, status, media_type="text/html")

    async def picture(self, request: Request) -> Response:
        """A picture of a release's report."""
        wanted = part(self.session, "releases")
        assert wanted is not None
        try:
            found: releases.Releases = await self.shelf.get(wanted.key, wanted.ask, keep_s=wanted.keep_s)
        except MlopsError:
            return _missing(request, None)
        release = found.of(request.path_params["name"])
        name = request.path_params["picture"]
        if release is None or release.found is None or name not in release.found.pictures:
            return _missing(request, None)
        return FileResponse(release.found.folder / name)

    # -- questions -------------------------------------------------------------------------------------------------

    async def ask(self, request: Request) -> Response:
        """One question of the chat; a line of JSON per piece of the answer, the last one with its figures."""
        raw = await body(request)
        if raw is None or request.headers.get("content-type", "").partition(";")[0] != "application/json":
            return JSONResponse({"error": "a conversation in JSON is expected"}, 400)
        try:
            given = json.loads(raw)
            messages, parameters, slot = given["messages"], given.get("parameters") or {}, given.get("slot")
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
            return JSONResponse({"error": "a conversation in JSON is expected"}, 400)
        payload = {"input_data": {"input_string": messages, "parameters": parameters}}
        _, problems = await run_in_threadpool(check_text, json.dumps(payload).encode(), name="the question")
        if problems or not (slot is None or isinstance(slot, str)):
            first = f"{problems[0].field} {problems[0].message}" if problems else "slot must be a name"
            return JSONResponse({"error": first.removeprefix("input_data.").strip()}, 400)

        async def lines() -> AsyncIterator[str]:
            try:
                async for found in self.asker.ask(messages, parameters, slot=slot):
                    said = {"piece": found} if isinstance(found, str) else {"answer": figures(found)}
                    yield json.dumps(said) + "\n"
            except MlopsError as error:
                text = f"{error.message} ({error.hint})" if error.hint else error.message
                yield json.dumps({"answer": {"error": text}}) + "\n"

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    async def v1_models(self, _request: Request) -> Response:
        """What can be asked."""
        try:
            return JSONResponse(completions.listed(await self._models()))
        except completions.Refused as refused:
            return JSONResponse(refused.body, refused.status)

    async def v1_model(self, request: Request) -> Response:
        """One of them."""
        name = request.path_params["name"]
        try:
            if name in await self._models():
                return JSONResponse(completions.described(name))
        except completions.Refused as refused:
            return JSONResponse(refused.body, refused.status)
        missing = completions.Refused(404, f"there is no model '{name[:80]}'", param="model", code="model_not_found")
        return JSONResponse(missing.body, missing.status)

    async def v1_chat(self, request: Request) -> Response:
        """An answer in OpenAI's shape."""
        try:
            raw = await body(request)
            if raw is None:
                raise completions.Refused(413, f"the request has more than {MAX_BODY} bytes")
            wanted = completions.read(raw, await self._models())
            if not wanted.stream:
                found, headers = await completions.whole(self.asker, wanted)
                return JSONResponse(found, headers=headers)
            events = completions.streamed(self.asker, wanted)
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

        def look() -> overview.Overview:
            return overview.look(self.session)

        try:
            found = await self.shelf.get("overview", look, keep_s=SOON_S)
        except MlopsError as error:
            raise completions.Refused(502, error.message, kind="server_error") from error
        live = [completions.LIVE] if found.endpoint is not None and found.endpoint.live else []
        return [*live, *(slot.name for slot in found.standing)]


def figures(answer: Answer) -> dict[str, Any]:
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
    found = b""
    try:
        async for chunk in request.stream():
            found += chunk
            if len(found) > MAX_BODY:
                return None
    except ClientDisconnect:
        return None
    return found


def _missing(request: Request, _error: Exception | None) -> Response:
    """There is no such page."""
    if request.url.path.startswith("/v1/"):
        refused = completions.Refused(404, f"there is no '{request.method} {request.url.path[:80]}' here")
        return JSONResponse(refused.body, refused.status)
    return page("refused.html", status=404, message=f"there is no page '{request.url.path[:80]}'")
