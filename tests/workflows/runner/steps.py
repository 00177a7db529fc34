"""A job's steps, one after another, as GitHub's runner goes through them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.workflows.runner import shell, standins
from tests.workflows.runner.bridge import Bridge, text
from tests.workflows.runner.commands import Log, read_pairs
from tests.workflows.runner.files import Action, Invalid, Step, Unknown
from tests.workflows.runner.record import StepRecord

LOCAL = ("./", "$/")
FILES = ("GITHUB_ENV", "GITHUB_OUTPUT", "GITHUB_PATH", "GITHUB_STEP_SUMMARY", "GITHUB_STATE")
MAY_NOT_SET = ("GITHUB_", "RUNNER_", "NODE_OPTIONS")
SUMMARY_LIMIT = 1024 * 1024
"""Bytes of a step's summary that GitHub keeps; more is an error there and nothing is shown."""


@dataclass
class Machine:
    """The machine of one job: what its steps leave for those after them."""

    bridge: Bridge
    context: standins.ActionContext
    environ: dict[str, str]
    defaults: Mapping[str, Any]
    ends_at: float
    local_action: Callable[[str], Action]
    env: dict[str, str] = field(default_factory=dict)
    failed: bool = False
    cancelled: bool = False

    @property
    def log(self) -> Log:
        """The job's log."""
        return self.context.log

    def resolve(self, node: Any, contexts: Mapping[str, Any], *, failed: bool) -> Any:
        """Expressions of a step."""
        status = {
            "success": not failed and not self.cancelled,
            "failure": failed and not self.cancelled,
            "cancelled": self.cancelled,
            "always": True,
        }
        return self.bridge.resolve(node, contexts, status=status, workspace=self.context.workspace)


@dataclass
class Sequence:
    """The steps of a job, or of a composite action within it."""

    machine: Machine
    contexts: dict[str, Any]
    env: dict[str, str]
    in_action: bool = False
    failed: bool = False
    records: list[StepRecord] = field(default_factory=list)

    def run(self, steps: tuple[Step, ...]) -> None:
        """Run all that their conditions let run."""
        self.contexts["steps"] = {}
        for step in steps:
            record = StepRecord(name="", id=step.id)
            self.records.append(record)
            start = time.monotonic()
            self._step(step, record)
            record.seconds = time.monotonic() - start
            if step.id:
                self.contexts["steps"][step.id] = {
                    "outputs": record.outputs,
                    "outcome": record.outcome,
                    "conclusion": record.conclusion,
                }

    def _known(self, env: Mapping[str, str]) -> dict[str, Any]:
        status = "cancelled" if self.machine.cancelled else "failure" if self.failed else "success"
        return {**self.contexts, "env": {**self.env, **self.machine.env, **env}, "job": {"status": status}}

    def _step(self, step: Step, record: StepRecord) -> None:
        machine = self.machine

        def value(node: Any, **env: str) -> Any:
            return machine.resolve(node, self._known(env), failed=self.failed)

        def strings(node: Mapping[str, Any], **env: str) -> dict[str, str]:
            return {name: text(each) for name, each in value(dict(node), **env).items()}

        env = strings(step.env)
        record.name = text(value(step.name, **env)) or step.uses or str(step.run).partition("\n")[0]
        if not value(step.condition, **env):
            return
        machine.log.reset()
        machine.context.outputs, machine.context.paths = {}, []
        limit = value(step.timeout, **env)
        remaining_s = min(machine.ends_at - time.monotonic(), float(limit) * 60 if limit is not None else 1e9)
        forgiven = bool(value(step.continue_on_error, **env))
        try:
            if step.uses:
                inputs = strings(step.inputs, **env)
                succeeded = self._uses(step, inputs, env, record)
            else:
                succeeded = self._run(step, value, env, record, remaining_s)
        except shell.TimedOut:
            succeeded = False
            machine.log.lines.append("Error: The operation was canceled, it took too long.")
            machine.cancelled = time.monotonic() >= machine.ends_at
        record.outcome = "success" if succeeded else "cancelled" if machine.cancelled else "failure"
        record.conclusion = "success" if forgiven and not succeeded else record.outcome
        self.failed = self.failed or record.conclusion != "success"
        if not record.inner:
            record.log = "".join(f"{line}\n" for line in machine.log.lines)
            record.annotations = list(machine.log.annotations)

    def _run(self, step: Step, value: Any, env: dict[str, str], record: StepRecord, remaining_s: float) -> bool:
        machine = self.machine
        kind = value(step.shell, **env) if step.shell is not None else machine.defaults.get("shell", "")
        if self.in_action and step.shell is None:
            raise Invalid(f"{step.where}: a run step of an action needs a shell")
        folder = value(step.folder if step.folder is not None else machine.defaults.get("working-directory", "."))
        scratch = machine.context.scratch / f"step-{time.monotonic_ns()}"
        scratch.mkdir()
        files = {name: scratch / name.lower() for name in FILES}
        for file in files.values():
            file.touch()
        environ = {**machine.environ, **self.env, **machine.env, **env, **{n: str(p) for n, p in files.items()}}
        script = text(value(step.run, **env))
        try:
            record.code = shell.run(
                script,
                shell=kind,
                folder=machine.context.workspace / folder,
                environ=environ,
                scratch=scratch,
                log=machine.log,
                timeout_s=max(remaining_s, 0.1),
            )
        finally:
            self._take(files, record)
        if record.code:
            machine.log.lines.append(f"Error: Process completed with exit code {record.code}.")
        return record.code == 0

    def _take(self, files: Mapping[str, Path], record: StepRecord) -> None:
        machine = self.machine
        for name, value in read_pairs(files["GITHUB_ENV"]).items():
            if name.startswith(MAY_NOT_SET):
                raise Invalid(f"GITHUB_ENV may not set '{name}'")
            machine.env[name] = value
        record.outputs |= read_pairs(files["GITHUB_OUTPUT"])
        read_pairs(files["GITHUB_STATE"])
        for line in files["GITHUB_PATH"].read_text(encoding="utf-8").splitlines():
            self._path(line)
        summary = files["GITHUB_STEP_SUMMARY"].read_text(encoding="utf-8")
        if len(summary.encode()) > SUMMARY_LIMIT:
            raise Invalid(f"a summary of more than {SUMMARY_LIMIT} bytes is not shown")
        record.summary = machine.log.hide(summary)

    def _path(self, folder: str) -> None:
        self.machine.environ["PATH"] = f"{folder}:{self.machine.environ['PATH']}"

    def _uses(self, step: Step, inputs: dict[str, str], env: dict[str, str], record: StepRecord) -> bool:
        machine = self.machine
        if step.uses.startswith(LOCAL):
            return self._composite(step, inputs, env, record)
        if step.uses.startswith("docker://"):
            raise Unknown(f"{step.where}: the runner does not know container actions")
        succeeded = standins.play(step.uses, inputs, machine.context)
        record.outputs |= machine.context.outputs
        for folder in machine.context.paths:
            self._path(folder)
        return succeeded

    def _composite(self, step: Step, inputs: dict[str, str], env: dict[str, str], record: StepRecord) -> bool:
        machine = self.machine
        folder = step.uses[2:]
        if step.uses.startswith("./") and not (machine.context.workspace / folder).is_dir():
            return machine.context.fails(f"Can't find 'action.yml' under '{folder}'. Did you forget to run checkout?")
        action = machine.local_action(folder)
        for name in inputs:
            if name not in action.inputs:
                raise Invalid(f"{step.where}: unexpected input '{name}' of {folder}")
        contexts = {name: each for name, each in self.contexts.items() if name not in ("secrets", "vars", "needs")}
        contexts["github"] = {**contexts["github"], "action_path": str(machine.context.workspace / folder)}
        action_inputs: dict[str, str] = {}
        for name, entry in action.inputs.items():
            if entry.get("required") and name not in inputs:
                raise Invalid(f"{step.where}: the input '{name}' of {folder} is required")
            default = machine.resolve(entry.get("default"), contexts, failed=False)
            action_inputs[name] = inputs.get(name, text(default))
        inner = Sequence(machine, {**contexts, "inputs": action_inputs}, {**self.env, **env}, in_action=True)
        inner.run(action.steps)
        record.inner = inner.records
        record.log = "".join(f"-- {each.name} [{each.outcome}]\n{each.log}" for each in inner.records)
        record.annotations = [each for part in inner.records for each in part.annotations]
        record.summary = "".join(each.summary for each in inner.records)
        known = inner._known({})
        for name, entry in action.outputs.items():
            record.outputs[name] = text(machine.resolve(entry["value"], known, failed=inner.failed))
        return not inner.failed
