"""A run of a workflow: its jobs in the order of their needs, matrices, called workflows."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.workflows.runner import permissions
from tests.workflows.runner.bridge import text
from tests.workflows.runner.events import Event, call_inputs, dispatch_inputs, starts
from tests.workflows.runner.files import Invalid, Job, Unknown, Workflow, read_workflow
from tests.workflows.runner.jobs import JobRun
from tests.workflows.runner.record import JobRecord, Run
from tests.workflows.runner.world import World, github_context

DEPTH = 4
"""How deep workflows may call each other."""


@dataclass
class Happening:
    """One event in one world, on its way through one workflow and those that it calls."""

    world: World
    event: Event
    number: int
    folder: Path
    github: dict[str, Any] = field(default_factory=dict)
    _jobs: Iterator[int] = field(default_factory=itertools.count)

    def workflow(self, path: str) -> Workflow:
        """A file at the event's commit."""
        return read_workflow(self.world.bridge, self.world.files_at(self.event.sha), path)

    def next_folder(self) -> Path:
        """A machine's disk."""
        return self.folder / f"job-{next(self._jobs)}"


def happen(world: World, event: Event, *, only: Iterable[str] | None = None) -> dict[str, Run]:
    """All runs that an event starts, by the names of their files (`train.yml`)."""
    folder = world.files_at(event.sha) / ".github" / "workflows"
    runs = {}
    for file in sorted(folder.glob("*.y*ml")):
        done = start(world, event, f".github/workflows/{file.name}", only=only)
        if done is not None:
            runs[file.name] = done
    return runs


def start(world: World, event: Event, path: str, *, only: Iterable[str] | None = None) -> Run | None:
    """Run a workflow, if the event starts it.

    Args:
        world: the repository and its machines.
        event: what happened.
        path: the workflow's file.
        only: ids of the jobs to run, to save time; the others count as skipped.

    Raises:
        Invalid: GitHub would refuse the file, or the dispatch.
        Unknown: the runner lacks what the file uses.
    """
    number = world.next_run()
    happening = Happening(world, event, number, world.folder / f"run-{number}")
    workflow = happening.workflow(path)
    if not starts(workflow, event):
        return None
    inputs = dispatch_inputs(workflow, event.inputs) if event.name == "workflow_dispatch" else {}
    happening.github = github_context(world, event, number=number, workflow=workflow.name, path=path)
    happening.folder.mkdir(parents=True)
    (happening.folder / "event.json").write_text(json.dumps(event.payload()), encoding="utf-8")
    selection = None if only is None else frozenset(only)
    allowed = read_only(workflow) if event.fork else None
    run = WorkflowRun(happening, workflow, inputs, world.secrets_of(event), ceiling=allowed, only=selection)
    run.check()
    done = run.run()
    (happening.folder / "record.txt").write_text(f"{done}\n", encoding="utf-8")
    return done


def read_only(workflow: Workflow) -> dict[str, str]:
    """What a fork's pull request may do at most: read what is asked for; never a token of its own."""
    permissions = [job.permissions for job in workflow.jobs.values()] + [workflow.permissions]
    names = {name for each in permissions if isinstance(each, Mapping) for name in each}
    return dict.fromkeys(names - {"id-token"}, "read")


@dataclass
class WorkflowRun:
    """One workflow of a run: the one that was started, or one that a job calls."""

    happening: Happening
    workflow: Workflow
    inputs: Mapping[str, Any]
    secrets: Mapping[str, str]
    ceiling: Mapping[str, str] | None = None
    only: frozenset[str] | None = None
    holding: tuple[str, ...] = ()
    depth: int = 0
    results: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)

    def check(self) -> None:
        """What GitHub checks before it starts anything: called files and what their jobs ask for."""
        if self.depth > DEPTH:
            raise Invalid(f"{self.workflow.path}: workflows call each other too deep")
        for job in self.workflow.jobs.values():
            allowed = self._permissions(job)
            if job.uses:
                self._called(job, {}, {}, allowed, ()).check()

    def _permissions(self, job: Job) -> dict[str, str]:
        if self.happening.event.fork and self.ceiling is not None:
            requested = permissions.of_job(job.permissions, self.workflow.permissions, None)
            return {name: "read" for name in requested if name in self.ceiling}
        return permissions.of_job(job.permissions, self.workflow.permissions, self.ceiling)

    def run(self) -> Run:
        """Run the jobs."""
        started = time.monotonic()
        contexts = self._contexts()
        name = text(self._resolve(self.workflow.run_name, contexts)) or self.workflow.name
        run = Run(self.workflow.path, name, artifacts=self.happening.folder / "artifacts", number=self.happening.number)
        run.concurrency = self._concurrency(self.workflow.concurrency, contexts)
        env = {name: text(value) for name, value in self._resolve(dict(self.workflow.env), contexts).items()}
        for job in self._in_order():
            self._job(job, env, run)
        bad = [result for result in self.results.values() if result in ("failure", "cancelled")]
        run.conclusion = "failure" if "failure" in bad else "cancelled" if bad else "success"
        if all(result == "skipped" for result in self.results.values()):
            run.conclusion = "skipped"
        declared = (self.workflow.on.get("workflow_call") or {}).get("outputs") or {}
        if self.depth and declared:
            jobs = {id: {"outputs": self.outputs.get(id, {}), "result": self.results[id]} for id in self.workflow.jobs}
            values = {name: entry["value"] for name, entry in declared.items()}
            run.outputs = {
                name: text(value) for name, value in self._resolve(values, {**contexts, "jobs": jobs}).items()
            }
        run.seconds = time.monotonic() - started
        return run

    def _contexts(self) -> dict[str, Any]:
        happening = self.happening
        return {
            "github": happening.github,
            "inputs": dict(self.inputs),
            "vars": happening.world.variables_of(None, happening.event),
            "secrets": dict(self.secrets),
        }

    def _resolve(self, node: Any, contexts: Mapping[str, Any], status: Mapping[str, bool] | None = None) -> Any:
        return self.happening.world.bridge.resolve(node, contexts, status=status, workspace=self.happening.folder)

    def _in_order(self) -> Iterator[Job]:
        done: set[str] = set()
        remaining = dict(self.workflow.jobs)
        while remaining:
            ready = [job for job in remaining.values() if set(job.needs) <= done]
            if not ready:
                raise Invalid(f"{self.workflow.path}: jobs need each other: {', '.join(remaining)}")
            yield ready[0]
            done.add(ready[0].id)
            del remaining[ready[0].id]

    def _ancestors(self, job: Job) -> set[str]:
        ancestors = set(job.needs)
        for name in job.needs:
            ancestors |= self._ancestors(self.workflow.jobs[name])
        return ancestors

    def _job(self, job: Job, env: Mapping[str, str], run: Run) -> None:
        self.results[job.id] = "skipped"
        contexts = self._contexts()
        contexts["needs"] = {
            name: {"result": self.results[name], "outputs": self.outputs.get(name, {})} for name in job.needs
        }
        before = [self.results[name] for name in self._ancestors(job)]
        status = {
            "success": all(result == "success" for result in before),
            "failure": "failure" in before,
            "cancelled": "cancelled" in before,
            "always": True,
        }
        selected = self.only is None or job.id in self.only
        if not selected or not self._resolve(job.condition, contexts, status):
            run.jobs.append(JobRecord(id=job.id, name=text(job.name) if isinstance(job.name, str) else job.id))
            return
        results = []
        cells, fail_fast = self._matrix(job, contexts)
        for index, cell in enumerate(cells):
            if fail_fast and "failure" in results:
                results.append("cancelled")
                continue
            strategy = {"fail-fast": fail_fast, "job-index": index, "job-total": len(cells), "max-parallel": len(cells)}
            inner = {**contexts, "matrix": cell, "strategy": strategy}
            record = JobRecord(id=job.id, name=self._name(job, inner, cell), matrix=cell)
            run.jobs.append(record)
            self._run_one(job, inner, env, record, run)
            forgiven = record.result == "failure" and bool(self._resolve(job.continue_on_error, inner))
            results.append("success" if forgiven else record.result)
            self.outputs.setdefault(job.id, {}).update({n: v for n, v in record.outputs.items() if v})
        worst = [result for result in ("failure", "cancelled", "success", "skipped") if result in results]
        self.results[job.id] = worst[0] if worst else "skipped"

    def _name(self, job: Job, contexts: Mapping[str, Any], cell: Mapping[str, Any]) -> str:
        name = text(self._resolve(job.name, contexts))
        return name or (f"{job.id} ({', '.join(map(text, cell.values()))})" if cell else job.id)

    def _matrix(self, job: Job, contexts: Mapping[str, Any]) -> tuple[list[dict[str, Any]], bool]:
        if job.strategy is None:
            return [{}], True
        strategy = self._resolve(job.strategy, contexts)
        matrix = strategy.get("matrix") or {}
        names = [name for name in matrix if name not in ("include", "exclude")]
        for name in names:
            if not isinstance(matrix[name], list):
                raise Invalid(f"{self.workflow.path}: the matrix's '{name}' is no list")
        cells = [dict(zip(names, values, strict=True)) for values in itertools.product(*(matrix[n] for n in names))]
        cells = [c for c in cells if not any(each.items() <= c.items() for each in matrix.get("exclude") or ())]
        if "include" in matrix:
            raise Unknown(f"{self.workflow.path}: the runner does not know a matrix's include")
        return cells, strategy.get("fail-fast", True) is not False

    def _concurrency(self, node: Any, contexts: Mapping[str, Any]) -> dict[str, Any]:
        """The group of a job or a run; nobody may wait for a group that its own caller holds."""
        if node is None:
            return {}
        concurrency = self._resolve(node, contexts)
        concurrency = {"group": concurrency} if isinstance(concurrency, str) else concurrency
        if concurrency["group"] in self.holding:
            raise Invalid(
                f"{self.workflow.path}: waits for the concurrency group '{concurrency['group']}' of its caller"
            )
        self.holding = (*self.holding, concurrency["group"]) if contexts.get("needs") is None else self.holding
        return concurrency

    def _run_one(self, job: Job, contexts: dict[str, Any], env: Mapping[str, str], record: JobRecord, run: Run) -> None:
        record.permissions = self._permissions(job)
        record.concurrency = self._concurrency(job.concurrency, contexts)
        if job.uses:
            self._call(job, contexts, record)
            return
        happening = self.happening
        JobRun(
            world=happening.world,
            event=happening.event,
            workflow=self.workflow,
            job=job,
            contexts=contexts,
            workflow_env=env,
            folder=happening.next_folder(),
            artifacts=run.artifacts,
            record=record,
        ).run()

    def _call(self, job: Job, contexts: dict[str, Any], record: JobRecord) -> None:
        started = time.monotonic()
        inputs = self._resolve(dict(job.inputs), contexts)
        secrets: Mapping[str, str] = {}
        if job.secrets == "inherit":
            secrets = self.secrets
        elif job.secrets is not None:
            secrets = {name: text(value) for name, value in self._resolve(dict(job.secrets), contexts).items()}
        group = record.concurrency.get("group")
        holding = (*self.holding, group) if group else self.holding
        called = self._called(job, inputs, secrets, record.permissions, holding)
        called.inputs = call_inputs(called.workflow, inputs)
        record.called = called.run()
        record.result = record.called.conclusion
        record.outputs = record.called.outputs
        record.seconds = time.monotonic() - started

    def _called(
        self,
        job: Job,
        inputs: Mapping[str, Any],
        secrets: Mapping[str, str],
        allowed: Mapping[str, str],
        holding: tuple[str, ...],
    ) -> WorkflowRun:
        if not job.uses.startswith(("./", "$/")):
            raise Unknown(f"{self.workflow.path}, job {job.id}: the runner calls workflows of this repository only")
        workflow = self.happening.workflow(job.uses[2:])
        return WorkflowRun(
            self.happening, workflow, inputs, secrets, ceiling=allowed, holding=holding, depth=self.depth + 1
        )
