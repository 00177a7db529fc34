"""One `run:` in a real shell."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path

from tests.workflows.runner.commands import Log
from tests.workflows.runner.files import Unknown

SHELLS = {
    "": ["bash", "-e"],
    "bash": ["bash", "--noprofile", "--norc", "-eo", "pipefail"],
    "sh": ["sh", "-e"],
}
"""As GitHub's runner calls them; without a word about the shell, a pipe hides the failure of its first command."""
LEFT_OPEN_S = 5
"""How long to read on after the end: a process that was left behind may hold the pipe."""


class TimedOut(Exception):
    """The step ran longer than it may."""


def run(
    script: str, *, shell: str, folder: Path, environ: Mapping[str, str], scratch: Path, log: Log, timeout_s: float
) -> int:
    """Run a script; its output goes into the log line by line.

    Returns:
        The exit code.

    Raises:
        TimedOut: it was killed, with all that it had started.
    """
    if shell not in SHELLS:
        raise Unknown(f"the runner does not know the shell '{shell}'")
    file = scratch / "script.sh"
    file.write_text(script, encoding="utf-8")
    process = subprocess.Popen(
        [*SHELLS[shell], str(file)],
        cwd=folder,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    failed: list[Exception] = []

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            try:
                log.feed(line)
            except Unknown as error:
                failed.append(error)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        code = process.wait(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise TimedOut from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        reader.join(timeout=LEFT_OPEN_S)
        if not reader.is_alive() and process.stdout is not None:
            process.stdout.close()
    if failed:
        raise failed[0]
    return code
