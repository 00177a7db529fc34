"""One step: its folders, its command, its log, its end."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from mlops.local.jobs.checks import seconds as duration
from mlops.local.jobs.expressions import ExpressionError, command_line
from mlops.local.jobs.locations import Locations, Unresolved
from mlops.local.jobs.plan import Step
from mlops.local.state.ports import bindable

KILL_AFTER_S = 2.5
HIDDEN = ("AZURE_", "MLFLOW_", "ARM_", "IDENTITY_", "MSI_", "AZUREML_")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
CERTIFICATES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH")

__all__ = ["Execution", "StepFailed", "duration"]


class StepFailed(Exception):
    """The step ends as Failed; carries Azure's code."""

    def __init__(self, message: str, *, code: str = "UserError") -> None:
        super().__init__(message)
        self.code = code


class StepCanceled(Exception):
    """The step ends as Canceled."""


@dataclass
class Execution:
    """What a step needs to run."""

    step: Step
    locations: Locations
    folder: Path
    """Private to the step: its copy of the code."""
    log: Path
    environment: dict[str, str]
    paths: dict[str, Path]
    """Outputs of the steps before it, ``<step>:<output>``."""
    canceled: Callable[[], bool]
    max_processes: int
    """A node with eight GPUs asks for eight processes, which a laptop's cores would only slow down."""
    started: Callable[[int], None] = field(default=lambda _: None)
    """Told the id of each process."""

    def run(self) -> None:
        """Run to the end.

        Raises:
            StepFailed: it could not start, or its command failed.
            StepCanceled: it was told to stop, or took too long.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab", buffering=0) as log:
            try:
                command, cwd = self._prepare(log)
                self._execute(command, cwd, log)
            except StepFailed as failure:
                note(log, f"The step failed: {brief(failure)}")
                raise
            except StepCanceled as end:
                note(log, f"The step was canceled. {end}".rstrip())
                raise
            note(log, "The step ended with exit status 0.")

    def outputs(self) -> dict[str, Path]:
        """Where the step's outputs lie."""
        return {name: self.locations.path(str(spec["uri"])) for name, spec in self.step.outputs.items()}

    def _prepare(self, log: IO[bytes]) -> tuple[str, Path]:
        step = self.step
        if step.environment:
            note(log, f"Environment '{step.environment}' is not built here: the step runs in this machine's Python.")
        try:
            inputs = {name: self._input(name, value) for name, value in step.inputs.items()}
            outputs = self.outputs()
            code = self.locations.path(step.code) if step.code else None
        except Unresolved as error:
            raise StepFailed(str(error)) from error
        for name, path in outputs.items():
            whole = step.outputs[name]["type"] != "uri_file"
            (path if whole else path.parent).mkdir(parents=True, exist_ok=True)
        cwd = self.folder / "code"
        shutil.rmtree(cwd, ignore_errors=True)
        if code is None:
            cwd.mkdir(parents=True)
        elif code.is_dir():
            shutil.copytree(code, cwd, ignore=shutil.ignore_patterns("__pycache__", ".git", ".venv"))
        elif code.is_file():
            cwd.mkdir(parents=True)
            shutil.copy2(code, cwd)
        else:
            raise StepFailed(f"The code snapshot '{step.code}' does not exist.")
        try:
            command = command_line(step.command, inputs, {name: str(path) for name, path in outputs.items()})
        except ExpressionError as error:
            raise StepFailed(str(error)) from error
        for name, value in inputs.items():
            self.environment[f"AZURE_ML_INPUT_{name}"] = value or ""
        for name, path in outputs.items():
            self.environment[f"AZURE_ML_OUTPUT_{name}"] = str(path)
        return command, cwd

    def _input(self, name: str, value: dict[str, str]) -> str | None:
        kind = value["is"]
        if kind == "absent":
            return None
        if kind == "literal":
            return value["value"]
        path = self.paths[f"{value['step']}:{value['output']}"] if kind == "output" else self._asset(value["uri"])
        if not path.exists():
            source = value.get("uri") or f"{value.get('step')}.{value.get('output')}"
            raise StepFailed(
                f"Failed to prepare the input '{name}' ({source}): ScriptExecution.StreamAccess.NotFound: "
                "the requested stream was not found."
            )
        if path.is_dir() and value["type"] == "uri_file":
            # a uri_file that names a folder with one file, as an upload of a single file may leave it
            files = [item for item in path.iterdir() if item.is_file() and not item.name.startswith(".")]
            path = files[0] if len(files) == 1 else path
        return str(path)

    def _asset(self, uri: str) -> Path:
        return self.locations.path(uri)

    # -- processes -------------------------------------------------------------------------------------------------

    def _execute(self, command: str, cwd: Path, log: IO[bytes]) -> None:
        note(log, f"Running in '{cwd}':")
        note(log, command.strip())
        shell = shutil.which("bash") or "/bin/sh"
        count = min(self.step.processes, self.max_processes)
        if self.step.processes > self.max_processes:
            note(log, f"{self.step.processes} processes were asked for; {self.max_processes} run here.")
        ranks: list[dict[str, str]] = [{}]
        if count:
            master = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(bindable(0)), "WORLD_SIZE": str(count)}
            ranks = [{**master, "RANK": str(rank), "LOCAL_RANK": str(rank), "NODE_RANK": "0"} for rank in range(count)]
        running: list[subprocess.Popen[bytes]] = []
        begin = time.monotonic()
        try:
            for rank in ranks:
                running.append(
                    subprocess.Popen(
                        [shell, "-c", command],
                        cwd=cwd,
                        env={**self.environment, **self.step.environment_variables, **rank},
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )
                self.started(running[-1].pid)
            self._watch(running, begin)
        finally:
            for process in running:
                end_group(process)

    def _watch(self, running: list[subprocess.Popen[bytes]], begin: float) -> None:
        while True:
            states = [process.poll() for process in running]
            failed = [state for state in states if state not in (None, 0)]
            if failed:
                raise StepFailed(self._explain(failed[0] or 0))
            if all(state == 0 for state in states):
                return
            if self.canceled():
                raise StepCanceled("Cancellation was requested.")
            if self.step.timeout_s is not None and time.monotonic() - begin > self.step.timeout_s:
                raise StepCanceled(f"The job ran longer than its limit of {self.step.timeout_s:g} seconds.")
            time.sleep(0.05)

    def _explain(self, status: int) -> str:
        program = self.step.command.split()[0] if self.step.command.split() else "sh"
        how = f"exited with status code {status}" if status > 0 else f"was killed by {signal.Signals(-status).name}"
        return (
            f"Execution failed. User process '{program}' {how}. Please check log file 'user_logs/std_log.txt' for "
            f"error details. Error: {last_lines(self.log)}"
        )


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    for number, patience_s in ((signal.SIGTERM, KILL_AFTER_S), (signal.SIGKILL, KILL_AFTER_S)):
        try:
            os.killpg(process.pid, number)
        except (ProcessLookupError, PermissionError):
            break
        if process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience_s)
        else:
            time.sleep(0.02)


def last_lines(log: Path, *, count: int = 15, limit: int = 2000) -> str:
    """The end of a log, for the error message."""
    with contextlib.suppress(OSError):
        size = log.stat().st_size
        with log.open("rb") as file:
            file.seek(max(0, size - 4 * limit))
            lines = file.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-count:])[-limit:]
    return ""


def note(log: IO[bytes], text: str) -> None:
    """A line of the workspace's own in a step's log."""
    stamp = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    log.write("".join(f"[{stamp}] {line}\n" for line in text.splitlines()).encode())


def brief(failure: Exception | str) -> str:
    """A failure without the log's own lines, for the logs."""
    return str(failure).partition(" Error: ")[0]


def base_environment(hub: Path) -> dict[str, str]:
    """The environment of every step: this one without credentials and proxies, offline for model hubs."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(HIDDEN) and key.lower() not in PROXIES and key not in CERTIFICATES
    }
    scripts = str(Path(sys.executable).parent)
    return {
        **kept,
        "PATH": f"{scripts}{os.pathsep}{kept.get('PATH', '/usr/bin:/bin')}",
        "PYTHONUNBUFFERED": "1",
        "HF_HOME": str(hub),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "no_proxy": "127.0.0.1,localhost",
        "NO_PROXY": "127.0.0.1,localhost",
    }
