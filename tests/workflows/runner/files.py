"""Workflow and action files as GitHub's parser reads them; what the runner does not know is an error by its name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.workflows.runner.bridge import Bridge

LINE = "#line"
MARK = "${{"


class Invalid(Exception):
    """GitHub would not start this file."""


class Unknown(Exception):
    """The runner lacks what the file uses: teach it, or write the file otherwise."""


@dataclass(frozen=True)
class Step:
    """One step; what may hold an expression is a tree."""

    where: str
    line: int
    condition: Any
    name: Any = None
    id: str = ""
    run: Any = None
    uses: str = ""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, Any] = field(default_factory=dict)
    shell: Any = None
    folder: Any = None
    timeout: Any = None
    continue_on_error: Any = False


@dataclass(frozen=True)
class Job:
    """One job, or the call of another workflow."""

    id: str
    line: int
    condition: Any
    name: Any = None
    needs: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    env: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)
    permissions: Any = None
    environment: Any = None
    concurrency: Any = None
    timeout: Any = 360
    continue_on_error: Any = False
    strategy: Any = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    uses: str = ""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    secrets: Any = None


@dataclass(frozen=True)
class Workflow:
    """One file."""

    path: str
    name: str
    on: Mapping[str, Any]
    jobs: Mapping[str, Job]
    run_name: Any = None
    env: Mapping[str, Any] = field(default_factory=dict)
    permissions: Any = None
    concurrency: Any = None
    defaults: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Action:
    """A local composite action."""

    path: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    steps: tuple[Step, ...]


def plain(node: Any) -> Any:
    """A tree without the marks of its lines."""
    if isinstance(node, dict):
        return {key: plain(value) for key, value in node.items() if key != LINE}
    return [plain(item) for item in node] if isinstance(node, list) else node


def known(node: Any, where: str, names: Iterable[str]) -> dict[str, Any]:
    """A mapping whose keys the runner knows."""
    if node is None:
        return {}
    if not isinstance(node, dict) or MARK in node:
        raise Unknown(f"{where}: the runner needs a mapping here")
    for key in node:
        if key != LINE and key not in names:
            raise Unknown(f"{where}, line {node.get(LINE)}: the runner does not know '{key}'")
    return node


def read_workflow(bridge: Bridge, root: Path, path: str) -> Workflow:
    """Parse a workflow; GitHub's errors are ours."""
    tree = _tree(bridge, root, path, "workflow")
    names = ("name", "run-name", "on", "env", "permissions", "concurrency", "defaults", "jobs")
    known(tree, path, names)
    on = tree["on"]
    if isinstance(on, str):
        on = {on: None}
    elif isinstance(on, list):
        on = dict.fromkeys(on)
    return Workflow(
        path=path,
        name=str(tree.get("name", path)),
        on=plain(on),
        jobs={name: _job(path, name, node) for name, node in tree["jobs"].items() if name != LINE},
        run_name=tree.get("run-name"),
        env=plain(tree.get("env")) or {},
        permissions=plain(tree.get("permissions")),
        concurrency=plain(tree.get("concurrency")),
        defaults=_defaults(tree.get("defaults"), path),
    )


def read_action(bridge: Bridge, root: Path, folder: str) -> Action:
    """Parse a composite action."""
    path = f"{folder}/action.yml"
    tree = known(
        _tree(bridge, root, path, "action"), path, ("name", "description", "author", "inputs", "outputs", "runs")
    )
    runs = known(tree["runs"], path, ("using", "steps"))
    if runs["using"] != "composite":
        raise Unknown(f"{path}: the runner knows composite actions, not '{runs['using']}'")
    inputs = plain(tree.get("inputs")) or {}
    for name, entry in inputs.items():
        known(entry, f"{path}, input {name}", ("description", "required", "default"))
    steps = tuple(_step(path, node) for node in runs["steps"])
    return Action(path, inputs, plain(tree.get("outputs")) or {}, steps)


def _tree(bridge: Bridge, root: Path, path: str, kind: str) -> dict[str, Any]:
    others = {
        str(each.relative_to(root)): each.read_text(encoding="utf-8")
        for each in sorted((root / ".github" / "workflows").glob("*.y*ml"))
    }
    try:
        content = (root / path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise Invalid(f"there is no {path}") from error
    document = bridge.parse(path, content, kind=kind, others=others)
    if document["errors"] or document["tree"] is None:
        raise Invalid("\n".join(document["errors"]) or f"{path} is empty")
    return document["tree"]  # type: ignore[no-any-return]


def _defaults(node: Any, where: str) -> Mapping[str, Any]:
    run = known(known(node, where, ("run",)).get("run"), where, ("shell", "working-directory"))
    return plain(run)  # type: ignore[no-any-return]


def _job(path: str, name: str, node: dict[str, Any]) -> Job:
    where = f"{path}, job {name}"
    shared = {"name", "needs", "if", "permissions", "concurrency", "strategy"}
    own = {"runs-on", "env", "environment", "outputs", "timeout-minutes", "continue-on-error", "defaults", "steps"}
    known(node, where, shared | ({"uses", "with", "secrets"} if "uses" in node else own))
    needs = node.get("needs") or ()
    job = Job(
        id=name,
        line=node[LINE],
        condition=node.get("if", success()),
        name=node.get("name"),
        needs=(needs,) if isinstance(needs, str) else tuple(needs),
        permissions=plain(node.get("permissions")),
        concurrency=plain(node.get("concurrency")),
        strategy=plain(node.get("strategy")),
        environment=plain(node.get("environment")),
        uses=node.get("uses", ""),
        inputs=plain(node.get("with")) or {},
        secrets=plain(node.get("secrets")),
        env=plain(node.get("env")) or {},
        outputs=plain(node.get("outputs")) or {},
        timeout=node.get("timeout-minutes", 360),
        continue_on_error=node.get("continue-on-error", False),
        defaults=_defaults(node.get("defaults"), where),
        steps=tuple(_step(where, step) for step in node.get("steps") or ()),
    )
    if isinstance(job.environment, dict) and MARK not in job.environment:
        known(job.environment, where, ("name", "url", "deployment"))
    if isinstance(job.concurrency, dict) and MARK not in job.concurrency:
        known(job.concurrency, where, ("group", "cancel-in-progress", "queue"))
    if job.strategy is not None:
        known(job.strategy, where, ("matrix", "fail-fast", "max-parallel"))
    return job


def _step(where: str, node: dict[str, Any]) -> Step:
    line = node[LINE]
    where = f"{where}, line {line}"
    shared = {"name", "id", "if", "env", "timeout-minutes", "continue-on-error"}
    known(node, where, shared | ({"uses", "with"} if "uses" in node else {"run", "shell", "working-directory"}))
    return Step(
        where=where,
        line=line,
        condition=node.get("if", success()),
        name=node.get("name"),
        id=node.get("id", ""),
        run=node.get("run"),
        uses=node.get("uses", ""),
        inputs=plain(node.get("with")) or {},
        env=plain(node.get("env")) or {},
        shell=node.get("shell"),
        folder=node.get("working-directory"),
        timeout=node.get("timeout-minutes"),
        continue_on_error=node.get("continue-on-error", False),
    )


def success() -> dict[str, Any]:
    """The condition of what has none."""
    return {MARK: "success()", "allowed": ["success(0,0)"], "line": 0}
