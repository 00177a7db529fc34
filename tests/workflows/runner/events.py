"""What happens in a repository, and which workflows it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.workflows.runner.bridge import text
from tests.workflows.runner.files import Invalid, Unknown, Workflow, known
from tests.workflows.runner.patterns import any_of, matches

BRANCH = "refs/heads/"
FILTERS = {
    "push": ("branches", "branches-ignore", "paths", "paths-ignore"),
    "pull_request": ("branches", "branches-ignore", "paths", "paths-ignore", "types"),
    "workflow_dispatch": ("inputs",),
    "workflow_call": ("inputs", "outputs", "secrets"),
}
TYPES = ("opened", "synchronize", "reopened")
"""Of a pull request, where a workflow names none."""


@dataclass(frozen=True)
class Event:
    """One event of a repository.

    Attributes:
        changed: paths that differ between before and after; what path filters look at.
        inputs: of a dispatch, as somebody types them.
        fork: the pull request comes from another repository: no secret, no variable, no token.
        action: of a pull request.
        cron: of a schedule, the entry that is due.
    """

    name: str
    sha: str
    ref: str = f"{BRANCH}main"
    changed: tuple[str, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    fork: bool = False
    action: str = "opened"
    number: int = 1
    head: str = ""
    base: str = "main"
    cron: str = ""

    @property
    def branch(self) -> str:
        """The branch that filters look at: of a pull request its base."""
        return self.base if self.name == "pull_request" else self.ref.removeprefix(BRANCH)

    def payload(self) -> dict[str, Any]:
        """`github.event`, as far as it is known here."""
        if self.name == "pull_request":
            owner = "stranger" if self.fork else "acme"
            pull = {
                "number": self.number,
                "head": {"ref": self.head, "sha": self.sha, "repo": {"full_name": f"{owner}/chat", "fork": self.fork}},
                "base": {"ref": self.base, "repo": {"full_name": "acme/chat"}},
            }
            return {"action": self.action, "number": self.number, "pull_request": pull}
        if self.name == "workflow_dispatch":
            return {"inputs": dict(self.inputs), "ref": self.ref}
        if self.name == "schedule":
            return {"schedule": self.cron}
        return {"ref": self.ref, "after": self.sha}


def starts(workflow: Workflow, event: Event) -> bool:
    """Whether the event starts the workflow, by its filters of branches, paths and types."""
    if event.name not in workflow.on:
        return False
    trigger = workflow.on[event.name]
    if event.name == "schedule":
        return any(entry["cron"] == event.cron for entry in trigger)
    filters = known(trigger, f"{workflow.path}, on {event.name}", FILTERS.get(event.name, ()))
    if event.name == "pull_request" and event.action not in filters.get("types", TYPES):
        return False
    return _passes(filters, "branches", [event.branch]) and (
        not {"paths", "paths-ignore"} & set(filters) or _passes(filters, "paths", event.changed)
    )


def _passes(filters: Mapping[str, Any], name: str, values: Sequence[str]) -> bool:
    included, ignored = _several(filters.get(name)), _several(filters.get(f"{name}-ignore"))
    if included and ignored:
        raise Invalid(f"{name} and {name}-ignore exclude each other")
    if included:
        return any_of(included, values)
    return any(not matches(ignored, value) for value in values) if ignored else True


def _several(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def dispatch_inputs(workflow: Workflow, values: Mapping[str, str]) -> dict[str, Any]:
    """The `inputs` of a workflow that somebody starts by hand: defaults filled in, types applied, choices checked."""
    declared = (workflow.on.get("workflow_dispatch") or {}).get("inputs") or {}
    for name in values:
        if name not in declared:
            raise Invalid(f"{workflow.path}: unexpected input '{name}'")
    inputs: dict[str, Any] = {}
    for name, entry in declared.items():
        known(entry, f"{workflow.path}, input {name}", ("description", "type", "required", "default", "options"))
        value = values.get(name, text(entry.get("default")))
        if entry.get("required") and not value:
            raise Invalid(f"{workflow.path}: the input '{name}' is required")
        inputs[name] = _typed(workflow.path, name, entry, value)
    return inputs


def _typed(path: str, name: str, entry: Mapping[str, Any], value: str) -> Any:
    kind = entry.get("type", "string")
    if kind == "boolean":
        if value not in ("true", "false", ""):
            raise Invalid(f"{path}: the input '{name}' is true or false, not '{value}'")
        return value == "true"
    if kind == "choice":
        if value not in entry["options"] and (value or "default" in entry):
            raise Invalid(f"{path}: '{value}' is none of the options of '{name}': {', '.join(entry['options'])}")
        return value or entry["options"][0]
    if kind in ("string", "environment"):
        return value
    if kind == "number":
        return float(value) if value else 0
    raise Unknown(f"{path}: the runner does not know inputs of type '{kind}'")


def call_inputs(workflow: Workflow, values: Mapping[str, Any]) -> dict[str, Any]:
    """The `inputs` of a called workflow; a value of another type is refused, as GitHub does."""
    if "workflow_call" not in workflow.on:
        raise Invalid(f"{workflow.path} cannot be called: it has no workflow_call")
    declared = (known(workflow.on["workflow_call"], workflow.path, FILTERS["workflow_call"])).get("inputs") or {}
    for name in values:
        if name not in declared:
            raise Invalid(f"{workflow.path}: unexpected input '{name}'")
    kinds: dict[str, Any] = {"string": str, "boolean": bool, "number": (int, float)}
    empty = {"string": "", "boolean": False, "number": 0}
    inputs: dict[str, Any] = {}
    for name, entry in declared.items():
        known(entry, f"{workflow.path}, input {name}", ("description", "type", "required", "default"))
        if entry.get("required") and name not in values:
            raise Invalid(f"{workflow.path}: the input '{name}' is required")
        kind = entry["type"]
        value = values.get(name, entry.get("default", empty[kind]))
        value = "" if value is None and kind == "string" else value
        if not isinstance(value, kinds[kind]):
            raise Invalid(f"{workflow.path}: the input '{name}' is a {kind}, not '{value}'")
        inputs[name] = value
    return inputs
