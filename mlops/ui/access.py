"""Who may see the page: whoever has the token, from this machine's own browser or client.

The token comes once in the address, as notebooks do it, and leaves with a redirect; from then on a cookie speaks. A
browser that is started for the page gets a ticket in the token's place: its arguments can be read by everybody on the
machine, and a ticket opens once. The cookie is not the token but made of it: browsers send cookies of 127.0.0.1 to
every port of it, and what another server there could learn must not open the API. Names of other hosts in ``Host`` (DNS
rebinding) and other sites in ``Origin`` are refused before anything is looked at.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlencode

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.IGNORECASE)
"""Any port: the page may be reached through a tunnel that ends at another one."""
OPEN = "/static/"
"""The page's own style and script: the refusal uses them too."""
API = "/v1/"
KEYS = ("token", "ticket")
"""Parameters that leave the address."""
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """Lets those in who have the token, and gives every answer its headers."""

    def __init__(self, app: ASGIApp, *, token: str, port: int, ticket: str = "") -> None:
        self._app = app
        self._ticket = ticket
        self._token = token
        self._cookie = f"mlops-ui-{port}"
        self._pass = hmac.new(token.encode(), b"cookie", hashlib.sha256).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        from starlette.requests import Request

        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                given = [item for item in message["headers"] if item[0].decode().title() not in HEADERS]
                message = {**message, "headers": [*given, *own]}
            await send(message)

        answer = self._stopped(Request(scope, receive))
        await (answer or self._app)(scope, receive, headed)

    def _stopped(self, request: Request) -> Response | None:
        """The refusal, or the redirect that takes the token out of the address; None for who may come in."""
        from starlette.responses import RedirectResponse

        host = request.headers.get("host", "")
        if not LOOPBACK.fullmatch(host):
            return refusal(request, HTTPStatus.MISDIRECTED_REQUEST, f"the host '{host[:80]}' is not this machine")
        origin = request.headers.get("origin")
        if origin is not None and origin.lower() != f"http://{host}".lower():
            return refusal(request, HTTPStatus.FORBIDDEN, f"a page of '{origin[:80]}' may not ask this one")
        if request.url.path.startswith(OPEN):
            return None
        if request.url.path.startswith(API):
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() == "bearer" and same(given.strip(), self._token):
                return None
            return refusal(request, HTTPStatus.UNAUTHORIZED, "the API key is not the token of this page's address")
        if request.method in ("GET", "HEAD") and self._brings_key(request):
            rest = urlencode([item for item in request.query_params.multi_items() if item[0] not in KEYS])
            response = RedirectResponse(_local_path(request.url.path) + (f"?{rest}" if rest else ""), 303)
            response.set_cookie(self._cookie, self._pass, httponly=True, samesite="lax", path="/")
            return response
        if same(request.cookies.get(self._cookie, ""), self._pass):
            return None
        return refusal(request, HTTPStatus.FORBIDDEN, "this page opens with the address that mlops has printed")

    def _brings_key(self, request: Request) -> bool:
        """Whether the address holds the token, or the ticket, which is good for one time."""
        given = request.query_params.get("token", "")
        if given and same(given, self._token):
            return True
        ticket = request.query_params.get("ticket", "")
        if request.method != "GET" or not (ticket and self._ticket and same(ticket, self._ticket)):
            return False
        self._ticket = ""
        return True


def same(given: str, expected: str) -> bool:
    """Whether two secrets are one, in a time that tells nothing."""
    return hmac.compare_digest(given.encode(), expected.encode())


def refusal(request: Request, status: HTTPStatus, message: str) -> Response:
    """Why somebody is not let in: in the shape of OpenAI's errors below ``/v1``, else as a page."""
    from starlette.responses import JSONResponse

    from mlops.ui.rendering import page

    if request.url.path.startswith(API):
        kind = "authentication_error" if status == HTTPStatus.UNAUTHORIZED else "invalid_request_error"
        error = {"message": message, "type": kind, "param": None, "code": "invalid_api_key" if status == 401 else None}
        return JSONResponse({"error": error}, status)
    return page("refused.html", status=status, message=message)


def _local_path(path: str) -> str:
    """A path that stays here: ``//host`` would lead elsewhere."""
    return "/" + path.lstrip("/\\")
