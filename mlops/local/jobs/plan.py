"""From a submitted job to a flat list of steps: nested pipelines opened, bindings followed, inputs checked.

Everything that can be refused is refused here, when the job is submitted. The plan is JSON: the job's own process
(``runner``) reads it and needs no workspace to understand it.
"""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass, field
from typing import Any

from mlops.local.jobs.checks import Absent, Asset, Given, Literal, Output, PlanError, checked, given, seconds
from mlops.local.jobs.components import Component, Components, environment_name, port, text
from mlops.local.jobs.expressions import EXPRESSION, ExpressionError, interpolate, reference
from mlops.local.state.store import Document

COMMON = "azureml://datastores/workspaceblobstore/paths"
NAMESPACE = uuid.UUID("5d0ad5a0-33a1-4a6e-8f2c-0b3c8b1f4e55")
REFUSED = ("sweep", "automl", "parallel", "spark", "do_while", "if_else", "import", "finetuning", "data_transfer")


@dataclass
class Step:
    """A command to run; ``inputs`` are values of :mod:`checks` as JSON."""

    path: str
    run: str
    parent: str | None
    display_name: str
    component: str
    command: str
    code: str | None
    environment: str | None
    inputs: dict[str, Document]
    outputs: dict[str, Document]
    needs: list[str]
    environment_variables: dict[str, str] = field(default_factory=dict)
    processes: int = 0
    """Processes of a distributed step; 0 is a plain command."""
    timeout_s: float | None = None
    compute: str | None = None


@dataclass
class Group:
    """A pipeline inside the pipeline: it has a run of its own and no command."""

    path: str
    run: str
    parent: str
    display_name: str
    component: str


@dataclass
class Plan:
    """What a job's process does."""

    job: str
    experiment: str
    display_name: str
    steps: list[Step] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    outputs: dict[str, Document] = field(default_factory=dict)
    continue_on_step_failure: bool = False
    timeout_s: float | None = None

    def json(self) -> Document:
        """As plain values."""
        return asdict(self)


def load(document: Document) -> Plan:
    """A plan from its JSON."""
    return Plan(
        **{
            **document,
            "steps": [Step(**step) for step in document["steps"]],
            "groups": [Group(**group) for group in document["groups"]],
        }
    )


def default_output(run: str, name: str, kind: str) -> str:
    """Where an output lies unless the job says otherwise; a file has no slash at its end."""
    return f"{COMMON}/azureml/{run}/{name}" + ("" if kind == "uri_file" else "/")


def output_uri(spec: Document, *, run: str, name: str, kind: str) -> str:
    """Where an output lies; the placeholders of custom paths are filled in."""
    uri = spec.get("uri") or spec.get("path")
    if not uri:
        return default_output(run, name, kind)
    filled = str(uri)
    for key, value in (("name", run), ("output_name", name), ("default_datastore", "workspaceblobstore")):
        filled = filled.replace("${{" + key + "}}", value)
    return filled


class Planner:
    """Plans one job."""

    def __init__(self, components: Components, *, workspace_id: str, registry_id: str) -> None:
        self._components = components
        self._workspace_id = workspace_id
        self._registry_id = registry_id

    # -- jobs ------------------------------------------------------------------------------------------------------

    def pipeline(self, name: str, properties: Document) -> Plan:
        """The plan of a pipeline job.

        Raises:
            PlanError: the job cannot run; says why.
        """
        settings = properties.get("settings") or {}
        plan = Plan(
            job=name,
            experiment=str(properties.get("experimentName") or "Default"),
            display_name=str(properties.get("displayName") or name),
            continue_on_step_failure=str(settings.get("continue_on_step_failure", False)).lower() == "true",
            timeout_s=seconds((properties.get("limits") or {}).get("timeout")),
        )
        nodes = dict(properties.get("jobs") or {})
        if properties.get("componentId"):
            opened = self._find(str(properties["componentId"]), self._workspace_id, "pipeline")
            nodes = {key: dict(value) for key, value in opened.jobs.items()}
            scope = self._scope(opened, self._given(properties.get("inputs") or {}), where=name)
            home = self._home(opened)
        else:
            scope = self._given(properties.get("inputs") or {})
            home = self._workspace_id
        if not nodes:
            raise PlanError("The pipeline has no jobs.")
        targets: dict[str, str] = {}
        for key, spec in (properties.get("outputs") or {}).items():
            kind = str((spec or {}).get("jobOutputType") or (spec or {}).get("job_output_type") or "uri_folder").lower()
            targets[key] = output_uri(spec or {}, run=name, name=key, kind=kind)
            plan.outputs[key] = {"uri": targets[key], "type": kind}
        _Scope(self, plan, nodes, scope, targets, prefix="", parent=name, home=home).expand()
        for key, target in targets.items():
            if not any(out["uri"] == target for step in plan.steps for out in step.outputs.values()):
                raise PlanError(f"The pipeline's output '{key}' is not bound to an output of any of its jobs.")
        return plan

    def command(self, name: str, properties: Document) -> Plan:
        """The plan of a command job: one step whose run is the job itself."""
        plan = Plan(
            job=name,
            experiment=str(properties.get("experimentName") or "Default"),
            display_name=str(properties.get("displayName") or name),
        )
        command = str(properties.get("command") or "").strip()
        component_id = properties.get("componentId")
        component = self._find(str(component_id), self._workspace_id, "command") if component_id else None
        if not command and component is None:
            raise PlanError("The job has no command.")
        values = self._given(properties.get("inputs") or {})
        if component is not None:
            values = self._scope(component, values, where=name)
        plan.outputs = {}
        declared: dict[str, Any] = dict(component.outputs) if component else {}
        for key, spec in (properties.get("outputs") or {}).items():
            kind = str((spec or {}).get("jobOutputType") or "uri_folder").lower()
            plan.outputs[key] = {"uri": output_uri(spec or {}, run=name, name=key, kind=kind), "type": kind}
        for key, out in declared.items():
            plan.outputs.setdefault(key, {"uri": default_output(name, key, out.type), "type": out.type})
        limits = properties.get("limits") or {}
        plan.steps.append(
            Step(
                path="",
                run=name,
                parent=None,
                display_name=plan.display_name,
                component=str(component_id or ""),
                command=command or (component.command if component else ""),
                code=properties.get("codeId") or (component.code if component else None),
                environment=environment_name(properties.get("environmentId")),
                inputs={key: value.json() for key, value in values.items()},
                outputs=plan.outputs,
                needs=[],
                environment_variables={k: text(v) for k, v in (properties.get("environmentVariables") or {}).items()},
                processes=processes(properties.get("distribution"), properties.get("resources"), {}),
                timeout_s=seconds(limits.get("timeout")),
                compute=compute_name(properties.get("computeId")),
            )
        )
        return plan

    # -- parts -----------------------------------------------------------------------------------------------------

    def _given(self, inputs: Document) -> dict[str, Given]:
        return {key: given(value) for key, value in inputs.items()}

    def _home(self, component: Component) -> str:
        return self._registry_id if "/registries/" in component.id.lower() else self._workspace_id

    def _find(self, identity: str, home: str, kind: str | None = None) -> Component:
        component = self._components.find(identity, home=home)
        if component is None:
            raise PlanError(f"The component '{identity}' does not exist.", code="NotFound")
        if component.kind in REFUSED or (kind and component.kind != kind):
            raise PlanError(f"Components of type '{component.kind}' do not run in the local workspace ('{identity}').")
        return component

    def _scope(self, component: Component, values: dict[str, Given], *, where: str) -> dict[str, Given]:
        return checked(component, values, where=where)


def processes(distribution: Any, resources: Any, values: dict[str, str | None]) -> int:
    """How many processes a distributed step has; 0 for a step that is not distributed."""
    spec = distribution or {}
    kind = str(spec.get("type") or spec.get("distributionType") or "").lower()
    if not kind:
        return 0
    if kind not in ("pytorch", "torch.distributed"):
        raise PlanError(f"The distribution '{kind}' does not run in the local workspace; only pytorch does.")

    def count(value: Any) -> int:
        try:
            return max(1, int(interpolate(text(value), values) or 1))
        except (ValueError, ExpressionError):
            return 1

    nodes = count((resources or {}).get("instance_count") or (resources or {}).get("instanceCount") or 1)
    per_node = spec.get("process_count_per_instance") or spec.get("processCountPerInstance") or 1
    return nodes * count(per_node)


def compute_name(value: Any) -> str | None:
    """The name at the end of a compute's id."""
    name = text(value or "").removeprefix("azureml:").rstrip("/").rsplit("/", 1)[-1]
    return name or None


class _Scope:
    """One pipeline level while it is being opened."""

    def __init__(
        self,
        planner: Planner,
        plan: Plan,
        nodes: dict[str, Document],
        values: dict[str, Given],
        targets: dict[str, str],
        *,
        prefix: str,
        parent: str,
        home: str,
    ) -> None:
        self.planner = planner
        self.plan = plan
        self.nodes = nodes
        self.values = values
        self.targets = targets
        self.prefix = prefix
        self.parent = parent
        self.home = home
        self.done: dict[str, dict[str, Given]] = {}
        """Outputs of each opened node: where another node finds them."""
        self.bound: dict[str, Given] = {}
        """Outputs of this level itself."""
        self.opening: list[str] = []

    def expand(self) -> dict[str, Given]:
        """Open every node; returns this level's outputs."""
        for name in self.nodes:
            self._open(name)
        return self.bound

    def _open(self, name: str) -> dict[str, Given]:
        if name in self.done:
            return self.done[name]
        if name not in self.nodes:
            raise PlanError(
                f"A job named '{name}' is referred to and does not exist in '{self.prefix or self.plan.job}'."
            )
        if name in self.opening:
            raise PlanError(f"The jobs {' -> '.join([*self.opening, name])} depend on each other.")
        self.opening.append(name)
        try:
            self.done[name] = self._node(name, self.nodes[name])
        except ExpressionError as error:
            raise PlanError(f"Job '{self.prefix}{name}': {error}") from error
        self.opening.remove(name)
        return self.done[name]

    def _node(self, name: str, node: Document) -> dict[str, Given]:
        path = f"{self.prefix}{name}"
        if not isinstance(node, dict) or not all(
            isinstance(node.get(part) or {}, dict) for part in ("inputs", "outputs")
        ):
            raise PlanError(f"The job '{path}', its inputs and its outputs must be JSON objects.")
        kind = str(node.get("type") or "command").lower()
        if kind in REFUSED:
            raise PlanError(f"Jobs of type '{kind}' do not run in the local workspace (job '{path}').")
        identity = node.get("componentId") or node.get("component")
        if not isinstance(identity, str):
            raise PlanError(f"The job '{path}' names no component.")
        component = self.planner._find(identity, self.home)
        run = str(uuid.uuid5(NAMESPACE, f"{self.plan.job}/{path}"))
        display = str(node.get("display_name") or name)
        values = {key: self._value(value) for key, value in (node.get("inputs") or {}).items()}
        values = checked(component, values, where=path)
        targets: dict[str, str] = {}
        exported: dict[str, str] = {}
        specs = node.get("outputs") or {}
        for key, out in component.outputs.items():
            spec = specs.get(key)
            binding = spec.get("value") if isinstance(spec, dict) else spec
            target = reference(binding) if isinstance(binding, str) else None
            if target and target.output and not target.job:
                exported[key] = target.output
                if target.output in self.targets:
                    targets[key] = self.targets[target.output]
                    continue
            plain = spec if isinstance(spec, dict) else {}
            if component.kind != "pipeline" or plain.get("uri") or plain.get("path"):
                targets[key] = output_uri(plain, run=run, name=key, kind=out.type)
        for key in specs:
            if key not in component.outputs:
                raise PlanError(f"The component '{component.name}' of job '{path}' has no output '{key}'.")
        if component.kind == "pipeline":
            self.plan.groups.append(Group(path, run, self.parent, display, component.id))
            inner = _Scope(
                self.planner,
                self.plan,
                {key: dict(value) for key, value in component.jobs.items()},
                values,
                targets,
                prefix=f"{path}/",
                parent=run,
                home=self.planner._home(component),
            )
            produced: dict[str, Given] = inner.expand()
        else:
            self._leaf(path, run, display, node, component, values, targets)
            produced = {key: Output(path, key, component.outputs[key].type) for key in component.outputs}
        for key, outer in exported.items():
            if key in produced:
                self.bound[outer] = produced[key]
        return produced

    def _leaf(
        self,
        path: str,
        run: str,
        display: str,
        node: Document,
        component: Component,
        values: dict[str, Given],
        targets: dict[str, str],
    ) -> None:
        literals = {key: value.value if isinstance(value, Literal) else None for key, value in self.values.items()}
        distribution = node.get("distribution") or component.distribution
        limits = node.get("limits") or component.limits or {}
        variables = {**component.environment_variables, **(node.get("environment_variables") or {})}
        compute = node.get("computeId") or node.get("compute")
        self.plan.steps.append(
            Step(
                path=path,
                run=run,
                parent=self.parent,
                display_name=display,
                component=component.id,
                command=component.command,
                code=component.code,
                environment=component.environment,
                inputs={key: value.json() for key, value in values.items()},
                outputs={key: {"uri": uri, "type": component.outputs[key].type} for key, uri in targets.items()},
                needs=sorted({value.step for value in values.values() if isinstance(value, Output)}),
                environment_variables={key: interpolate(text(value), literals) for key, value in variables.items()},
                processes=processes(distribution, node.get("resources"), literals),
                timeout_s=seconds(limits.get("timeout")),
                compute=compute_name(interpolate(text(compute), literals) if compute else None),
            )
        )

    def _value(self, raw: Any) -> Given:
        """What an input of a node is, bindings followed."""
        plain = given(raw)
        if not isinstance(plain, Literal):
            return plain
        target = reference(plain.value)
        if target is None:
            if EXPRESSION.search(plain.value):
                literals = {k: v.value if isinstance(v, Literal) else None for k, v in self.values.items()}
                return Literal(interpolate(plain.value, literals))
            return plain
        if target.input is not None:
            return self.values.get(target.input, Absent())
        if target.job is None or target.output is None:
            raise PlanError(f"The expression '{plain.value}' cannot be the value of an input.")
        outputs = self._open(target.job)
        if target.output not in outputs:
            raise PlanError(f"The job '{target.job}' has no output '{target.output}'.")
        return outputs[target.output]


__all__ = ["Asset", "Group", "Plan", "PlanError", "Planner", "Step", "load", "port"]
