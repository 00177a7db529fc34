"""Puts the daemon together: the workspace, its parts, the TLS server and the proxy before it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from mlops.local.arm.app import ControlPlane
from mlops.local.arm.subscription import Subscription
from mlops.local.blob.service import BlobService
from mlops.local.blob.store import Blobs
from mlops.local.daemon import certificates
from mlops.local.daemon.admin_api import OwnRoutes
from mlops.local.daemon.app import App
from mlops.local.daemon.faults import Faults
from mlops.local.daemon.proxy import Proxy, Upstream
from mlops.local.daemon.seed import begin
from mlops.local.entra.credentials import Credentials
from mlops.local.entra.identity import Identity
from mlops.local.jobs.part import JobsPart
from mlops.local.registry.part import RegistryPart
from mlops.local.serving import part as serving
from mlops.local.state.config import Config
from mlops.local.state.layout import Layout
from mlops.local.state.workspace import Part, Workspace
from mlops.local.tracking.part import TrackingPart

log = logging.getLogger(__name__)

PARTS: dict[str, Callable[[Workspace], Part]] = {
    "registry": RegistryPart,
    "tracking": TrackingPart,
    "jobs": JobsPart,
    "serving": serving.install,
}
STOP_TIMEOUT_S = 10.0


class _TlsServer(uvicorn.Server):
    """Without uvicorn's own signal handling: the daemon decides when to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


class Server:
    """Everything that runs in the daemon's process."""

    def __init__(self, layout: Layout, config: Config, upstream: Upstream, *, outer_bundle: str | None = None) -> None:
        self.workspace = Workspace.open(layout, config)
        self._files = certificates.ensure(layout, config, outer_bundle=outer_bundle)
        self._upstream = upstream
        self._credentials = Credentials.load(layout, config)
        self._parts: dict[str, Part] = {}
        self._tasks: list[asyncio.Task[Any]] = []
        self.proxy_port = 0
        self.tls_port = 0

    async def start(self, *, proxy_port: int = 0) -> None:
        """Listen; the parts' own start goes on in the background."""
        workspace = self.workspace
        subscription = Subscription(workspace, self._credentials.object_id)
        workspace.services["subscription"] = subscription
        workspace.services["access"] = subscription.access
        identity = Identity(workspace.layout, workspace.config, self._credentials, subscription.principals)
        workspace.services["identity"] = identity
        blobs = Blobs(workspace.layout, workspace.config, workspace.store, self._credentials.account_key)
        workspace.services["blobs"] = blobs
        faults = Faults(workspace.layout.root / "faults.json")
        workspace.services["faults"] = faults
        workspace.operations.before = faults.before_operation
        self._install()
        if "serving" in self._parts:
            faults.crash = workspace.services["serving"].crash
        begin(workspace, subscription)
        types = [*subscription.types, *(kind for part in self._parts.values() for kind in part.types)]
        own = OwnRoutes(workspace, identity, faults, self._credentials.admin_token)
        app = App(
            workspace, ControlPlane(workspace, types), identity, BlobService(blobs, identity, subscription.access), own
        )
        listening = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.tls_port = listening.getsockname()[1]
        self._uvicorn = _TlsServer(
            uvicorn.Config(
                app,
                ssl_certfile=self._files.leaf,
                ssl_keyfile=str(self._files.leaf_key),
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=120,
                timeout_graceful_shutdown=3,
            )
        )
        self._tasks.append(asyncio.create_task(self._uvicorn.serve([listening])))
        self._proxy = Proxy(workspace.config, self._upstream, self.tls_port)
        try:
            await self._proxy.start(proxy_port)
        except OSError:
            await self._proxy.start(0)  # the port of the daemon before this one is taken now
        self.proxy_port = self._proxy.port
        self._tasks.append(asyncio.create_task(self._start_parts()))

    def _install(self) -> None:
        wanted = os.environ.get("MLOPS_LOCAL_PARTS", ",".join(PARTS)).split(",")
        for name, install in PARTS.items():
            if name in wanted:  # tests of the rest need no tracking server
                self._parts[name] = self.workspace.services[name] = install(self.workspace)

    async def _start_parts(self) -> None:
        async def start(name: str, part: Part) -> None:
            try:
                await part.start()
            except Exception:
                log.exception("part %s did not start", name)

        await asyncio.gather(*(start(name, part) for name, part in self._parts.items()))
        self.workspace.operations.resume()

    async def stop(self) -> None:
        """Stop listening, then the parts with their processes."""
        await self._proxy.stop()
        self._uvicorn.should_exit = True

        async def stop(name: str, part: Part) -> None:
            try:
                await asyncio.wait_for(part.stop(), STOP_TIMEOUT_S)
            except Exception:
                log.exception("part %s did not stop", name)

        await asyncio.gather(*(stop(name, part) for name, part in self._parts.items()))
        _, late = await asyncio.wait(self._tasks, timeout=5)
        for task in late:
            task.cancel()
        self.workspace.store.close()
