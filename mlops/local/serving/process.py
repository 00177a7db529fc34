"""One scoring process: started, found again by a later daemon, probed, stopped.

The process leads a session of its own and writes a record that names it; the record's path stands in its command
line, which tells it from any later process of the same id.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from mlops.local.serving.image import Image
from mlops.local.serving.upstream import Broken, Unreachable, exchange

LAUNCHER = Path(__file__).with_name("launch.py")
CONTAINER = Path(__file__).with_name("contain.py")


class Instance:
    """A scoring process of a deployment, under a name and on a port of its own."""

    def __init__(
        self,
        folder: Path,
        index: int,
        *,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        image: Image | None = None,
    ) -> None:
        self.index = index
        self.folder = folder
        self.record = folder / f"instance-{index}.json"
        self.log = folder / f"instance-{index}.log"
        self.port = 0
        self.pid = 0
        self.healthy = False
        self.in_flight = 0
        self.started = 0.0
        """Monotonic time of the last start."""
        self._arguments = list(arguments)
        self._environment = dict(environment)
        self._image = image
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process (again); not in a thread, where a cancelled task would lose sight of it."""
        self.healthy = False
        self.started = time.monotonic()
        if self.pid:
            kill_session(self.pid)  # a process that crashed may have left children: an engine's core
        self.record.unlink(missing_ok=True)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener, self.log.open("ab") as log:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
            descriptor, environment = listener.fileno(), self._environment
            if self._image is None:
                argv, kept = [str(LAUNCHER), str(descriptor), str(self.record), str(self.port), *self._arguments], True
            else:  # it binds the port itself; whoever is quicker makes it fail, and it is started again
                argv, kept = [str(CONTAINER), str(self.record), str(self.port), *self._image.command], False
                environment = {**environment, "MLOPS_HOST": "127.0.0.1", "MLOPS_PORT": str(self.port)}
            self._child = subprocess.Popen(
                [sys.executable, "-P", *argv],
                cwd=environment["AML_APP_ROOT"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[descriptor] if kept else [],
                start_new_session=True,
            )
        self.pid = self._child.pid

    def adopt(self) -> bool:
        """Take over the process that an earlier daemon started; False where it is gone."""
        process = recorded(self.record)
        if process is None:
            kill_orphans(self.record)
            return False
        self.pid, self.port = process
        self._child = None
        self.started = time.monotonic()
        return True

    def alive(self) -> bool:
        """Whether the process runs."""
        if not self.pid:
            return False
        if self._child is not None:
            return self._child.poll() is None
        return is_scorer(self.pid, self.record)

    @property
    def ending(self) -> str:
        """How the process ended, for an event; a signal counts from 128 as in a container. Empty where unknown."""
        code = self._child.poll() if self._child is not None else None
        return "" if code is None else f" with exit code {code if code >= 0 else 128 - code}"

    async def probe(self, timeout_s: float) -> bool:
        """Ask ``GET /``, which the inference server answers once ``init`` has returned, or what the image names."""
        path = self._image.probe if self._image else "/"
        try:
            async with asyncio.timeout(timeout_s):
                reply = await exchange(self.port, "GET", path, [("User-Agent", "kube-probe/1.29")], b"")
        except (Unreachable, Broken, TimeoutError):
            return False
        return reply.status == 200

    async def become_ready(self, deadline_s: float, *, probe_s: float) -> bool:
        """Wait until the process answers; False when it has ended, or when the time is over."""
        limit = time.monotonic() + deadline_s
        while self.alive():
            remaining_s = limit - time.monotonic()
            if remaining_s <= 0:
                return False
            if await self.probe(min(remaining_s, probe_s)):
                self.healthy = True
                return True
            await asyncio.sleep(0.03)
        return False

    def kill(self) -> None:
        """End the process at once, as a crash would."""
        self.healthy = False
        if self.alive():
            kill_session(self.pid)

    async def stop(self, *, grace_s: float = 3.0) -> None:
        """Ask the process to end, and end it when it does not; nothing of its session is left."""
        self.healthy = False
        pid, self.pid = self.pid, 0
        child, self._child = self._child, None
        if not pid:
            return

        def runs() -> bool:
            return child.poll() is None if child is not None else is_scorer(pid, self.record)

        if runs():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGTERM)
            await _while(runs, grace_s)
        kill_session(pid)  # whoever is left of it
        await _while(runs, 5.0)
        self.record.unlink(missing_ok=True)


def kill_session(leader: int) -> None:
    """End every process of a session that we started, its leader gone or not."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


async def _while(runs: Callable[[], bool], timeout_s: float) -> None:
    limit = time.monotonic() + timeout_s
    while runs() and time.monotonic() < limit:
        await asyncio.sleep(0.02)


def recorded(record: Path) -> tuple[int, int] | None:
    """Process id and port of a record whose process still runs."""
    content = written(record)
    return content if content and is_scorer(content[0], record) else None


def written(record: Path) -> tuple[int, int] | None:
    """Process id and port of a record."""
    try:
        content = json.loads(record.read_text())
        return int(content["pid"]), int(content["port"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def kill_orphans(record: Path) -> None:
    """End what is left of a recorded process's session, its leader being gone.

    As long as a session has members its leader's id is given to no new process.
    """
    content = written(record)
    if content and not psutil.pid_exists(content[0]):
        kill_session(content[0])


def is_scorer(pid: int, record: Path) -> bool:
    """Whether a process id belongs to the process of that record."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and str(record) in process.cmdline()
    except psutil.Error:
        return False


def scorers(deployments: Path) -> list[tuple[psutil.Process, int]]:
    """Every process, master or worker, that serves something below a folder, with its parent's id."""
    processes = []
    for process in psutil.process_iter(["cmdline", "ppid", "status"]):
        line = process.info["cmdline"] or []
        serves = {str(LAUNCHER), str(CONTAINER)} & set(line) and any(
            Path(word).is_relative_to(deployments) for word in line
        )
        if serves and process.info["status"] != psutil.STATUS_ZOMBIE:
            processes.append((process, int(process.info["ppid"])))
    return processes
