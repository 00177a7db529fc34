"""Entry point: the click group inside, errors turned into one line and an exit code outside."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any


def main() -> None:
    """Run the `mlops` command and exit with a code of :mod:`mlops.core.errors`."""
    from mlops import cli

    signal.signal(signal.SIGTERM, _interrupt)  # what a cancelled GitHub job gets: clean up as after Ctrl-C
    # Windows aside, a closed pipe (`mlops … | head`) is the reader's choice, not an error.
    try:
        try:
            code = cli.main(sys.argv[1:])
        except KeyboardInterrupt:
            code = 130
        _hear_no_more()
        sys.exit(code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _hear_no_more() -> None:
    """Nothing is left to break off: the exit code stands. An interrupt that is still pending is raised by the call."""
    while True:
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        except KeyboardInterrupt:
            continue
        return


def _interrupt(_number: int, _frame: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
