"""Carries a plan out, part by part; what is there already is met again, so a run that was cut off goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mlops import flow
from mlops.azure import computes, groups, identities, management, roles
from mlops.azure import quota as region
from mlops.azure.ensure import converge, settled
from mlops.azure.session import Session
from mlops.core.errors import AzureError, MlopsError, PreconditionError
from mlops.machines.quota import PAGE, Shortage
from mlops.setup import capacity
from mlops.setup.desired import TAGS, Wanted, provisioning
from mlops.setup.plan import Part
from mlops.setup.survey import Order

IN_DELETED_STATE = "in deleted state"
"""Part of Azure's sentence for a key vault whose name a deleted one keeps."""
ENOUGH_TO_GO_ON = ("cluster", "quota", "connection")
"""Parts that no other leans on: where one cannot be had, the others are made all the same."""


@dataclass
class Done:
    """What was made, and what could not be."""

    made: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """For a person to do."""
    failed: list[tuple[Part, MlopsError]] = field(default_factory=list)


def carry_out(session: Session, order: Order, parts: Sequence[Part]) -> Done:
    """Make and change what the plan says.

    Raises:
        MlopsError: a part that others lean on could not be made; the next run goes on there.
    """
    done = Done()
    for part in parts:
        if not part.to_do:
            continue
        try:
            with session.console.step(_sentence(part)) as step:
                step.note = _one(session, order, part, done)
        except MlopsError as error:
            if part.kind not in ENOUGH_TO_GO_ON:
                error.details = (*error.details, f"{len(done.made)} were made before; mlops setup goes on there")
                raise
            done.failed.append((part, error))
        else:
            done.made.append(part.title)
    return done


def failure(done: Done) -> MlopsError | None:
    """The error that a run ends with where a part could not be had."""
    if not done.failed:
        return None
    (part, first), *others = done.failed
    details = [*first.details, *(f"{each.title}: {error.message}" for each, error in others)]
    kind = PreconditionError if isinstance(first, PreconditionError) else AzureError
    hint = f"{first.hint}; all else is there: run mlops setup again then" if first.hint else "run mlops setup again"
    return kind(f"{part.title}: {first.message}", details=details, hint=hint)


def _sentence(part: Part) -> str:
    verbs = {"providers": "Register", "role": "Give the", "quota": "Look at the"}
    verb = verbs.get(part.kind, "Change the" if part.state == "change" else "Make the")
    return f"{verb} {part.title}"


def _one(session: Session, order: Order, part: Part, done: Done) -> str:
    place, data = order.place, part.data
    match part.kind:
        case "providers":
            management.register(session, data["names"])
            return f"{len(data['names'])} of them"
        case "group":
            groups.create(session, place.group, region=place.region, tags=TAGS)
        case "resource":
            _resource(session, data["wanted"], data)
        case "quota":
            return _quota(session, order, part, done)
        case "cluster":
            return _cluster(session, order, part)
        case "identity":
            identities.create(session, part.name, place.group, region=place.region, tags=TAGS)
        case "role":
            identity = _there(session, order, data["identity"])
            roles.assign(session, identity.principal_id, data["role"], data["scope"])
        case "trust":
            identities.trust(
                session, data["identity"], place.group, credential=data["credential"], subject=data["subject"]
            )
        case "connection":
            _connect(session, order)
    return part.note


def _resource(session: Session, wanted: Wanted, data: Any) -> None:
    if "patch" in data:
        body = data["patch"]

        def change() -> None:
            management.patch(session, wanted.id, wanted.api_version, body)

        def holds() -> bool | None:
            found = management.get(session, wanted.id, wanted.api_version)
            return True if found is not None and not wanted.lacks(found) else None

        converge(change, holds)
        return
    body = wanted.body
    if data.get("recover"):
        body = {**body, "properties": {**body["properties"], "createMode": "recover"}}
    what = f"the {wanted.what} '{wanted.name}'"

    def stands() -> bool | None:
        found = settled(session, what, lambda: management.get(session, wanted.id, wanted.api_version), provisioning)
        return True if found is not None and provisioning(found).lower() == "succeeded" else None

    def make() -> None:
        try:
            management.put(session, wanted.id, wanted.api_version, body)
        except MlopsError as error:
            if wanted.what != "key vault" or IN_DELETED_STATE not in error.message.lower():
                raise
            # it could not be seen beforehand: deleted vaults are listed at the subscription
            recovered = {**body, "properties": {**body["properties"], "createMode": "recover"}}
            management.put(session, wanted.id, wanted.api_version, recovered)

    converge(make, stands)


def _there(session: Session, order: Order, name: str) -> identities.Identity:
    found = identities.get(session, name, order.place.group)
    if found is None:
        raise AzureError(f"the identity '{name}' is gone", hint="run mlops setup again")
    return found


def _cluster(session: Session, order: Order, part: Part) -> str:
    if part.state == "change":
        computes.widen(session, part.name, part.data["max_nodes"])
        return part.note
    found = settled(
        session,
        f"the cluster '{part.name}'",
        lambda: computes.get(session, part.name),
        lambda cluster: cluster.state,
    )
    made = found or computes.create(session, order.settings.compute)
    return f"{made.tier}, up to {made.max_nodes} nodes"


def _quota(session: Session, order: Order, part: Part, done: Done) -> str:
    """Ask for what is short; what cannot be asked for is told, and stops nothing."""
    asked: Sequence[tuple[str, Shortage]] = part.data.get("ask") or ()
    if part.state == "later":
        found = capacity.look(session, order.settings, order.place, ask=order.quota)
        if found.problem or found.unknown:
            done.notes.append(found.problem or f"the region offers no {', '.join(found.unknown)}")
            return "not known"
        if not found.short:
            return "it suffices for one training and two slots"
        asked = found.to_ask()
        done.notes += [by_hand(short) for short in found.short if all(short is not item for _, item in asked)]
    outcomes = []
    for family, short in asked:
        try:
            outcome = region.ask(session, order.place.region, family, short.enough)
        except MlopsError as error:
            done.notes.append(f"{by_hand(short)} (Azure on our request: {error.message})")
            outcome = "refused"
        else:
            if outcome != "granted":
                done.notes.append(f"the request for {short.enough} vCPUs of '{family}' is open; Azure decides in days")
        outcomes.append(f"{short.enough} vCPUs of {family}: {outcome}")
    return ", ".join(outcomes) or "it is short"


def by_hand(short: Shortage) -> str:
    """What to ask for, and where."""
    where = f"of '{short.family}'" if short.family else f"for '{short.size}'"
    return f"ask for a limit of {short.enough} vCPUs {where} (provider Machine Learning; it is {short.limit}) at {PAGE}"


def _connect(session: Session, order: Order) -> None:
    quiet = dataclasses.replace(session.console, quiet=True)
    flow.connect_azure(session, order.settings, quiet, project=order.settings.setup.project)
