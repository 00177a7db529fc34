"""One bash that a document's commands are typed into, each with its output and exit code."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.support.waiting import HANG_S


@dataclass(frozen=True)
class Typed:
    """What a command printed, on both streams, and how it ended."""

    output: str
    code: int


class Terminal:
    """A shell that goes on from command to command, so that `cd`, `export` and `source` mean what they say."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=dict(environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._lines.put(line)
        self._lines.put(None)

    def type(self, command: str, *, timeout_s: float = HANG_S) -> Typed:
        """Run one command; what it left running in the background goes on.

        Raises:
            TimeoutError: it has not ended by then.
        """
        mark = f"ended-{uuid.uuid4().hex}"
        assert self._process.stdin is not None
        # braces are no subshell: what the command sets, stays; and it cannot read the commands after it
        self._process.stdin.write(f"{{ {command}\n}} </dev/null\nprintf '\\n%s %s\\n' {mark} $?\n")
        self._process.stdin.flush()
        until = time.monotonic() + timeout_s
        printed: list[str] = []
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                raise TimeoutError(
                    f"{command!r} has not ended in {timeout_s:g} s:\n{''.join(printed)[-3000:]}"
                ) from None
            if line is None:
                raise RuntimeError(f"the shell has ended at {command!r}:\n{''.join(printed)[-3000:]}")
            if line.startswith(mark):
                return Typed("".join(printed).removesuffix("\n"), int(line.split()[1]))
            printed.append(line)

    def close(self) -> None:
        """End the shell with all that it has started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                break
            time.sleep(0.3)
        self._process.wait(HANG_S)
        self._reader.join(HANG_S)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
