"""Ports on loopback."""

from __future__ import annotations

import contextlib
import socket


def bindable(port: int) -> int:
    """The port (any free one for 0), or 0 where it is taken."""
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        return int(probe.getsockname()[1])
    return 0
