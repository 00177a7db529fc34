"""The page's routes: pages, their parts, pictures, and what :mod:`mlops.ui.questions` answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from mlops.core.errors import MlopsError
from mlops.ui import completions, releases
from mlops.ui.access import Guard
from mlops.ui.fragments import fragment, rendered
from mlops.ui.questions import Questions
from mlops.ui.rendering import HERE, page, render
from mlops.ui.ttl_cache import WAIT_S, TtlCache

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from mlops.azure.session import Session


@dataclass(frozen=True, kw_only=True)
class Section:
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

    def __init__(self, session: Session, *, wait_s: float = WAIT_S) -> None:
        self.session = session
        self.cache = TtlCache(wait_s=wait_s)
        self.questions = Questions(session, self.cache)

    def app(self, *, token: str, port: int, ticket: str = "") -> ASGIApp:
        """The application, behind its guard."""
        routes = [
            Route("/", self.home),
            Route("/chat", self.chat),
            Route("/training", self.training),
            Route("/training/{name}", self.job),
            Route("/models", self.models),
            Route("/releases/{name}", self.release),
            Route("/releases/{name}/{picture}", self.picture),
            Route("/parts/{kind}", self.fragment),
            Route("/parts/{kind}/{name}", self.fragment),
            Route("/ask", self.questions.ask, methods=["POST"]),
            Route("/v1/models", self.questions.models),
            Route("/v1/models/{name}", self.questions.model),
            Route("/v1/chat/completions", self.questions.complete, methods=["POST"]),
            Mount("/static", StaticFiles(directory=HERE / "static")),
        ]
        handlers: dict[Any, Any] = {404: _missing, 405: _missing}
        inside = Starlette(routes=routes, lifespan=self._lifespan, exception_handlers=handlers)
        return Guard(inside, token=token, port=port, ticket=ticket)

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        yield
        await self.questions.close()

    # -- pages -----------------------------------------------------------------------------------------------------

    async def home(self, request: Request) -> Response:
        """The endpoint and its releases."""
        places = [Section(kind="endpoint", every_s=10), Section(kind="releases", every_s=15)]
        return await self._page(request, "Endpoint", places)

    async def chat(self, request: Request) -> Response:
        """The chat."""
        return await self._page(request, "Chat", [Section(kind="chat")])

    async def training(self, request: Request) -> Response:
        """The newest jobs."""
        return await self._page(request, "Training", [Section(kind="jobs", every_s=20)])

    async def job(self, request: Request) -> Response:
        """One job."""
        name = request.path_params["name"]
        places = [Section(kind="curve", name=name, every_s=20), Section(kind="job", name=name, every_s=20)]
        return await self._page(request, "Training", places, title=name)

    async def models(self, request: Request) -> Response:
        """The model's versions."""
        return await self._page(request, "Models", [Section(kind="models", every_s=60)])

    async def release(self, request: Request) -> Response:
        """One rollout with its report."""
        name = request.path_params["name"]
        return await self._page(request, "Endpoint", [Section(kind="release", name=name)], title="Release")

    async def _page(self, request: Request, tab: str, places: Sequence[Section], *, title: str = "") -> Response:
        """A page with its parts: as places that the browser fills, or at once for a browser without scripts."""
        whole = "whole" in request.query_params
        status, contents = 200, []
        for section in places:
            html = None
            content = fragment(self.session, section.kind, section.name)
            if whole and section.kind == "chat":
                html = render("no_scripts.html")
            elif whole and content is not None:
                html, code = await rendered(self.cache, content)
                status = max(status, code)
            contents.append((section, html))
        settings = self.session.settings
        return page(
            "page.html",
            status=status,
            tab=tab,
            title=title or tab,
            target=settings.target,
            contents=contents,
            whole=whole,
            endpoint=settings.endpoint.name,
            workspace=self.session.ml.workspace_name,
        )

    async def fragment(self, request: Request) -> Response:
        """One part alone; ``fresh`` asks Azure whatever is kept."""
        content = fragment(self.session, request.path_params["kind"], request.path_params.get("name", ""))
        if content is None:
            return _missing(request, None)
        if "fresh" in request.query_params:
            self.cache.forget(content.key)
        html, status = await rendered(self.cache, content)
        return Response(html, status, media_type="text/html")

    async def picture(self, request: Request) -> Response:
        """A picture of a release's report."""
        content = fragment(self.session, "releases")
        assert content is not None
        try:
            history: releases.Releases = await self.cache.get(content.key, content.ask, keep_s=content.keep_s)
        except MlopsError:
            return _missing(request, None)
        release = history.of(request.path_params["name"])
        name = request.path_params["picture"]
        if release is None or release.gate_report is None or name not in release.gate_report.pictures:
            return _missing(request, None)
        return FileResponse(release.gate_report.folder / name)


def _missing(request: Request, _error: Exception | None) -> Response:
    """There is no such page."""
    if request.url.path.startswith("/v1/"):
        refused = completions.Refused(404, f"there is no '{request.method} {request.url.path[:80]}' here")
        return JSONResponse(refused.body, refused.status)
    return page("refused.html", status=404, message=f"there is no page '{request.url.path[:80]}'")
