"""Serves the page on 127.0.0.1 until Ctrl-C."""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlops.core.errors import PreconditionError

if TYPE_CHECKING:
    from mlops.azure.session import Session

HOST = "127.0.0.1"
GRACE_S = 1


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where the page is. Whoever has the token may look and ask; it is good until the page is closed.

    Attributes:
        base: without the token.
        url: with it, to be opened.
        browser_url: with a ticket that is good for one time, for a browser's arguments.
        openai_base_url: for OpenAI-style clients, whose API key is the token.
    """

    target: str
    base: str
    token: str = field(repr=False)
    ticket: str = field(repr=False)

    @property
    def url(self) -> str:
        """The address that opens the page."""
        return f"{self.base}/?token={self.token}"

    @property
    def browser_url(self) -> str:
        """The address that opens the page once."""
        return f"{self.base}/?ticket={self.ticket}"

    @property
    def openai_base_url(self) -> str:
        """The address that OpenAI-style clients want."""
        return f"{self.base}/v1"


def bind(port: int) -> socket.socket:
    """A listening socket on loopback; port 0 takes a free one.

    Raises:
        PreconditionError: the port is taken.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        hint = "leave out --port for a free one"
        raise PreconditionError(f"the port '{port}' is unavailable: {error.strerror}", hint=hint) from None
    return listener


def serve(session: Session, *, port: int, ready: Callable[[Address], object]) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        session: the workspace that is looked at.
        port: 0 takes a free one.
        ready: is told the address once the page answers; in a thread of its own.

    Raises:
        PreconditionError: the port is taken.
    """
    import uvicorn

    from mlops.ui.app import Site

    with bind(port) as listening:
        own = listening.getsockname()[1]
        token, ticket = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        base = f"http://{HOST}:{own}"
        address = Address(target=session.settings.target, base=base, token=token, ticket=ticket)
        config = uvicorn.Config(
            Site(session).app(token=token, port=own, ticket=ticket),
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_S,
            timeout_keep_alive=30,
            ws="none",
        )
        server = uvicorn.Server(config)
        # what is under way when it closes is cancelled, and of that nobody needs a traceback
        logging.getLogger("uvicorn.error").addFilter(lambda _: not server.should_exit)

        def tell() -> None:
            while not server.started:
                time.sleep(0.02)
            ready(address)

        threading.Thread(target=tell, name="tell the address", daemon=True).start()
        with contextlib.suppress(KeyboardInterrupt):  # how it is meant to end
            server.run(sockets=[listening])
