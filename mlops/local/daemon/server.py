"""Puts the daemon together: the workspace, its parts, the TLS server and the proxy before it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn

from mlops.local.arm.app import ControlPlane
from mlops.local.daemon import certificates, services
from mlops.local.daemon.admin_api import AdminApi
from mlops.local.daemon.app import App
from mlops.local.daemon.catalogue import resource_types
from mlops.local.daemon.proxy import Proxy, Upstream
from mlops.local.daemon.seed import seed
from mlops.local.daemon.services import Lifecycle
from mlops.local.daemon.variables import Variables
from mlops.local.entra.credentials import Credentials
from mlops.local.state.layout import Layout
from mlops.local.state.workspace import Workspace

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 10.0


class _TlsServer(uvicorn.Server):
    """Without uvicorn's own signal handling: the daemon decides when to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


class Server:
    """Everything that runs in the daemon's process."""

    def __init__(
        self, layout: Layout, variables: Variables, upstream: Upstream, *, outer_bundle: str | None = None
    ) -> None:
        config = variables.config()
        self.workspace = Workspace.open(layout, config)
        self._variables = variables
        self._files = certificates.ensure(layout, config, outer_bundle=outer_bundle)
        self._upstream = upstream
        self._credentials = Credentials.load(layout, config)
        self._parts: dict[str, Lifecycle] = {}
        self._tasks: list[asyncio.Task[Any]] = []
        self.proxy_port = 0
        self.tls_port = 0

    async def start(self, *, proxy_port: int = 0) -> None:
        """Listen; the parts' own start goes on in the background."""
        workspace, variables = self.workspace, self._variables
        built = services.build(workspace, self._credentials, variables.limits(), parts=variables.wanted_parts())
        self._parts = built.parts
        workspace.operations.before = built.faults.before_operation
        if built.serving is not None:
            built.faults.crash = built.serving.crash
        control = ControlPlane(workspace, resource_types(built), built.subscription)
        seed(workspace, built.subscription, built.blobs, roles=variables.login_roles(), empty=variables.empty)
        app = App(built, control, AdminApi(built, self._credentials.admin_token))
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
        self._proxy = Proxy(workspace.accounts, self._upstream, self.tls_port)
        try:
            await self._proxy.start(proxy_port)
        except OSError:
            await self._proxy.start(0)  # the port of the daemon before this one is taken now
        self.proxy_port = self._proxy.port
        self._tasks.append(asyncio.create_task(self._start_parts()))

    async def _start_parts(self) -> None:
        async def start(name: str, part: Lifecycle) -> None:
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

        async def stop(name: str, part: Lifecycle) -> None:
            try:
                await asyncio.wait_for(part.stop(), STOP_TIMEOUT_S)
            except Exception:
                log.exception("part %s did not stop", name)

        await asyncio.gather(*(stop(name, part) for name, part in self._parts.items()))
        _, late = await asyncio.wait(self._tasks, timeout=5)
        for task in late:
            task.cancel()
        self.workspace.store.close()
