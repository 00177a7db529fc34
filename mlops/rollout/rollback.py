"""The way back: the version before, or a named one, into traffic again, whoever is deploying meanwhile."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlops.azure import endpoints, models
from mlops.azure.endpoints import shares
from mlops.core.errors import MlopsError, PreconditionError
from mlops.core.resources import Deployment, Endpoint, ModelVersion
from mlops.ledger import (
    Begin,
    End,
    Hold,
    Ledger,
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
from mlops.rollout.deploy import release, replaced_version
from mlops.rollout.recovery import recover
from mlops.rollout.result import RolloutResult
from mlops.scoring.client import scorer

if TYPE_CHECKING:
    from mlops.azure.session import Session
    from mlops.config.settings import Settings

LATE_S = 2.0
"""A deploy whose lease was broken may have one request under way; what it changes is to be seen when we look."""


def rollback(
    session: Session,
    settings: Settings,
    *,
    version: ModelVersion | None,
    name: str | None = None,
    skip_gate: str | None = None,
    reason: str = "",
) -> RolloutResult:
    """Put the version before, or a named one, back into traffic; no gate for what has passed it before.

    It does not wait for a deploy: it breaks its lease, which stops the deploy at its next write, and undoes what that
    one had done to the traffic.

    Args:
        session: the workspace.
        settings: the target's settings.
        version: the version to go back to; the one before when None.
        name: the endpoint, the settings' one by default.
        skip_gate: why a version that has not passed the gate may have the traffic.
        reason: why, for the history.

    Raises:
        PreconditionError: there is no endpoint, nothing to go back to, or only what has not passed the gate.
    """
    name = name or settings.endpoint.name
    met = endpoints.get(session, name)
    if met is None:
        raise PreconditionError(f"there is no endpoint '{name}'", hint="mlops deploy makes it")
    with Ledger(session, name).hold(action="rollback", break_lease=True) as hold:
        why = skip_gate or reason or None
        named = Begin(model=version.name, version=version.version, reason=why) if version else Begin(reason=why)
        hold.write(named)
        if hold.broke:
            time.sleep(LATE_S)
        repaired = recover(session, hold, name)
        undone = shares(met.traffic) if repaired and repaired.traffic else None
        return _back(session, settings, hold, name, version, skip_gate=skip_gate, undone=undone)


def _back(
    session: Session,
    settings: Settings,
    hold: Hold,
    name: str,
    version: ModelVersion | None,
    *,
    skip_gate: str | None,
    undone: dict[str, int] | None,
) -> RolloutResult:
    try:
        found = endpoints.settle(session, name)
        if found is None:
            raise PreconditionError(f"there is no endpoint '{name}'", hint="mlops deploy makes it")
        standing = endpoints.settled_deployments(session, name)
    except MlopsError as error:
        hold.write(End(outcome=Outcome.FAILED, error=error.message))
        raise
    live = next((item for item in standing if shares(found.traffic).get(item.name.lower(), 0) == 100), None)
    now = shares(found.traffic)
    if version is None and undone is not None and live is not None:
        _stay(session, hold, name, now)
        hold.write(
            End(
                outcome=Outcome.ROLLED_BACK,
                before=undone,
                traffic=now,
                slot=live.name,
                model=live.model,
                version=live.model_version,
            )
        )
        note = "the rollout that was under way is undone"
        return _outcome(hold, found, live, before=undone, changed=True, note=note)
    try:
        goal = version or the_one_before(session, hold.records(), live, standing, name)
        if skip_gate is None and not approved(hold.records(), goal.name, goal.version) and not _is(live, goal):
            raise PreconditionError(
                f"the version '{goal.version}' has not passed the gate of '{name}'",
                hint=f'mlops deploy {goal.version} asks it; or mlops rollback {goal.version} --skip-gate "REASON"',
            )
    except MlopsError as error:
        hold.write(End(outcome=Outcome.FAILED, traffic=now, error=error.message))
        raise
    if version is not None and live is not None and _is(live, goal):
        _stay(session, hold, name, now)
        hold.write(End(outcome=Outcome.UNCHANGED, traffic=now, slot=live.name))
        return _outcome(hold, found, live, before=now, note="was live already")
    ready = [
        item
        for item in standing
        if _is(item, goal)
        and item.state.lower() == "succeeded"
        and (skip_gate is not None or cleared(hold.records(), item.name))
        and (version is not None or item is not live)  # the same version in both: it was deployed anew with --force
    ]
    if not ready:
        session.console.say(f"no slot holds {goal.name}:{goal.version}; it is deployed again")
        why = skip_gate or "a rollback to a version that has passed before"
        return release(session, settings, hold, goal, name=name, samples=[], skip_gate=why)
    slot = max(ready, key=lambda item: shares(found.traffic).get(item.name.lower(), 0))
    return _switch(session, hold, found, slot, live, skip_gate)


def _switch(
    session: Session, hold: Hold, found: Endpoint, slot: Deployment, live: Deployment | None, skip_gate: str | None
) -> RolloutResult:
    """All traffic to a slot that stands, read back."""
    before, goal = shares(found.traffic), {slot.name.lower(): 100}
    hold.write(
        Planned(
            action="rollback",
            slot=slot.name,
            live=live.name if live else None,
            before=before,
            steps=(100,),
            model=slot.model,
            version=slot.model_version,
            replaced=replaced_version(live),
        )
    )
    if skip_gate is not None:
        hold.write(
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
        seen = endpoints.set_traffic(
            session, found.name, goal, fence=lambda: hold.write(TrafficIntent(wanted=goal, what="rollback"))
        )
        hold.write(TrafficMoved(traffic=shares(seen.traffic)))
    _stay(session, hold, found.name, goal)
    _ask(session, found.name)
    left = live.name if live else None
    hold.write(End(outcome=Outcome.ROLLED_BACK, traffic=shares(seen.traffic), left=left))
    return _outcome(
        hold,
        seen,
        slot,
        before=before,
        changed=before != goal,
        skipped=skip_gate,
        replaced=live,
        note="back to the slot that still stands",
    )


def the_one_before(
    session: Session, records: Sequence[Record], live: Deployment | None, standing: Sequence[Deployment], name: str
) -> ModelVersion:
    """The version that was live before what is live now, by the endpoint's history.

    It is the same version where that was deployed anew and its older slot still stands.

    Raises:
        PreconditionError: the history knows none, or the model has it no more.
    """
    others = {(item.model, item.model_version) for item in standing if live is None or item.name != live.name}
    replaced = replaced_by(records, live)
    for model, version in (*replaced, *were_live(records)):
        same = live is not None and (model, version) == (live.model, live.model_version)
        if same and not ((model, version) in replaced and (model, version) in others):
            continue
        found = models.get(session, model, version)
        if found is not None:
            return found
        session.console.warn(f"{model}:{version} was live before, and is registered no more")
    raise PreconditionError(
        f"the history of '{name}' knows no version that was live before this one",
        hint='mlops rollback VERSION --skip-gate "REASON" takes a version that it does not know',
    )


def replaced_by(records: Sequence[Record], live: Deployment | None) -> list[tuple[str, str]]:
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


def were_live(records: Sequence[Record]) -> list[tuple[str, str]]:
    """The versions that have had all the traffic, newest first, each once."""
    found = [
        (entry.model, entry.version)
        for entry in history(records)
        if entry.outcome.took_traffic and entry.version and 100 in entry.after.values()
    ]
    return list(dict.fromkeys(found))


def _is(slot: Deployment | None, version: ModelVersion) -> bool:
    return slot is not None and (slot.model, slot.model_version) == (version.name, version.version)


def _ask(session: Session, name: str) -> None:
    """One request without a header; a rollback is not undone by its answer, but who is on call should know it."""
    try:
        asker = scorer(session, name, timeout_s=session.settings.gate.timeout_s)
        question = {"input_string": [{"role": "user", "content": "Hello"}], "parameters": {"max_new_tokens": 8}}
        answer = asker.ask({"input_data": question, "params": {}})
    except MlopsError as error:
        session.console.warn(f"the endpoint could not be asked: {error.message}")
        return
    if answer.ok:
        session.console.say(f"{name} answers from {answer.slot or 'an unnamed slot'} in {answer.latency_ms:.0f} ms")
    else:
        session.console.warn(f"{name} does not answer: {answer.error}; look with mlops endpoint logs")


def _stay(session: Session, hold: Hold, name: str, wanted: dict[str, int]) -> None:
    """A deploy whose lease was broken may have had one call under way: it must not have the last word."""
    if hold.broke is None:
        return
    found = endpoints.settle(session, name)
    if found is not None and shares(found.traffic) != wanted:
        session.console.warn(f"the deploy that was stopped set the traffic of {name} once more; it is set back")
        endpoints.set_traffic(
            session, name, wanted, fence=lambda: hold.write(TrafficIntent(wanted=wanted, what="rollback"))
        )


def _outcome(
    hold: Hold,
    found: Endpoint,
    slot: Deployment,
    *,
    before: dict[str, int],
    note: str,
    changed: bool = False,
    skipped: str | None = None,
    replaced: Deployment | None = None,
) -> RolloutResult:
    return RolloutResult(
        endpoint=found.name,
        slot=slot.name,
        model=slot.model,
        version=slot.model_version,
        traffic=shares(found.traffic),
        before=before,
        scoring_url=found.scoring_url,
        changed=changed,
        rollout=hold.rollout,
        replaced=f"{replaced.model}:{replaced.model_version}" if replaced else None,
        skipped_gate=skipped,
        note=note,
    )
