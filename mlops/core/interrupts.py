"""Ctrl-C that is heard at once, also while a thread or a sleep is waited for."""

from __future__ import annotations

import signal


def stay_interruptible() -> None:
    """Let Ctrl-C break off a blocking call again; to be called before a long one.

    polars, which other libraries import without being asked, takes SIGINT over in a way (``SA_RESTART``) that restarts
    what was interrupted: Ctrl-C would then wait for the end of a deployment.
    """
    signal.siginterrupt(signal.SIGINT, True)  # noqa: FBT003 - takes no keyword
