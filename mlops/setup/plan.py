"""What setup would do, part by part: decided from what was looked at, before anything is made."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mlops import flow
from mlops.core.resources import made_here
from mlops.machines.quota import PAGE
from mlops.setup.desired import Wanted, dependents, provisioning
from mlops.setup.survey import Facts, Order, wanted

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
class Part:
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


def plan(order: Order, facts: Facts) -> list[Part]:
    """Every part in the order in which it is made."""
    return [
        _providers(facts),
        _group(order, facts),
        *_resources(order, facts, flow=False),
        _quota(facts),
        _cluster(order, facts),
        *_identities(order, facts),
        *_federations(order, facts),
        *_resources(order, facts, flow=True),
        *_connection(order, facts),
    ]


def wrong(parts: Sequence[Part]) -> list[Part]:
    """What is in the way."""
    return [part for part in parts if part.state == "wrong"]


def nothing_to_do(parts: Sequence[Part]) -> bool:
    """Whether all that setup can make is there."""
    return not any(part.to_do for part in parts)


def _providers(facts: Facts) -> Part:
    names = facts.unregistered
    return Part(
        kind="providers",
        what="resource providers",
        name="",
        state="make" if names else "exists",
        note=f"register {', '.join(name.removeprefix('Microsoft.') for name in names)}" if names else "",
        action=ACTIONS["providers"],
        data={"names": list(names)},
    )


def _group(order: Order, facts: Facts) -> Part:
    found, place = facts.group, order.place
    state: State = "make" if found is None else "exists"
    note = f"in {place.region}" if found is None else "" if made_here(found.tags) else "not made by setup"
    if found is not None and found.state.lower() == "deleting":
        state, note = "wrong", "it is being deleted: wait until it is gone"
    return Part(kind="group", what="resource group", name=place.group, state=state, note=note, action=ACTIONS["group"])


def _resources(order: Order, facts: Facts, *, flow: bool) -> Iterator[Part]:
    for item in wanted(order, facts.workspace):
        if (item.what in ("hub", "project")) == flow:
            yield _resource(item, facts)


def _resource(item: Wanted, facts: Facts) -> Part:
    found = facts.document(item.id)
    made: dict[str, Any] = {"wanted": item}
    if found is None:
        buried = item.what == "key vault" and facts.buried_vault
        state: State = "make"
        note = "a deleted one of this name is recovered" if buried else ""
        return _of(item, state, note, {**made, "recover": buried})
    document = dict(found)
    unfit = item.unfit(document)
    if unfit:
        return _of(item, "wrong", unfit, made)
    status = provisioning(document).lower()
    if status != "succeeded" and not made_here(document.get("tags") or {}):
        return _of(item, "wrong", f"it is '{status}', and setup did not make it: its owner has to see to it", made)
    if status != "succeeded":
        again = status in ("failed", "canceled")
        return _of(item, "make", f"again: it is '{status}'" if again else f"it is '{status}'", made)
    lacks = item.lacks(document)
    if lacks:
        return _of(item, "change", f"it gets its {', '.join(sorted(lacks['properties']))}", {**made, "patch": lacks})
    return _of(item, "exists", "" if made_here(document.get("tags") or {}) else "not made by setup", made)


def _of(item: Wanted, state: State, note: str, data: Mapping[str, Any]) -> Part:
    action = f"{item.kind}/write"
    return Part(kind="resource", what=item.what, name=item.name, state=state, note=note, action=action, data=data)


def _quota(facts: Facts) -> Part:
    found = facts.capacity
    part = functools.partial(Part, kind="quota", what="quota", name="")
    if found is None:
        return part(state="later", note="looked at when the providers are registered")
    if found.problem:
        return part(state="open", note=f"not known: {found.problem}")
    if found.unknown:
        return part(state="open", note=f"the region offers no {', '.join(found.unknown)}")
    if not found.short:
        return part(state="exists", note="suffices for one training and two slots")
    asked = [f"{short.enough} vCPUs of '{family}'" for family, short in found.to_ask()]
    if asked:
        return part(state="make", note=f"ask for {' and '.join(asked)}", data={"ask": found.to_ask()})
    return part(state="open", note=_how_to_ask(facts))


def _how_to_ask(facts: Facts) -> str:
    assert facts.capacity is not None
    parts = []
    for family, short in zip(facts.capacity.families, facts.capacity.short, strict=True):
        before = facts.capacity.asked.get(family)
        told = f"; asked for {before.limit}: {before.state}" if before else ""
        parts.append(f"a limit of {short.enough} vCPUs of '{short.family}' is needed, it is {short.limit}{told}")
    return f"{'; '.join(parts)}; ask at {PAGE}"


def _cluster(order: Order, facts: Facts) -> Part:
    asked, found = order.settings.compute, facts.cluster
    nodes = f"{asked.min_nodes} to {asked.max_nodes} nodes"
    part = functools.partial(Part, kind="cluster", what="cluster", name=asked.name, action=ACTIONS["cluster"])
    if found is None:
        return part(state="make", note=f"{asked.size}, {asked.tier}, {nodes}, idle {asked.idle_s} s")
    if found.size.lower() != asked.size.lower():
        return part(state="wrong", note=f"it has {found.size}, compute.size is {asked.size}")
    if found.state.lower() in ("failed", "canceled"):
        return part(state="wrong", note=f"it is '{found.state}': delete it, and run setup again")
    if found.state.lower() != "succeeded":
        return part(state="make", note=f"it is '{found.state}'")
    most = asked.max_nodes
    if found.tier.lower().replace("_", "") == "lowpriority":
        most = max(asked.max_nodes, asked.max_nodes_low_priority)
    if made_here(found.tags) and found.max_nodes != most:
        note = f"at most {most} nodes instead of {found.max_nodes}"
        return part(state="change", note=note, data={"max_nodes": most})
    return part(state="exists", note="" if made_here(found.tags) else "not made by setup")


def _identities(order: Order, facts: Facts) -> Iterator[Part]:
    uses = dependents(order.place, facts.workspace)
    scopes = {"group": order.place.group_id, "storage": uses.storage, "registry": uses.registry}
    for name, granted in ((order.endpoint_identity, ENDPOINT_ROLES), (order.github_identity, GITHUB_ROLES)):
        if name is None:
            continue
        found = facts.identities.get(name)
        note = "" if found is None or made_here(found.tags) else "not made by setup"
        yield Part(
            kind="identity",
            what="identity",
            name=name,
            state="exists" if found else "make",
            note=note,
            action=ACTIONS["identity"],
        )
        for role, where in granted:
            scope = scopes[where]
            held = any(
                item.role == role and item.scope.rstrip("/").lower() == scope.lower()
                for item in facts.assignments.get(name, ())
            )
            yield Part(
                kind="role",
                what="role",
                name=f"{role} for {name}",
                state="exists" if held else "make",
                note=f"on {'the group' if where == 'group' else scope.rsplit('/', 1)[-1]}",
                action=ACTIONS["role"],
                data={"identity": name, "role": role, "scope": scope},
            )


def _federations(order: Order, facts: Facts) -> Iterator[Part]:
    if order.github_identity is None:
        return
    identity = facts.identities.get(order.github_identity)
    for subject in order.subjects:
        found = facts.federations.get(subject.credential)
        same = [each for each in facts.federations.values() if each.of_github and each.subject == subject.value]
        data = {"identity": order.github_identity, "credential": subject.credential, "subject": subject.value}
        state: State = "make"
        note = subject.value
        if not subject.value:
            state, note = ("open", f"{subject.why_not}: {subject.hint}") if found is None else ("exists", found.subject)
        elif same:  # by whatever name: Entra takes no second one for the same subject
            state = "exists"
        elif found is not None and identity is not None and not made_here(identity.tags):
            state, note = "wrong", f"it trusts '{found.subject}', and its identity was not made by setup"
        elif found is not None:
            state, note = "change", f"{subject.value} instead of {found.subject}"
        yield Part(
            kind="trust",
            what="federated credential",
            name=subject.credential,
            state=state,
            note=note,
            action=ACTIONS["trust"],
            data=data,
        )


def _connection(order: Order, facts: Facts) -> Iterator[Part]:
    if not order.prompt_flow:
        return
    name = order.settings.endpoint.name
    part = functools.partial(Part, kind="connection", what="connection", name=flow.NAME, action=ACTIONS["connection"])
    if facts.scoring_url is None:
        how = f"waits for the endpoint {name}: mlops deploy makes it; then mlops setup --prompt-flow again"
        yield part(state="open", note=how)
    else:
        there = facts.connected_to == facts.scoring_url
        yield part(state="exists" if there else "make", note=f"to the endpoint {name}")


def needed_actions(parts: Sequence[Part]) -> list[str]:
    """What the login must be allowed, for all that is to be made."""
    return list(dict.fromkeys(part.action for part in parts if part.to_do and part.action))
