"""Carries a plan out, part by part; what is there already is met again, so a run that was cut off goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mlops import flow
from mlops.azure import computes, groups, identities, management, roles
from mlops.azure import quota as region
from mlops.azure.ensure import ensure, settled
from mlops.azure.session import Session
from mlops.core.errors import AzureError, MlopsError, PreconditionError
from mlops.machines.quota import PAGE, Shortage
from mlops.setup import capacity
from mlops.setup.desired import TAGS, ResourceSpec, provisioning
from mlops.setup.plan import Step
from mlops.setup.survey import SetupRequest

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
    failed: list[tuple[Step, MlopsError]] = field(default_factory=list)


def apply(session: Session, request: SetupRequest, steps: Sequence[Step]) -> Done:
    """Make and change what the plan says.

    Raises:
        MlopsError: a part that others lean on could not be made; the next run goes on there.
    """
    done = Done()
    for step in steps:
        if not step.to_do:
            continue
        try:
            with session.console.step(_sentence(step)) as progress:
                progress.note = _one(session, request, step, done)
        except MlopsError as error:
            if step.kind not in ENOUGH_TO_GO_ON:
                error.details = (*error.details, f"{len(done.made)} were made before; mlops setup goes on there")
                raise
            done.failed.append((step, error))
        else:
            done.made.append(step.title)
    return done


def failure(done: Done) -> MlopsError | None:
    """The error that a run ends with where a part could not be had."""
    if not done.failed:
        return None
    (step, first), *others = done.failed
    details = [*first.details, *(f"{each.title}: {error.message}" for each, error in others)]
    kind = PreconditionError if isinstance(first, PreconditionError) else AzureError
    hint = f"{first.hint}; all else is there: run mlops setup again then" if first.hint else "run mlops setup again"
    return kind(f"{step.title}: {first.message}", details=details, hint=hint)


def _sentence(step: Step) -> str:
    verbs = {"providers": "Register", "role": "Give the", "quota": "Look at the"}
    verb = verbs.get(step.kind, "Change the" if step.state == "change" else "Make the")
    return f"{verb} {step.title}"


def _one(session: Session, request: SetupRequest, step: Step, done: Done) -> str:
    scope, data = request.scope, step.data
    match step.kind:
        case "providers":
            management.register(session, data["names"])
            return f"{len(data['names'])} of them"
        case "group":
            groups.create(session, scope.group, region=scope.region, tags=TAGS)
        case "resource":
            _resource(session, data["wanted"], data)
        case "quota":
            return _quota(session, request, step, done)
        case "cluster":
            return _cluster(session, request, step)
        case "identity":
            identities.create(session, step.name, scope.group, region=scope.region, tags=TAGS)
        case "role":
            identity = _there(session, request, data["identity"])
            roles.assign(session, identity.principal_id, data["role"], data["scope"])
        case "trust":
            identities.trust(
                session, data["identity"], scope.group, credential=data["credential"], subject=data["subject"]
            )
        case "connection":
            _connect(session, request)
    return step.note


def _resource(session: Session, spec: ResourceSpec, data: Any) -> None:
    if "patch" in data:
        body = data["patch"]

        def change() -> None:
            management.patch(session, spec.id, spec.api_version, body)

        def holds() -> bool | None:
            document = management.get(session, spec.id, spec.api_version)
            return True if document is not None and not spec.lacks(document) else None

        ensure(change, holds)
        return
    body = spec.body
    if data.get("recover"):
        body = {**body, "properties": {**body["properties"], "createMode": "recover"}}
    what = f"the {spec.what} '{spec.name}'"

    def stands() -> bool | None:
        document = settled(session, what, lambda: management.get(session, spec.id, spec.api_version), provisioning)
        return True if document is not None and provisioning(document).lower() == "succeeded" else None

    def make() -> None:
        try:
            management.put(session, spec.id, spec.api_version, body)
        except MlopsError as error:
            if spec.what != "key vault" or IN_DELETED_STATE not in error.message.lower():
                raise
            # it could not be seen beforehand: deleted vaults are listed at the subscription
            recovered = {**body, "properties": {**body["properties"], "createMode": "recover"}}
            management.put(session, spec.id, spec.api_version, recovered)

    ensure(make, stands)


def _there(session: Session, request: SetupRequest, name: str) -> identities.Identity:
    identity = identities.get(session, name, request.scope.group)
    if identity is None:
        raise AzureError(f"the identity '{name}' is gone", hint="run mlops setup again")
    return identity


def _cluster(session: Session, request: SetupRequest, step: Step) -> str:
    if step.state == "change":
        computes.widen(session, step.name, step.data["max_nodes"])
        return step.note
    cluster = settled(
        session,
        f"the cluster '{step.name}'",
        lambda: computes.get(session, step.name),
        lambda cluster: cluster.state,
    )
    existing = cluster or computes.create(session, request.settings.compute)
    return f"{existing.tier}, up to {existing.max_nodes} nodes"


def _quota(session: Session, request: SetupRequest, step: Step, done: Done) -> str:
    """Ask for what is short; what cannot be asked for is told, and stops nothing."""
    requests: Sequence[tuple[str, Shortage]] = step.data.get("ask") or ()
    if step.state == "later":
        current = capacity.measure(session, request.settings, request.scope, ask=request.quota)
        if current.problem or current.unknown:
            done.notes.append(current.problem or f"the region offers no {', '.join(current.unknown)}")
            return "not known"
        if not current.short:
            return "it suffices for one training and two slots"
        requests = current.to_ask()
        done.notes += [by_hand(short) for short in current.short if all(short is not item for _, item in requests)]
    outcomes = []
    for family, short in requests:
        try:
            outcome = region.ask(session, request.scope.region, family, short.enough)
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


def _connect(session: Session, request: SetupRequest) -> None:
    quiet = dataclasses.replace(session.console, quiet=True)
    flow.connect_azure(session, request.settings, quiet, project=request.settings.setup.project)
