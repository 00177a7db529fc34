"""Rollback: the previous version, or a named one, into traffic again, whoever is deploying meanwhile."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops.azure import endpoints, models
from mlops.azure.endpoints import shares
from mlops.core.errors import MlopsError, PreconditionError
from mlops.core.resources import Deployment, Endpoint, ModelVersion
from mlops.ledger import (
    Begin,
    End,
    Ledger,
    Lock,
    Outcome,
    Planned,
    Record,
    ReplacedVersion,
    TrafficIntent,
    TrafficMoved,
    Verdict,
    approved,
    cleared,
    history,
)
from mlops.rollout.context import ReleaseRequest
from mlops.rollout.deploy import release, replaced_version
from mlops.rollout.plan import holds
from mlops.rollout.recovery import recover
from mlops.rollout.result import RolloutResult
from mlops.scoring.client import scorer

if TYPE_CHECKING:
    from mlops.azure.session import Session
    from mlops.config.settings import Settings

LATE_S = 2.0
"""A deploy whose lease was broken may have one request under way; what it changes is to be seen when we look."""


@dataclass(frozen=True, kw_only=True)
class RollbackContext:
    """The endpoint under the rollback's lock, with no operation under way."""

    session: Session
    lock: Lock
    endpoint: Endpoint
    deployments: Sequence[Deployment]

    @property
    def traffic(self) -> dict[str, int]:
        """Per cent per slot."""
        return shares(self.endpoint.traffic)

    @property
    def live(self) -> Deployment | None:
        """The slot with all the traffic."""
        return next((slot for slot in self.deployments if self.share(slot) == 100), None)

    def share(self, slot: Deployment) -> int:
        """Per cent of traffic on a slot."""
        return self.traffic.get(slot.name.lower(), 0)


def rollback(
    session: Session,
    settings: Settings,
    *,
    version: ModelVersion | None,
    name: str | None = None,
    skip_gate: str | None = None,
    reason: str = "",
) -> RolloutResult:
    """Put the previous version, or a named one, back into traffic; no gate for what has passed it before.

    It does not wait for a deploy: it breaks its lease, which stops the deploy at its next write, and undoes what that
    one had done to the traffic.

    Args:
        session: the workspace.
        settings: the target's settings.
        version: the version to go back to; the previous one when None.
        name: the endpoint, the settings' one by default.
        skip_gate: why a version that has not passed the gate may have the traffic.
        reason: why, for the history.

    Raises:
        PreconditionError: there is no endpoint, nothing to go back to, or only what has not passed the gate.
    """
    name = name or settings.endpoint.name
    before = endpoints.get(session, name)
    if before is None:
        raise _no_endpoint(name)
    with Ledger(session, name).acquire(action="rollback", break_lease=True) as lock:
        why = skip_gate or reason or None
        lock.write(Begin(model=version.name, version=version.version, reason=why) if version else Begin(reason=why))
        if lock.superseded:
            time.sleep(LATE_S)
        decision = recover(session, lock, name)
        context = _inspect(session, lock, name)
        if version is None and context.live is not None and decision and decision.traffic:
            return _undone(context, context.live, before=shares(before.traffic))
        return _go_back(settings, context, version, skip_gate)


def _no_endpoint(name: str) -> PreconditionError:
    return PreconditionError(f"there is no endpoint '{name}'", hint="mlops deploy makes it")


def _inspect(session: Session, lock: Lock, name: str) -> RollbackContext:
    """The endpoint once its operations have ended."""
    try:
        endpoint = endpoints.settle(session, name)
        if endpoint is None:
            raise _no_endpoint(name)
        deployments = endpoints.settled_deployments(session, name)
    except MlopsError as error:
        lock.write(End(outcome=Outcome.FAILED, error=error.message))
        raise
    return RollbackContext(session=session, lock=lock, endpoint=endpoint, deployments=deployments)


def _undone(context: RollbackContext, live: Deployment, *, before: dict[str, int]) -> RolloutResult:
    """The rollout under way had moved traffic, and recovery has put it back: that is the rollback."""
    _reassert_traffic(context, context.traffic)
    context.lock.write(
        End(
            outcome=Outcome.ROLLED_BACK,
            before=before,
            traffic=context.traffic,
            slot=live.name,
            model=live.model,
            version=live.model_version,
        )
    )
    return _result(context, live, before=before, changed=True, note="the rollout that was under way is undone")


def _go_back(
    settings: Settings, context: RollbackContext, version: ModelVersion | None, skip_gate: str | None
) -> RolloutResult:
    live = context.live
    goal = _choose_version(context, version, skip_gate)
    if version is not None and live is not None and holds(live, goal):
        _reassert_traffic(context, context.traffic)
        context.lock.write(End(outcome=Outcome.UNCHANGED, traffic=context.traffic, slot=live.name))
        return _result(context, live, before=context.traffic, note="was live already")
    ready = _ready_slots(context, goal, named=version is not None, skip_gate=skip_gate is not None)
    if ready:
        return _switch(context, max(ready, key=context.share), skip_gate)
    context.session.console.say(f"no slot holds {goal.name}:{goal.version}; it is deployed again")
    why = skip_gate or "a rollback to a version that has passed before"
    request = ReleaseRequest(version=goal, endpoint=context.endpoint.name, skip_gate=why)
    return release(context.session, settings, context.lock, request)


def _choose_version(context: RollbackContext, version: ModelVersion | None, skip_gate: str | None) -> ModelVersion:
    """The version to go back to, if it may have traffic."""
    records, name = context.lock.records(), context.endpoint.name
    try:
        goal = version or previous_version(context.session, records, context.live, context.deployments, name)
        if skip_gate is None and not approved(records, goal.name, goal.version) and not holds(context.live, goal):
            raise PreconditionError(
                f"the version '{goal.version}' has not passed the gate of '{name}'",
                hint=f'mlops deploy {goal.version} asks it; or mlops rollback {goal.version} --skip-gate "REASON"',
            )
    except MlopsError as error:
        context.lock.write(End(outcome=Outcome.FAILED, traffic=context.traffic, error=error.message))
        raise
    return goal


def _ready_slots(context: RollbackContext, goal: ModelVersion, *, named: bool, skip_gate: bool) -> list[Deployment]:
    """The slots that can take the traffic for a version at once."""
    live, records = context.live, context.lock.records()
    return [
        slot
        for slot in context.deployments
        if holds(slot, goal)
        and slot.state.lower() == "succeeded"
        and (skip_gate or cleared(records, slot.name))
        and (named or slot is not live)  # the same version in both: it was deployed again with --force
    ]


def _switch(context: RollbackContext, slot: Deployment, skip_gate: str | None) -> RolloutResult:
    """All traffic to a slot that stands, read back."""
    session, lock, name, live = context.session, context.lock, context.endpoint.name, context.live
    goal = {slot.name.lower(): 100}
    lock.write(
        Planned(
            action="rollback",
            slot=slot.name,
            live=live.name if live else None,
            before=context.traffic,
            steps=(100,),
            model=slot.model,
            version=slot.model_version,
            replaced=replaced_version(live),
        )
    )
    if skip_gate is not None:
        lock.write(
            Verdict(
                what="skipped",
                verdict="skipped",
                slot=slot.name,
                model=slot.model,
                version=slot.model_version,
                reason=skip_gate,
            )
        )
    with session.console.step(f"Traffic: 100 % to {slot.name}"):
        seen = _set_traffic(context, goal)
        lock.write(TrafficMoved(traffic=shares(seen.traffic)))
    _reassert_traffic(context, goal)
    _probe(session, name)
    lock.write(End(outcome=Outcome.ROLLED_BACK, traffic=shares(seen.traffic), vacated=live.name if live else None))
    after = dataclasses.replace(context, endpoint=seen)
    result = _result(
        after, slot, before=context.traffic, changed=context.traffic != goal, note="back to the slot that still stands"
    )
    replaced = f"{live.model}:{live.model_version}" if live else None
    return dataclasses.replace(result, skipped_gate=skip_gate, replaced=replaced)


def previous_version(
    session: Session, records: Sequence[Record], live: Deployment | None, deployments: Sequence[Deployment], name: str
) -> ModelVersion:
    """The version that was live before what is live now, by the endpoint's history.

    It is the same version where that was deployed anew and its older slot still stands.

    Raises:
        PreconditionError: the history knows none, or the model has it no more.
    """
    others = {(item.model, item.model_version) for item in deployments if live is None or item.name != live.name}
    replaced = replaced_versions(records, live)
    for model, version in (*replaced, *previously_live(records)):
        same = live is not None and (model, version) == (live.model, live.model_version)
        if same and not ((model, version) in replaced and (model, version) in others):
            continue
        registered = models.get(session, model, version)
        if registered is not None:
            return registered
        session.console.warn(f"{model}:{version} was live before, and is registered no more")
    raise PreconditionError(
        f"the history of '{name}' knows no version that was live before this one",
        hint='mlops rollback VERSION --skip-gate "REASON" takes a version that it does not know',
    )


def replaced_versions(records: Sequence[Record], live: Deployment | None) -> list[tuple[str, str]]:
    """What was live when the version that is live now came, by the newest rollout that brought it."""
    ended = {
        record.rollout for record in records if isinstance(record.facts, End) and record.facts.outcome.took_traffic
    }
    for record in reversed(records):
        plan = record.facts
        if not isinstance(plan, Planned) or record.rollout not in ended or live is None:
            continue
        if (plan.model, plan.version) == (live.model, live.model_version):
            replaced = plan.replaced
            return [(replaced.model, replaced.version)] if isinstance(replaced, ReplacedVersion) else []
    return []


def previously_live(records: Sequence[Record]) -> list[tuple[str, str]]:
    """The versions that have had all the traffic, newest first, each once."""
    versions = [
        (entry.model, entry.version)
        for entry in history(records)
        if entry.outcome.took_traffic and entry.version and 100 in entry.after.values()
    ]
    return list(dict.fromkeys(versions))


def _probe(session: Session, name: str) -> None:
    """One request without a header; a rollback is not undone by its answer, but who is on call should know it."""
    try:
        client = scorer(session, name, timeout_s=session.settings.gate.timeout_s)
        question = {"input_string": [{"role": "user", "content": "Hello"}], "parameters": {"max_new_tokens": 8}}
        answer = client.ask({"input_data": question, "params": {}})
    except MlopsError as error:
        session.console.warn(f"the endpoint could not be asked: {error.message}")
        return
    if answer.ok:
        session.console.say(f"{name} answers from {answer.slot or 'an unnamed slot'} in {answer.latency_ms:.0f} ms")
    else:
        session.console.warn(f"{name} does not answer: {answer.error}; look with mlops endpoint logs")


def _set_traffic(context: RollbackContext, traffic: dict[str, int]) -> Endpoint:
    """Set the traffic map; the intent stands in the history before the call."""
    intent = TrafficIntent(desired=traffic, what="rollback")
    return endpoints.set_traffic(
        context.session, context.endpoint.name, traffic, fence=lambda: context.lock.write(intent)
    )


def _reassert_traffic(context: RollbackContext, traffic: dict[str, int]) -> None:
    """A deploy whose lease was broken may have had one call under way: it must not have the last word."""
    if context.lock.superseded is None:
        return
    name = context.endpoint.name
    endpoint = endpoints.settle(context.session, name)
    if endpoint is not None and shares(endpoint.traffic) != traffic:
        context.session.console.warn(f"the deploy that was stopped set the traffic of {name} once more; it is set back")
        _set_traffic(context, traffic)


def _result(
    context: RollbackContext, slot: Deployment, *, before: dict[str, int], note: str, changed: bool = False
) -> RolloutResult:
    return RolloutResult(
        endpoint=context.endpoint.name,
        slot=slot.name,
        model=slot.model,
        version=slot.model_version,
        traffic=context.traffic,
        before=before,
        scoring_url=context.endpoint.scoring_url,
        changed=changed,
        rollout=context.lock.rollout,
        note=note,
    )
