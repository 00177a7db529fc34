"""A program in a terminal of its own, typed into and read as a person would."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path

from tests.support.waiting import HANG_S

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07]*\x07|\x1b[=>()][0B]?|\r")
CTRL_C, CTRL_D, ALT_ENTER = "\x03", "\x04", "\x1b\r"


class PseudoTerminal:
    """One program behind a pseudo terminal."""

    def __init__(self, command: list[str], *, cwd: Path, environment: dict[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))

        def own_terminal() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C becomes a signal

        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=cwd,
            env=environment,
            start_new_session=True,
            preexec_fn=own_terminal,
        )
        os.close(theirs)
        self.raw = ""
        self._from = 0

    @property
    def text(self) -> str:
        """All that was shown, without colours and cursor movements."""
        return ESCAPES.sub("", self.raw)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def say(self, line: str) -> None:
        """Type a line and send it off."""
        self.type(line + "\r")

    def expect(self, pattern: str) -> re.Match[str]:
        """Wait for what comes after what was last waited for."""
        limit = time.monotonic() + HANG_S
        while True:
            match = re.compile(pattern).search(self.text, self._from)
            if match:
                self._from = match.end()
                return match
            if time.monotonic() > limit or not self._read(0.1):
                raise AssertionError(f"{pattern!r} does not come; since the last: {self.text[self._from :]!r}")

    def ended(self) -> int:
        """Wait for the program's end; its exit code."""
        limit = time.monotonic() + HANG_S
        while self._read(0.1):
            assert time.monotonic() < limit, self.text[-500:]
        return self.process.wait(HANG_S)

    def _read(self, wait_s: float) -> bool:
        """Take in what is there; False once nothing comes any more."""
        if select.select([self._ours], [], [], wait_s)[0]:
            try:
                chunk = os.read(self._ours, 65536)
            except OSError:  # the other side is closed
                return False
            self.raw += chunk.decode("utf-8", "replace")
            return bool(chunk)
        return True

    def close(self) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(HANG_S)
        os.close(self._ours)
