"""Every deployment that runs: its processes, who watches them, and how one set of them takes over from another."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import sys
import time
import uuid
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Protocol

import psutil

from mlops.local.serving.image import PACKAGES, Image, NoPackages, image_of
from mlops.local.serving.process import Instance, scorers
from mlops.local.serving.spec import Files, Spec, lay_out
from mlops.local.state.limits import Limits
from mlops.local.state.operations import OperationFailed, now
from mlops.local.state.store import Document
from mlops.local.state.workspace import Workspace

log = logging.getLogger(__name__)

START_ATTEMPTS = 2
"""Starts of a container before a deployment is given up; Kubernetes goes on for as long as the probes allow."""
WATCH_S = 0.2
BACK_OFF_S = (0.0, 1.0, 2.0, 4.0, 8.0)
HELP = "Please see troubleshooting guide, available here: https://aka.ms/oe-tsg#error-resourcenotready"


class Running:
    """One generation of a deployment: the processes that were started from one state of its document."""

    def __init__(self, spec: Spec, folder: Path, instances: list[Instance], *, patience_s: float) -> None:
        self.spec = spec
        self.patience_s = patience_s
        """Longest wait for a process to become ready."""
        self.folder = folder
        self.instances = instances
        self.in_flight = 0
        self.restarts = 0
        self.stopping = False
        self.hurry = False
        """The daemon stops: requests in flight are not waited for."""
        self.asleep = False
        """Deployed, but not started before the first request comes (see :attr:`Limits.lazy`)."""
        self.waking = asyncio.Lock()
        self.watcher: asyncio.Task[None] | None = None
        self.alarm = asyncio.Event()
        """Set by whoever notices that a process is gone, so that it is replaced at once."""

    def pick(self) -> Instance | None:
        """The healthy instance with the fewest requests."""
        healthy = [instance for instance in self.instances if instance.healthy]
        return min(healthy, key=lambda instance: instance.in_flight, default=None)

    def event(self, name: str, message: str, *, kind: str = "Normal") -> None:
        """Write down what a cluster would report of the container."""
        with (
            contextlib.suppress(FileNotFoundError),  # deleted while it starts
            (self.folder / "events.log").open("a", encoding="utf-8") as file,
        ):
            file.write(f"Kind: Pod, Name: {name}, Type: {kind}, Time: {now()}, Message: {message}\n")

    async def drained(self, limit_s: float) -> None:
        """Wait for the requests in flight, not longer than that."""
        limit = time.monotonic() + limit_s
        while self.in_flight and not self.hurry and time.monotonic() < limit:
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """End the watcher and the processes."""
        self.stopping = True
        if self.watcher is not None:
            self.watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.watcher
        await asyncio.gather(*(instance.stop() for instance in self.instances))


class Assets(Protocol):
    """Finds the files of what a deployment names; raises LookupError where there are none."""

    def model_folder(self, identity: str) -> Path:
        """The folder (or file) of a model."""

    def code_folder(self, identity: str) -> Path:
        """The folder of a code version."""


class Fleet:
    """The running deployments of a workspace, by lower-case resource id."""

    def __init__(self, workspace: Workspace, limits: Limits, assets: Assets) -> None:
        self._workspace = workspace
        self._assets = assets
        self._limits = limits
        self.running: dict[str, Running] = {}
        self.counts: dict[str, Counter[int]] = {}
        """Answers by status and deployment, since the daemon's start."""
        self._folders: set[Path] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting: set[Running] = set()
        self._leaving: set[Running] = set()
        self._closing = False

    def root(self, spec_or_id: Spec | str) -> Path:
        """The folder of a deployment, whatever the generation."""
        segments = (spec_or_id.resource_id if isinstance(spec_or_id, Spec) else spec_or_id).lower().split("/")
        return self._workspace.layout.deployments / segments[-3] / segments[-1]

    # -- life ------------------------------------------------------------------------------------------------------

    async def deploy(self, spec: Spec, document: Document) -> None:
        """Start a generation, and let it take over once it answers; the one before goes when its requests are done.

        Args:
            spec: how to run it.
            document: what it was made from, kept for a daemon that has to start it again.

        Raises:
            OperationFailed: the container does not come up. What ran before goes on running.
        """
        key = spec.resource_id.lower()
        generation = uuid.uuid4().hex[:12]
        running = await self._prepare(spec, self.root(spec) / generation)
        self._workspace.store.update_private(spec.resource_id, latest=generation)
        if self._limits.lazy:
            running.asleep = True
        else:
            await self._bring_up_all(running)
        before = self.running.get(key)
        self._workspace.store.update_private(spec.resource_id, generation=generation, served=document)
        self.running[key] = running
        if not running.asleep:
            self._watch(running)
        if before is not None:
            self._later(self._replace(before))
        await asyncio.to_thread(self._tidy, self.root(spec), {generation, before.folder.name if before else ""})

    async def wake(self, running: Running) -> None:
        """Start what was left asleep; raises OperationFailed as :meth:`deploy` does."""
        async with running.waking:
            if running.asleep and not running.stopping:
                await self._bring_up_all(running)
                running.asleep = False
                self._watch(running)

    async def retire(self, resource_id: str) -> None:
        """Take a deployment out of service: no new requests, those in flight finish, nothing is left on disk."""
        key = resource_id.lower()
        for starting in [one for one in self._starting if one.spec.resource_id.lower() == key]:
            await starting.stop()
            while starting in self._starting:
                await asyncio.sleep(0.01)
        running = self.running.pop(key, None)
        if running is not None:
            await self._let_go(running)
        self.counts.pop(resource_id.lower(), None)
        await asyncio.to_thread(shutil.rmtree, self.root(resource_id), ignore_errors=True)

    def adopt(self, spec: Spec, generation: str) -> None:
        """After a daemon's restart: take over the processes of a generation, or start them again, in the background."""
        self._folders.add(self.root(spec) / generation)  # at once, so that a sweep leaves its processes alone
        self._later(self._adopt(spec, generation))

    async def stop(self) -> None:
        """End every process, also those that nobody remembers."""
        self._closing = True
        for running in self._leaving:
            running.hurry = True
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(running.stop() for running in {*self.running.values(), *self._starting}))
        self.running.clear()
        self._folders.clear()
        await self.sweep()

    async def sweep(self) -> None:
        """End scoring processes that belong to nothing we know: of a daemon that died, of a master that was killed."""
        await asyncio.gather(*self._tasks, return_exceptions=True)  # adoptions
        scoring = await asyncio.to_thread(scorers, self._workspace.layout.deployments)
        known = {
            instance.pid
            for running in (*self.running.values(), *self._starting, *self._leaving)
            for instance in running.instances
        }
        for process, parent in scoring:
            if process.pid not in known and parent not in known:
                with contextlib.suppress(psutil.Error):
                    process.kill()

    # -- inside ----------------------------------------------------------------------------------------------------

    async def _prepare(self, spec: Spec, folder: Path) -> Running:
        assets = self._assets
        self._folders.add(folder)

        def files() -> tuple[Files, Image | None]:
            image = image_of(self._workspace.store.get(spec.image or ""), assets.code_folder)
            prefix = PACKAGES if image else Path(sys.prefix)
            sources = {"model_folder": assets.model_folder, "code_folder": assets.code_folder}
            return lay_out(spec, folder, **sources, prefix=prefix), image

        try:
            laid, image = await asyncio.to_thread(files)
        except NoPackages as error:
            raise OperationFailed("ImageNotFound", str(error)) from error
        except (OSError, LookupError, ValueError) as error:
            raise OperationFailed(
                "ResourceNotFound", f"The deployment's model or code could not be downloaded: {error}"
            ) from error
        arguments = [
            "--entry_script",
            str(laid.app_root / laid.script),
            "--model_dir",
            laid.environment["AZUREML_MODEL_DIR"],
        ]
        count = max(1, min(spec.instances, self._limits.instance_processes))
        instances = [
            Instance(folder, index, arguments=arguments, environment=laid.environment, image=image)
            for index in range(count)
        ]
        # An engine takes longer to start than a script may: for as long as its probes say.
        start_s = spec.readiness.patience_s if image else self._limits.start_timeout_s
        return Running(spec, folder, instances, patience_s=min(spec.readiness.patience_s, start_s))

    async def _bring_up_all(self, running: Running) -> None:
        """Start a generation; where that fails nothing of it runs on, and its logs stay."""
        self._starting.add(running)
        try:
            await self._start(running)
        except BaseException:
            await running.stop()
            self._folders.discard(running.folder)
            raise
        finally:
            self._starting.discard(running)

    async def _start(self, running: Running) -> None:
        """Start all instances and wait for them; raises what Azure reports when one does not come up."""
        running.event("Pulling", "Start pulling container image")
        running.event("Downloading", "Start downloading models")
        running.event("Pulled", "Container image is pulled successfully")
        running.event("Downloaded", "Models are downloaded successfully or no model need to download")
        outcomes = await asyncio.gather(*(self._bring_up(running, instance) for instance in running.instances))
        for outcome in outcomes:
            if outcome:
                raise OperationFailed("ResourceNotReady", f"{outcome} {HELP}")

    async def _bring_up(self, running: Running, instance: Instance) -> str | None:
        for attempt in range(START_ATTEMPTS):
            running.event("Created", "Created container inference-server")
            instance.start()
            running.event("Started", "Started container inference-server")
            if await instance.become_ready(running.patience_s, probe_s=max(running.spec.readiness.timeout_s, 2)):
                running.event("ContainerReady", "Container is ready")
                return None
            if self._closing:
                raise asyncio.CancelledError  # the next daemon takes the operation up again
            if running.stopping:
                raise OperationFailed("OperationCanceled", "The deployment was deleted while it was being started.")
            if instance.alive():
                running.event("ReadinessProbeFailed", "Readiness probe failed", kind="Warning")
                return f"User container was not ready within {running.patience_s:g} seconds (readiness probe failing)."
            running.event("ContainerCrashed", f"Container terminated{instance.ending}", kind="Warning")
            if attempt + 1 < START_ATTEMPTS:
                running.event("BackOff", "Back-off restarting failed container", kind="Warning")
        return "User container has crashed or terminated."

    async def _adopt(self, spec: Spec, generation: str) -> None:
        key = spec.resource_id.lower()
        folder = self.root(spec) / generation
        try:
            running = await self._prepare(spec, folder)
        except OperationFailed as error:
            log.warning("deployment '%s' cannot be started again: %s", spec.resource_id, error)
            return
        if key in self.running:  # an operation that was resumed has been quicker
            return
        adopted = [instance.adopt() for instance in running.instances]
        self.running[key] = running
        if self._limits.lazy and not any(adopted):
            running.asleep = True
        else:
            self._watch(running)

    def _watch(self, running: Running) -> None:
        running.watcher = asyncio.get_running_loop().create_task(self._watching(running))

    async def _watching(self, running: Running) -> None:
        """Restart what died, with a growing pause, and what fails its liveness probe."""
        await asyncio.gather(*(self._watch_one(running, instance) for instance in running.instances))

    async def _watch_one(self, running: Running, instance: Instance) -> None:
        liveness, readiness = running.spec.liveness, running.spec.readiness
        crashes = missed = 0
        probed = time.monotonic()
        while not running.stopping:
            if not instance.alive():
                instance.healthy = False
                if instance.started:
                    running.event("ContainerCrashed", f"Container terminated{instance.ending}", kind="Warning")
                    running.event("BackOff", "Back-off restarting failed container", kind="Warning")
                    running.restarts += 1
                if time.monotonic() - instance.started > 60:
                    crashes = 0
                await asyncio.sleep(BACK_OFF_S[min(crashes, len(BACK_OFF_S) - 1)])
                crashes += 1
                await instance.stop()
                instance.start()
                running.event("Started", "Started container inference-server")
            if not instance.healthy:
                await instance.become_ready(running.patience_s, probe_s=max(readiness.timeout_s, 2))
                missed, probed = 0, time.monotonic()
                if not instance.healthy and instance.alive():
                    running.event("ReadinessProbeFailed", "Readiness probe failed", kind="Warning")
                    await instance.stop()
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WATCH_S):
                    await running.alarm.wait()
            running.alarm.clear()
            if time.monotonic() - probed >= liveness.period_s and instance.alive():
                probed = time.monotonic()
                missed = 0 if await instance.probe(liveness.timeout_s) else missed + 1
                if missed >= liveness.failures:
                    running.event("LivenessProbeFailed", "Liveness probe failed", kind="Warning")
                    await instance.stop()

    async def _let_go(self, running: Running) -> None:
        self._leaving.add(running)
        try:
            await running.drained(self._limits.drain_s)
            await running.stop()
        finally:
            self._leaving.discard(running)
            self._folders.discard(running.folder)

    async def _replace(self, before: Running) -> None:
        await self._let_go(before)
        await asyncio.to_thread(shutil.rmtree, before.folder, ignore_errors=True)

    def _tidy(self, root: Path, keep: set[str]) -> None:
        for folder in root.iterdir():
            if folder.name not in keep and folder not in self._folders:
                shutil.rmtree(folder, ignore_errors=True)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
