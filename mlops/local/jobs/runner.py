"""The process that owns one job: ``python -m mlops.local.jobs.runner STATE CACHE JOB``.

It writes states into the workspace's database and logs into its blobs by itself, so that the daemon may die and come
back meanwhile. While it lives it holds a lock on the job's folder, which is how others know that it lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import signal
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlops.local.jobs.errors import failed_children, run_error
from mlops.local.jobs.execution import Execution, StepCanceled, StepFailed, base_environment, brief
from mlops.local.jobs.locations import Locations
from mlops.local.jobs.mlflow_rest import TrackingError, TrackingServer
from mlops.local.jobs.plan import Plan, Step, load
from mlops.local.jobs.runs import TERMINAL, Runs
from mlops.local.registry.standin import HUGGINGFACE_ID, StandIn, StandInFailed
from mlops.local.state.accounts import ServedAccounts
from mlops.local.state.config import Config
from mlops.local.state.layout import Layout
from mlops.local.state.processes import create_time
from mlops.local.state.store import Store

log = logging.getLogger(__name__)
CONCURRENT = 2
TRACKING_S = 120.0


class Runner:
    """Runs the steps of one job in the order of their needs."""

    def __init__(self, layout: Layout, job: str) -> None:
        self.layout = layout
        self.folder = layout.jobs / job
        self.plan: Plan = load(json.loads((self.folder / "plan.json").read_text()))
        self.submission = json.loads((self.folder / "submission.json").read_text())
        self.config = Config(**self.submission["config"])
        accounts = ServedAccounts(*self.submission["accounts"])
        self.store = Store(layout.database)
        self.runs = Runs(self.store)
        self.locations = Locations(layout, self.config, accounts, self.store, self.runs)
        self.tracking = TrackingServer(self.submission["tracking_url"])
        self.standin = StandIn(layout)
        self.single = len(self.plan.steps) == 1 and self.plan.steps[0].run == self.plan.job
        self.stopping = False
        self.begin = time.monotonic()
        self.states: dict[str, str] = {}
        self.paths: dict[str, Path] = {}
        self.failed: list[str] = []
        self.tracked: dict[str, str] = {}
        """Run -> id on the tracking server."""

    # -- the job ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """The whole job."""
        job = self.plan.job
        current = self.runs.get(job)
        if current is None or current["status"] in TERMINAL:
            return
        self.runs.move(job, "Queued")
        self.runs.move(job, "Preparing")
        self.say(f"Submitting {len(self.plan.steps)} runs, first five are: {self._first()}")
        self._track()
        self.runs.move(job, "Running")
        try:
            self._schedule()
        finally:
            self._finish()

    def _first(self) -> str:
        return ",".join(f"{step.path or step.display_name}:{step.run}" for step in self.plan.steps[:5])

    def canceled(self) -> bool:
        """Whether someone asked this job to stop."""
        return self.stopping or (self.folder / "cancel").exists() or self._late()

    def _late(self) -> bool:
        return self.plan.timeout_s is not None and time.monotonic() - self.begin > self.plan.timeout_s

    def _schedule(self) -> None:
        waiting = {step.path: step for step in self.plan.steps}
        running: dict[Future[str], str] = {}
        with ThreadPoolExecutor(CONCURRENT) as pool:
            while waiting or running:
                halt = self.canceled() or (self.failed and not self.plan.continue_on_step_failure)
                for path, step in list(waiting.items()):
                    states = [self.states.get(need) for need in step.needs]
                    if halt or any(state in ("Failed", "Canceled") for state in states):
                        self._skip(waiting.pop(path))
                    elif all(state == "Completed" for state in states) and len(running) < CONCURRENT:
                        running[pool.submit(self._step, waiting.pop(path))] = path
                if not running:
                    continue
                done, _ = wait(running, timeout=0.1, return_when=FIRST_COMPLETED)
                for future in done:
                    path = running.pop(future)
                    self.states[path] = future.result()
                    if self.states[path] == "Failed":
                        self.failed.append(path)

    def _finish(self) -> None:
        for group in reversed(self.plan.groups):
            self._end(group.run, self._verdict(f"{group.path}/"))
        verdict = self._verdict("")
        if self.single:
            self._end(self.plan.job, verdict, error=(self.runs.get(self.plan.job) or {}).get("error"))
            return
        self.runs.move(self.plan.job, "Finalizing")
        error = failed_children(self.failed, self.config.region) if verdict == "Failed" else None
        word = {"Completed": "Execution of experiment succeeded", "Failed": "Execution of experiment failed"}.get(
            verdict, "Execution of experiment canceled"
        )
        self.say(f"{word}, update experiment status and cancel running nodes.")
        self._end(self.plan.job, verdict, error=error)

    def _verdict(self, prefix: str) -> str:
        states = [self.states.get(step.path, "Canceled") for step in self.plan.steps if step.path.startswith(prefix)]
        if "Failed" in states:
            return "Failed"
        return "Canceled" if "Canceled" in states else "Completed"

    def _end(self, run: str, status: str, *, error: dict[str, Any] | None = None) -> None:
        # the tracking server first: who sees the end of a run finds it closed there too
        if run in self.tracked:
            word = {"Completed": "FINISHED", "Failed": "FAILED"}.get(status, "KILLED")
            with contextlib.suppress(TrackingError):
                self.tracking.end_run(self.tracked[run], word)
        self.runs.move(run, status, error=error)

    # -- one step --------------------------------------------------------------------------------------------------

    def _step(self, step: Step) -> str:
        try:
            return self._attempt(step)
        except Exception as error:
            log.exception("step %s", step.path)
            message = f"The local workspace could not run the step: {error}"
            self._end(step.run, "Failed", error=run_error("ServiceError", message, self.config.region))
            return "Failed"

    def _attempt(self, step: Step) -> str:
        name = step.path or step.display_name
        self._open_groups(step)
        if not self.single:
            self.runs.move(step.run, "Preparing")
        artifacts = self.locations.artifacts(step.run)
        execution = Execution(
            step=step,
            locations=self.locations,
            folder=self.folder / "steps" / (step.path.replace("/", ".") or "main"),
            log=artifacts / "user_logs" / "std_log.txt",
            environment=self._environment(step),
            paths=self.paths,
            canceled=self.canceled,
            max_processes=self.config.max_processes,
            started=lambda pid: self._started(step, pid),
        )
        begin = time.monotonic()
        error: dict[str, Any] | None = None
        try:
            self._base_model(step)
            self.runs.move(step.run, "Running")
            self.say(f"Step '{name}' started ({step.run}).")
            execution.run()
            self.paths.update({f"{step.path}:{key}": path for key, path in execution.outputs().items()})
            status = "Completed"
        except StepCanceled as end:
            status = "Canceled"
            self.say(f"Step '{name}': {end}")
        except (StepFailed, StandInFailed) as failure:
            status = "Failed"
            code = getattr(failure, "code", "UserError")
            error = run_error(code, str(failure), self.config.region)
            if not (artifacts / "user_logs" / "std_log.txt").exists():
                (artifacts / "user_logs").mkdir(parents=True, exist_ok=True)
                (artifacts / "user_logs" / "std_log.txt").write_text(f"{failure}\n")
        word = {"Completed": "finished", "Failed": "failed"}.get(status, "was canceled")
        self.say(f"Step '{name}' {word} after {time.monotonic() - begin:.1f} s.")
        if error:
            self.say(f"Step '{name}': {brief(error['error']['message'])}")
        self.runs.remember(step.run, processes=[])
        if self.single:
            # its run is the job's, which _finish ends
            self.runs.move(step.run, "Finalizing")
            self.runs.change(step.run, lambda body: body.update(error=error))
        else:
            self.runs.move(step.run, "Finalizing")
            self._end(step.run, status, error=error)
        return status

    def _base_model(self, step: Step) -> None:
        """Wait for the stand-in base model where a step takes it."""
        texts = [str(value.get("value") or value.get("uri") or "") for value in step.inputs.values()]
        if any(HUGGINGFACE_ID in text or f"/registries/{self.config.registry}/models/" in text for text in texts):
            self.standin.ensure(publish=self.locations.container("azureml-registry"))

    def _skip(self, step: Step) -> None:
        self.states[step.path] = "Canceled"
        self.say(f"Step '{step.path}' was not started.")
        self._end(step.run, "Canceled")

    def _open_groups(self, step: Step) -> None:
        for group in self.plan.groups:
            if step.path.startswith(f"{group.path}/"):
                run = self.runs.get(group.run)
                if run and run["status"] in ("NotStarted", "Queued"):
                    self.runs.move(group.run, "Running")

    def _started(self, step: Step, pid: int) -> None:
        known = self.runs.private(step.run).get("processes", [])
        self.runs.remember(step.run, processes=[*known, {"pid": pid, "created": create_time(pid)}])

    def _environment(self, step: Step) -> dict[str, str]:
        root = self.plan.job
        return {
            **base_environment(self.standin.hub),
            "MLFLOW_TRACKING_URI": self.tracking.url,
            "MLFLOW_EXPERIMENT_NAME": self.plan.experiment,
            **({"MLFLOW_RUN_ID": self.tracked[step.run]} if step.run in self.tracked else {}),
            "AZUREML_RUN_ID": step.run,
            "AZUREML_ROOT_RUN_ID": root,
            "AZUREML_EXPERIMENT_NAME": self.plan.experiment,
            "AZUREML_ARM_SUBSCRIPTION": self.config.subscription,
            "AZUREML_ARM_RESOURCEGROUP": self.config.resource_group,
            "AZUREML_ARM_WORKSPACE_NAME": self.config.workspace,
        }

    # -- tracking and the execution log ----------------------------------------------------------------------------

    def _track(self) -> None:
        """A run on the tracking server for the job, each pipeline in it and each step."""
        end = time.monotonic() + TRACKING_S
        while not self.tracking.wait(0.5):
            if self.canceled():
                return
            if time.monotonic() > end:
                raise TrackingError("the tracking server does not answer")
        experiment = self.tracking.experiment(self.plan.experiment)
        self._track_run(experiment, self.plan.job, self.plan.display_name, None)
        if self.single:
            return
        for group in self.plan.groups:
            self._track_run(experiment, group.run, group.display_name, group.parent)
        for step in self.plan.steps:
            self._track_run(experiment, step.run, step.display_name, step.parent)

    def _track_run(self, experiment: str, run: str, display_name: str, parent: str | None) -> None:
        known = self.runs.mlflow_id(run)
        if known:
            self.tracked[run] = known
            return
        tags = {**(self.runs.get(run) or {}).get("tags", {}), "mlflow.rootRunId": self.plan.job}
        tags["azureml.runId"] = run
        if parent:
            tags["mlflow.parentRunId"] = self.tracked[parent]
        info = self.tracking.create_run(experiment, name=display_name, tags=tags)
        self.tracked[run] = info["run_id"]
        self.runs.link(run, info["run_id"])
        self.runs.remember(run, experiment_id=info["experiment_id"])
        share_artifacts(self.locations.artifacts(run), info)

    def say(self, text: str) -> None:
        """A line of the pipeline's execution log, which is what ``jobs.stream`` shows."""
        if self.single:
            return
        path = self.locations.artifacts(self.plan.job) / "logs" / "azureml" / "executionlogs.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"[{datetime.now(UTC).strftime('%Y-%m-%d %H:%M:%SZ')}] {text}\n")


def share_artifacts(artifacts: Path, info: dict[str, Any]) -> None:
    """Let the tracking server and the blob store see one artifact folder of a run."""
    artifacts.mkdir(parents=True, exist_ok=True)
    link = artifacts.parent / ".tracking" / str(info["experiment_id"]) / str(info["run_id"]) / "artifacts"
    link.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        link.symlink_to(Path("../../..") / artifacts.name, target_is_directory=True)


def main(arguments: list[str]) -> int:
    """Run the job unless another process does."""
    state, cache, job = arguments
    layout = Layout(root=Path(state), cache=Path(cache))
    folder = layout.jobs / job
    logging.basicConfig(filename=folder / "runner.log", level=logging.INFO, format="%(asctime)s %(message)s")
    lock = (folder / "lock").open("a+")
    for patience_s in (0.1, 0.2, 0.4, 0.0):  # a daemon that looks whether the job lives holds it for a moment
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if not patience_s:
                return 0
            time.sleep(patience_s)
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    runner = Runner(layout, job)

    def stop(number: int, frame: Any) -> None:
        del number, frame
        runner.stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        runner.run()
    except Exception as error:
        log.exception("job %s", job)
        message = f"The local workspace could not run the job: {error}"
        for run in reversed(runner.runs.family(job)):
            runner.runs.move(run["runId"], "Failed", error=run_error("ServiceError", message, runner.config.region))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
