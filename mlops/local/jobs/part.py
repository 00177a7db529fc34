"""The daemon's side of jobs: takes them, starts their processes, notices when one dies, cancels, deletes."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from mlops.local.jobs.components import Components
from mlops.local.jobs.errors import lost
from mlops.local.jobs.locations import Locations, Unresolved
from mlops.local.jobs.plan import Plan, Planner
from mlops.local.jobs.runs import TERMINAL, Runs, new_run
from mlops.local.registry.part import RegistryPart
from mlops.local.registry.standin import StandInFailed
from mlops.local.state.processes import alive
from mlops.local.state.store import Document
from mlops.local.state.workspace import Workspace

log = logging.getLogger(__name__)
WATCH_S = 0.5
STOP_S = 6.0


class Tracking(Protocol):
    """What jobs need of the tracking server."""

    async def address(self) -> str:
        """The server's url."""

    def end_soon(self, identity: str, status: str) -> None:
        """Close a run on the server, without waiting."""


class JobsPart:
    """Jobs of one workspace."""

    def __init__(self, workspace: Workspace, registry: RegistryPart, tracking: Tracking | None) -> None:
        self.workspace = workspace
        self._registry = registry
        self._tracking = tracking
        self.runs = Runs(workspace.store)
        self.components = Components(workspace.store, workspace.config)
        self.locations = Locations(workspace.layout, workspace.config, workspace.accounts, workspace.store, self.runs)
        self.planner = Planner(
            self.components,
            workspace_id=workspace.config.workspace_id,
            registry_id=workspace.config.registry_id,
        )
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._watcher: asyncio.Task[None] | None = None
        workspace.operations.register("job-cancel", self._cancel)
        workspace.operations.register("job-delete", self._delete)

    # -- what other parts ask --------------------------------------------------------------------------------------

    def model_folder(self, identity: str) -> Path:
        """The folder (or file) behind a model's ARM id, ``azureml:…`` id or uri.

        May wait for the base model to be built: call it in a thread.

        Raises:
            Unresolved: there is none.
        """
        path = self.locations.path(identity)
        registry = self._registry
        if not path.exists() and registry.container in path.parents:
            try:
                registry.standin.ensure(publish=registry.container)
            except StandInFailed as error:
                raise Unresolved(str(error)) from error
        return path

    def code_folder(self, identity: str) -> Path:
        """The folder of a code version.

        Raises:
            Unresolved: there is none.
        """
        return self.locations.path(identity)

    # -- life ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Go on with the jobs of the daemon before."""
        for body in self.runs.unfinished():
            name = body["runId"]
            if self.lives(name):
                continue
            if body["status"] == "NotStarted" and (self.folder(name) / "plan.json").exists():
                await self.launch(name)
            else:
                self._bury(name, "Canceled" if (self.folder(name) / "cancel").exists() else "Failed")
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        """End every job's process; what had not ended is canceled."""
        if self._watcher:
            self._watcher.cancel()
        unfinished = [body["runId"] for body in self.runs.unfinished()]
        for name in unfinished:
            self._signal(name, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                while any(self.lives(name) for name in unfinished):
                    await asyncio.sleep(0.05)
        for name in unfinished:
            self._signal(name, signal.SIGKILL)
            self._bury(name, "Canceled")

    def folder(self, name: str) -> Path:
        """The working folder of a job."""
        return self.workspace.layout.jobs / name

    def lives(self, name: str) -> bool:
        """Whether the process of a job runs: it holds a lock."""
        process = self._processes.get(name)
        if process is not None:
            if process.poll() is None:
                return True
            del self._processes[name]
        try:
            with (self.folder(name) / "lock").open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def submit(self, name: str, plan: Plan, properties: Document, *, kind: str, caller: str) -> None:
        """Write a job's runs and files; :meth:`launch` begins it."""
        folder = self.folder(name)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_beside(folder / "plan.json", plan.json())
        common: dict[str, Any] = {"root": name, "experiment": plan.experiment, "caller": caller}
        job = new_run(
            name=name,
            parent=None,
            display_name=plan.display_name,
            kind=kind,
            description=properties.get("description"),
            tags=properties.get("tags"),
            properties=properties.get("properties"),
            compute=plan.steps[0].compute if kind == "azureml.scriptrun" else None,
            **common,
        )
        job["outputs"] = {
            "default": self._asset(name, "default", "uri_folder"),
            **{key: self._asset(name, key, spec["type"]) for key, spec in plan.outputs.items()},
        }
        with self.workspace.store.transaction():
            self.runs.add(job, private={"outputs": plan.outputs})
            if kind == "azureml.scriptrun":
                return
            for group in plan.groups:
                self.runs.add(
                    new_run(
                        name=group.run,
                        parent=group.parent,
                        display_name=group.display_name,
                        kind="azureml.PipelineRun",
                        properties={"azureml.moduleid": group.component, "azureml.nodeid": group.path},
                        **common,
                    )
                )
            for step in plan.steps:
                run = new_run(
                    name=step.run,
                    parent=step.parent,
                    display_name=step.display_name,
                    kind="azureml.StepRun",
                    properties={"azureml.moduleid": step.component, "azureml.nodeid": step.path},
                    compute=step.compute,
                    **common,
                )
                run["outputs"] = {
                    "default": self._asset(step.run, "default", "uri_folder"),
                    **{key: self._asset(step.run, key, spec["type"]) for key, spec in step.outputs.items()},
                }
                self.runs.add(run, private={"outputs": step.outputs})

    def _asset(self, run: str, output: str, kind: str) -> Document:
        config = self.workspace.config
        # The service says UriFolder, which the SDK (1.35.2) passes over, and MLFlowModel, on which it fails: it knows
        # the names of the control plane. With those, ``jobs.download(all=True)`` finds every output.
        shape = kind if kind in ("uri_file", "mltable") else "uri_folder"
        where = f"azureml://locations/{config.region}/workspaces/{config.workspace_guid}"
        return {"assetId": f"{where}/data/azureml_{run}_output_data_{output}/versions/1", "type": shape}

    async def launch(self, name: str) -> None:
        """Start the process of a job."""
        workspace = self.workspace
        if self._tracking is None:
            raise RuntimeError("jobs are not run without the tracking server, which MLOPS_LOCAL_PARTS leaves out")
        url = await self._tracking.address()
        submission = {
            "config": asdict(workspace.config),
            "accounts": workspace.accounts.names,
            "tracking_url": url,
        }
        write_beside(self.folder(name) / "submission.json", submission)
        layout = workspace.layout
        command = [sys.executable, "-m", "mlops.local.jobs.runner", str(layout.root), str(layout.cache), name]
        checkout = str(Path(__file__).resolve().parents[3])
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPATH"] = checkout
        with (self.folder(name) / "runner.out").open("ab") as out:
            self._processes[name] = subprocess.Popen(
                command,
                env=environment,
                cwd=checkout,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    async def _watch(self) -> None:
        suspects: dict[str, int] = {}
        while True:
            await asyncio.sleep(WATCH_S)
            try:
                for body in self.runs.unfinished():
                    name = body["runId"]
                    if self.lives(name) or not (self.folder(name) / "submission.json").exists():
                        suspects.pop(name, None)
                        continue
                    suspects[name] = suspects.get(name, 0) + 1
                    if suspects[name] > 1:  # twice: its last word may have been on the way
                        self._bury(name, "Canceled" if (self.folder(name) / "cancel").exists() else "Failed")
            except Exception:
                log.exception("watching jobs")

    def _bury(self, name: str, status: str) -> None:
        """Close a job whose process is gone."""
        error = lost(self.workspace.config.region) if status == "Failed" else None
        for body in reversed(self.runs.family(name)):
            if body["status"] in TERMINAL:
                continue
            for process in self.runs.private(body["runId"]).get("processes", []):
                end_group(process["pid"], process["created"])
            begun = body["status"] not in ("NotStarted", "Queued") or body["runId"] == name
            self.runs.move(body["runId"], status if begun else "Canceled", error=error if begun else None)
            self._close_tracking(body["runId"], status)

    def _close_tracking(self, run: str, status: str) -> None:
        identity = self.runs.mlflow_id(run)
        if identity and self._tracking is not None:
            self._tracking.end_soon(identity, "FAILED" if status == "Failed" else "KILLED")

    def _signal(self, name: str, number: signal.Signals) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self.lives(name):
                os.kill(int((self.folder(name) / "lock").read_text()), number)

    def request_cancel(self, name: str) -> None:
        """Leave word for a job's process to stop."""
        (self.folder(name) / "cancel").touch()
        self.runs.move(name, "CancelRequested")

    async def forget_all(self) -> None:
        """End every job and forget that there were any: the workspace is deleted."""
        for body in self.runs.unfinished():
            self._signal(body["runId"], signal.SIGKILL)
            self._bury(body["runId"], "Canceled")
        self.runs.clear()
        await asyncio.to_thread(shutil.rmtree, self.workspace.layout.jobs, True)

    # -- operations ------------------------------------------------------------------------------------------------

    async def _cancel(self, resource: str, arguments: dict[str, Any]) -> None:
        del arguments
        name = resource.rsplit("/", 1)[1]
        with contextlib.suppress(OSError):
            self.request_cancel(name)
        while True:
            body = self.runs.get(name)
            if body is None or body["status"] in TERMINAL:
                return
            await asyncio.sleep(0.05)

    async def _delete(self, resource: str, arguments: dict[str, Any]) -> None:
        del arguments
        name = resource.rsplit("/", 1)[1]
        self.workspace.store.delete(resource)
        self.runs.delete(name)
        await asyncio.to_thread(shutil.rmtree, self.folder(name), True)


def end_group(pid: int, created: float) -> None:
    """Kill a step's processes that outlived the process of their job."""
    with contextlib.suppress(OSError):
        if alive(pid, created):
            os.killpg(pid, signal.SIGKILL)


def write_beside(path: Path, document: Document) -> None:
    """A JSON file, whole or not at all."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    beside.write_text(json.dumps(document))
    beside.replace(path)
