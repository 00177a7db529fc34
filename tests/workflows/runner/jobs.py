"""One job: its environment, its token, its steps, its outputs."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.workflows.runner import standins
from tests.workflows.runner.bridge import text
from tests.workflows.runner.commands import Log
from tests.workflows.runner.events import Event
from tests.workflows.runner.files import Job, Workflow, read_action
from tests.workflows.runner.record import JobRecord
from tests.workflows.runner.steps import Machine, Sequence
from tests.workflows.runner.world import NAME, OWNER, World, subject

TRACKING = "RUNNER_TRACKING_ID"


@dataclass
class JobRun:
    """Everything that one job of a run is made of."""

    world: World
    event: Event
    workflow: Workflow
    job: Job
    contexts: dict[str, Any]
    workflow_env: Mapping[str, str]
    folder: Path
    artifacts: Path
    record: JobRecord

    def run(self) -> None:
        """Run the steps; what came out stands in the record."""
        world, job, record = self.world, self.job, self.record
        start = time.monotonic()
        action_context = self._action_context()
        environment = self._environment()
        contexts = self.contexts
        contexts["vars"] = world.variables_of(record.environment, self.event)
        contexts["secrets"] = {**contexts["secrets"], "GITHUB_TOKEN": action_context.token}
        contexts["github"] = {
            **contexts["github"],
            "job": job.id,
            "workspace": str(action_context.workspace),
            "token": action_context.token,
            "event_path": str(self.folder / "event.json"),
        }
        contexts["runner"] = {
            "os": "Linux",
            "arch": "X64",
            "name": "runner",
            "environment": "github-hosted",
            "temp": str(action_context.scratch),
            "tool_cache": str(self.folder / "tools"),
            "workspace": str(action_context.workspace.parent),
        }
        for secret in contexts["secrets"].values():
            action_context.log.mask(secret)
        tracking = f"github_{uuid.uuid4()}"
        environ = {**self.world.environ, **self._process_environ(), **self._token(), TRACKING: tracking}
        limit = float(self._plain(job.timeout))
        defaults = {**self.workflow.defaults, **job.defaults}
        machine = Machine(
            bridge=world.bridge,
            context=action_context,
            environ=environ,
            defaults=self._plain(defaults),
            ends_at=time.monotonic() + limit * 60,
            local_action=lambda path: read_action(world.bridge, world.files_at(self.event.sha), path),
        )
        env = {**self.workflow_env, **{name: text(value) for name, value in self._plain(job.env).items()}}
        steps = Sequence(machine, contexts, env, records=record.steps)
        try:
            steps.run(job.steps)
        finally:
            end_processes(tracking)
        final_contexts = steps._known({})
        record.outputs = {
            name: action_context.log.hide(text(machine.resolve(value, final_contexts, failed=steps.failed)))
            for name, value in job.outputs.items()
        }
        if isinstance(environment, dict) and environment.get("url") is not None:
            record.url = text(machine.resolve(environment["url"], final_contexts, failed=steps.failed)) or None
        record.result = "cancelled" if machine.cancelled else "failure" if steps.failed else "success"
        record.seconds = time.monotonic() - start

    def _plain(self, node: Any) -> Any:
        return self.world.bridge.resolve(node, {**self.contexts, "env": dict(self.workflow_env)}, workspace=self.folder)

    def _action_context(self) -> standins.ActionContext:
        workspace = self.folder / NAME / NAME
        scratch = self.folder / "_temp"
        workspace.mkdir(parents=True)
        scratch.mkdir()
        return standins.ActionContext(
            workspace=workspace,
            scratch=scratch,
            artifacts=self.artifacts,
            repository=self.world.repository,
            sha=self.event.sha,
            token=f"ghs_{uuid.uuid4().hex}",
            log=Log(copy=self.folder / "log"),
        )

    def _environment(self) -> Any:
        """The GitHub environment: its name counts now, its url is known after the steps."""
        node = self.job.environment
        if node is None:
            return None
        if isinstance(node, str) or "${{" in node:
            self.record.environment, self.record.deployment = text(self._plain(node)), True
            return node
        self.record.environment = text(self._plain(node["name"]))
        self.record.deployment = bool(self._plain(node.get("deployment", True)))
        return node

    def _token(self) -> dict[str, str]:
        """The way to GitHub's token service, for jobs that may have it."""
        record = self.record
        record.may_ask_for_token = record.permissions.get("id-token") == "write" and not self.event.fork
        if not record.may_ask_for_token or self.world.identity is None:
            return {}
        claims = {
            "repository": f"{OWNER}/{NAME}",
            "ref": self.event.ref,
            "sha": self.event.sha,
            "event_name": self.event.name,
            "workflow": self.workflow.name,
            **({"environment": record.environment} if record.environment else {}),
        }
        return dict(self.world.identity(subject(self.event, record.environment), claims))

    def _process_environ(self) -> dict[str, str]:
        github = self.contexts["github"]
        left_out = ("event", "token", "secret_source")
        values = {f"GITHUB_{name.upper()}": text(value) for name, value in github.items() if name not in left_out}
        runner = {
            f"RUNNER_{name.upper()}": text(value)
            for name, value in self.contexts["runner"].items()
            if name != "workspace"
        }
        return {**values, **runner, "CI": "true", "GITHUB_ACTIONS": "true", "PWD": str(github["workspace"])}


def end_processes(tracking: str) -> None:
    """What a job leaves running ends with it, as on GitHub's machines."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(TRACKING) == tracking:
                below = process.children(recursive=True)  # a deployment's server has an environment of its own
                process.kill()
                for child in below:
                    with contextlib.suppress(psutil.Error):
                        child.kill()
