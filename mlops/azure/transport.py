"""One pool of connections for all clients of a login.

The SDK gives each of its two dozen clients a pool of its own with room for ten: the first call of each opens a
connection, and with more than ten threads connections are thrown away and made anew, each with its handshake and the
reading of all authorities' certificates. That costs more than the calls.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

CONNECTIONS = 16
"""As many calls as are ever under way at a time (``cleanup.at_once`` goes no higher)."""


GUARD: ContextVar[Callable[[], object] | None] = ContextVar("GUARD", default=None)
"""Called before each change of an endpoint or a deployment goes out, the SDK's own repeats included; raises where the
caller has lost the right to it. Whoever holds an endpoint's lease sets it."""
CHANGES = frozenset({"PUT", "PATCH", "DELETE"})


def transport(connect_timeout_s: float, read_timeout_s: float) -> Any:
    """An HTTP transport for the SDK's clients, to be shared between them and between threads."""
    from azure.core.pipeline.transport import RequestsTransport
    from requests import Session
    from requests.adapters import HTTPAdapter
    from urllib3 import Retry

    class Guarded(RequestsTransport):  # type: ignore[misc]
        """Asks the guard last of all: between a call of ours and its request the SDK uploads, waits and repeats."""

        def send(self, request: Any, **kwargs: Any) -> Any:
            guard = GUARD.get()
            if guard is not None and request.method in CHANGES and "/onlineendpoints/" in request.url.lower():
                guard()
            return super().send(request, **kwargs)

    never = Retry(total=False, redirect=False, raise_on_status=False)  # asking again is the SDK's policies' business
    session = Session()
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=CONNECTIONS, max_retries=never))
    return Guarded(
        session=session,
        session_owner=False,  # one client that is closed must not close it for the others
        connection_timeout=connect_timeout_s,
        read_timeout=read_timeout_s,
    )
