"""The tracking server of the workspace: a real MLflow server on loopback, found again or restarted by a new daemon."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import psutil

from mlops.local.jobs.locations import artifact_root
from mlops.local.jobs.mlflow_rest import TrackingError, TrackingServer
from mlops.local.jobs.runs import Runs
from mlops.local.state.ports import bindable
from mlops.local.state.private_files import read_json, write_private_json
from mlops.local.state.processes import alive, create_time, end
from mlops.local.state.workspace import Workspace

log = logging.getLogger(__name__)
WATCH_S = 1.0


class TrackingPart:
    """Starts the server in the background; :meth:`address` is known at once, :meth:`ready` waits for it."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.runs = Runs(workspace.store)
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._record = workspace.layout.mlflow / "server.json"
        self._lock = asyncio.Lock()
        self._watcher: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._healthy = False

    @property
    def url(self) -> str:
        """Address of the server and of its UI."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Find the server that a former daemon left, or start one."""
        await self.address()
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        """End the server."""
        if self._watcher:
            self._watcher.cancel()
        await self._end()

    async def address(self) -> str:
        """The server's url; starts it where it does not run, and does not wait for it."""
        async with self._lock:
            if not self._runs():
                before = read_json(self._record) or {}
                await self._end()  # one whose record was deleted still runs
                self.port = await reclaimed_port(int(before.get("port", 0)))
                self._spawn()
            return self.url

    async def ready(self, *, timeout_s: float = 60.0) -> str:
        """The url of a server that answers.

        Raises:
            TrackingError: it does not in time.
        """
        url = await self.address()
        if not self._healthy:
            self._healthy = await asyncio.to_thread(TrackingServer(url).wait, timeout_s)
        if not self._healthy:
            raise TrackingError(f"the tracking server at {url} does not answer; see its log")
        return url

    def page(self, run: str) -> str | None:
        """The page of a run in the server's UI; ends so that the ``&tid=…`` that the SDK appends does no harm."""
        identity = self.runs.mlflow_id(run)
        experiment = self.runs.private(run).get("experiment_id")
        return f"{self.url}/#/experiments/{experiment}/runs/{identity}?" if identity and experiment else None

    def end_soon(self, identity: str, status: str) -> None:
        """Close a run on the server, without waiting."""

        async def close() -> None:
            try:
                server = TrackingServer(await self.ready())
                await asyncio.to_thread(server.end_run, identity, status)
            except TrackingError as error:
                log.warning("closing run %s: %s", identity, error)

        task = asyncio.get_running_loop().create_task(close())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # -- the process -----------------------------------------------------------------------------------------------

    def _runs(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            self._process = None
        record = read_json(self._record)
        if not record or not alive(int(record["pid"]), float(record["created"])):
            return False
        self.port = int(record["port"])
        return True

    async def _end(self) -> None:
        pids = {self._process.pid} if self._process is not None and self._process.poll() is None else set()
        record = read_json(self._record)
        if record and alive(int(record["pid"]), float(record["created"])):
            pids.add(int(record["pid"]))
        for pid in pids:
            with contextlib.suppress(psutil.Error):
                await asyncio.to_thread(end, [psutil.Process(pid)], patience_s=4.0)

    def _spawn(self) -> None:
        self._healthy = False
        folder = self.workspace.layout.mlflow
        folder.mkdir(parents=True, exist_ok=True)
        self.workspace.layout.logs.mkdir(parents=True, exist_ok=True)
        checkout = str(Path(__file__).resolve().parents[3])
        variables = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        variables["PYTHONPATH"] = checkout
        artifacts = artifact_root(self.workspace.layout, self.workspace.config)
        command = [sys.executable, "-W", "ignore", "-m", "mlops.local.tracking.process"]
        with (self.workspace.layout.logs / "tracking.log").open("ab") as out:
            self._process = subprocess.Popen(
                [*command, str(folder), str(artifacts), str(self.port)],
                cwd=folder,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        pid = self._process.pid
        write_private_json(self._record, {"pid": pid, "created": create_time(pid), "port": self.port})

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            try:
                if not self._runs():
                    log.warning("the tracking server ended; starting it again")
                    await self.address()
            except Exception:
                log.exception("watching the tracking server")


async def reclaimed_port(preferred: int) -> int:
    """The port of the server before, as running jobs know it; another where that one stays taken.

    A server that was killed holds its port for a moment longer than it lives.
    """
    for _ in range(30 if preferred else 0):
        if bindable(preferred):
            return preferred
        await asyncio.sleep(0.1)
    return bindable(0)
