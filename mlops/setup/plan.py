"""What setup would do, part by part: decided from what was looked at, before anything is made."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mlops import flow
from mlops.core.resources import made_here
from mlops.machines.quota import PAGE
from mlops.setup.desired import ResourceSpec, dependents, provisioning
from mlops.setup.survey import CurrentState, SetupRequest, desired_resources

State = Literal["exists", "make", "change", "wrong", "later", "open"]
"""``later``: cannot be looked at before what comes earlier is made; ``open``: a person has to do it."""
DOING = ("make", "change", "later")

ENDPOINT_ROLES = (("Storage Blob Data Reader", "storage"), ("AcrPull", "registry"))
"""What a container that runs model code may do, and nothing more."""
GITHUB_ROLES = (("Contributor", "group"), ("Storage Blob Data Contributor", "storage"))
"""What workflows need: to train, register, deploy, clean up; and to upload without the account's keys."""
ACTIONS = {
    "providers": "Microsoft.Resources/subscriptions/providers/register/action",
    "group": "Microsoft.Resources/subscriptions/resourceGroups/write",
    "cluster": "Microsoft.MachineLearningServices/workspaces/computes/write",
    "identity": "Microsoft.ManagedIdentity/userAssignedIdentities/write",
    "trust": "Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials/write",
    "connection": "Microsoft.MachineLearningServices/workspaces/connections/write",
    "role": "Microsoft.Authorization/roleAssignments/write",
}
"""What the login must be allowed, by the kind of a part."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing that is to be there."""

    kind: str
    what: str
    name: str
    state: State
    note: str = ""
    action: str = ""
    """What the login must be allowed to do it."""
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.what} {self.name}".strip()

    @property
    def to_do(self) -> bool:
        """Whether something is made, changed, or looked at later."""
        return self.state in DOING


def plan(request: SetupRequest, current: CurrentState) -> list[Step]:
    """Every part in the order in which it is made."""
    return [
        _providers(current),
        _group(request, current),
        *_resources(request, current, flow=False),
        _quota(current),
        _cluster(request, current),
        *_identities(request, current),
        *_federations(request, current),
        *_resources(request, current, flow=True),
        *_connection(request, current),
    ]


def wrong(steps: Sequence[Step]) -> list[Step]:
    """What is in the way."""
    return [step for step in steps if step.state == "wrong"]


def nothing_to_do(steps: Sequence[Step]) -> bool:
    """Whether all that setup can make is there."""
    return not any(step.to_do for step in steps)


def _providers(current: CurrentState) -> Step:
    names = current.unregistered
    return Step(
        kind="providers",
        what="resource providers",
        name="",
        state="make" if names else "exists",
        note=f"register {', '.join(name.removeprefix('Microsoft.') for name in names)}" if names else "",
        action=ACTIONS["providers"],
        data={"names": list(names)},
    )


def _group(request: SetupRequest, current: CurrentState) -> Step:
    group, scope = current.group, request.scope
    state: State = "make" if group is None else "exists"
    note = f"in {scope.region}" if group is None else "" if made_here(group.tags) else "not made by setup"
    if group is not None and group.state.lower() == "deleting":
        state, note = "wrong", "it is being deleted: wait until it is gone"
    return Step(kind="group", what="resource group", name=scope.group, state=state, note=note, action=ACTIONS["group"])


def _resources(request: SetupRequest, current: CurrentState, *, flow: bool) -> Iterator[Step]:
    for item in desired_resources(request, current.workspace):
        if (item.what in ("hub", "project")) == flow:
            yield _resource(item, current)


def _resource(item: ResourceSpec, current: CurrentState) -> Step:
    existing = current.document(item.id)
    data: dict[str, Any] = {"wanted": item}
    if existing is None:
        buried = item.what == "key vault" and current.buried_vault
        state: State = "make"
        note = "a deleted one of this name is recovered" if buried else ""
        return _of(item, state, note, {**data, "recover": buried})
    document = dict(existing)
    unfit = item.unfit(document)
    if unfit:
        return _of(item, "wrong", unfit, data)
    status = provisioning(document).lower()
    if status != "succeeded" and not made_here(document.get("tags") or {}):
        return _of(item, "wrong", f"it is '{status}', and setup did not make it: its owner has to see to it", data)
    if status != "succeeded":
        again = status in ("failed", "canceled")
        return _of(item, "make", f"again: it is '{status}'" if again else f"it is '{status}'", data)
    lacks = item.lacks(document)
    if lacks:
        return _of(item, "change", f"it gets its {', '.join(sorted(lacks['properties']))}", {**data, "patch": lacks})
    return _of(item, "exists", "" if made_here(document.get("tags") or {}) else "not made by setup", data)


def _of(item: ResourceSpec, state: State, note: str, data: Mapping[str, Any]) -> Step:
    action = f"{item.kind}/write"
    return Step(kind="resource", what=item.what, name=item.name, state=state, note=note, action=action, data=data)


def _quota(current: CurrentState) -> Step:
    capacity = current.capacity
    step = functools.partial(Step, kind="quota", what="quota", name="")
    if capacity is None:
        return step(state="later", note="looked at when the providers are registered")
    if capacity.problem:
        return step(state="open", note=f"not known: {capacity.problem}")
    if capacity.unknown:
        return step(state="open", note=f"the region offers no {', '.join(capacity.unknown)}")
    if not capacity.short:
        return step(state="exists", note="suffices for one training and two slots")
    limits = [f"{short.enough} vCPUs of '{family}'" for family, short in capacity.to_ask()]
    if limits:
        return step(state="make", note=f"ask for {' and '.join(limits)}", data={"ask": capacity.to_ask()})
    return step(state="open", note=_how_to_ask(current))


def _how_to_ask(current: CurrentState) -> str:
    assert current.capacity is not None
    sentences = []
    for family, short in zip(current.capacity.families, current.capacity.short, strict=True):
        before = current.capacity.asked.get(family)
        earlier_request = f"; asked for {before.limit}: {before.state}" if before else ""
        sentences.append(
            f"a limit of {short.enough} vCPUs of '{short.family}' is needed, it is {short.limit}{earlier_request}"
        )
    return f"{'; '.join(sentences)}; ask at {PAGE}"


def _cluster(request: SetupRequest, current: CurrentState) -> Step:
    desired, cluster = request.settings.compute, current.cluster
    nodes = f"{desired.min_nodes} to {desired.max_nodes} nodes"
    step = functools.partial(Step, kind="cluster", what="cluster", name=desired.name, action=ACTIONS["cluster"])
    if cluster is None:
        return step(state="make", note=f"{desired.size}, {desired.tier}, {nodes}, idle {desired.idle_s} s")
    if cluster.size.lower() != desired.size.lower():
        return step(state="wrong", note=f"it has {cluster.size}, compute.size is {desired.size}")
    if cluster.state.lower() in ("failed", "canceled"):
        return step(state="wrong", note=f"it is '{cluster.state}': delete it, and run setup again")
    if cluster.state.lower() != "succeeded":
        return step(state="make", note=f"it is '{cluster.state}'")
    most = desired.max_nodes
    if cluster.tier.lower().replace("_", "") == "lowpriority":
        most = max(desired.max_nodes, desired.max_nodes_low_priority)
    if made_here(cluster.tags) and cluster.max_nodes != most:
        note = f"at most {most} nodes instead of {cluster.max_nodes}"
        return step(state="change", note=note, data={"max_nodes": most})
    return step(state="exists", note="" if made_here(cluster.tags) else "not made by setup")


def _identities(request: SetupRequest, current: CurrentState) -> Iterator[Step]:
    uses = dependents(request.scope, current.workspace)
    scopes = {"group": request.scope.group_id, "storage": uses.storage, "registry": uses.registry}
    for name, granted in ((request.endpoint_identity, ENDPOINT_ROLES), (request.github_identity, GITHUB_ROLES)):
        if name is None:
            continue
        identity = current.identities.get(name)
        note = "" if identity is None or made_here(identity.tags) else "not made by setup"
        yield Step(
            kind="identity",
            what="identity",
            name=name,
            state="exists" if identity else "make",
            note=note,
            action=ACTIONS["identity"],
        )
        for role, where in granted:
            scope = scopes[where]
            assigned = any(
                item.role == role and item.scope.rstrip("/").lower() == scope.lower()
                for item in current.assignments.get(name, ())
            )
            yield Step(
                kind="role",
                what="role",
                name=f"{role} for {name}",
                state="exists" if assigned else "make",
                note=f"on {'the group' if where == 'group' else scope.rsplit('/', 1)[-1]}",
                action=ACTIONS["role"],
                data={"identity": name, "role": role, "scope": scope},
            )


def _federations(request: SetupRequest, current: CurrentState) -> Iterator[Step]:
    if request.github_identity is None:
        return
    identity = current.identities.get(request.github_identity)
    for subject in request.subjects:
        federation = current.federations.get(subject.credential)
        same = [each for each in current.federations.values() if each.of_github and each.subject == subject.value]
        data = {"identity": request.github_identity, "credential": subject.credential, "subject": subject.value}
        state: State = "make"
        note = subject.value
        if not subject.value:
            state, note = "open", f"{subject.why_not}: {subject.hint}"
            if federation is not None:
                state, note = "exists", federation.subject
        elif same:  # by whatever name: Entra takes no second one for the same subject
            state = "exists"
        elif federation is not None and identity is not None and not made_here(identity.tags):
            state, note = "wrong", f"it trusts '{federation.subject}', and its identity was not made by setup"
        elif federation is not None:
            state, note = "change", f"{subject.value} instead of {federation.subject}"
        yield Step(
            kind="trust",
            what="federated credential",
            name=subject.credential,
            state=state,
            note=note,
            action=ACTIONS["trust"],
            data=data,
        )


def _connection(request: SetupRequest, current: CurrentState) -> Iterator[Step]:
    if not request.prompt_flow:
        return
    name = request.settings.endpoint.name
    step = functools.partial(Step, kind="connection", what="connection", name=flow.NAME, action=ACTIONS["connection"])
    if current.scoring_url is None:
        how = f"waits for the endpoint {name}: mlops deploy makes it; then mlops setup --prompt-flow again"
        yield step(state="open", note=how)
    else:
        connected = current.connected_to == current.scoring_url
        yield step(state="exists" if connected else "make", note=f"to the endpoint {name}")


def needed_actions(steps: Sequence[Step]) -> list[str]:
    """What the login must be allowed, for all that is to be made."""
    return list(dict.fromkeys(step.action for step in steps if step.to_do and step.action))
