"""What the workspace holds, looked at several at a time, and what is stale of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from mlops.cleanup.assets import decide_cluster, decide_versions
from mlops.cleanup.decisions import (
    Decision,
    Rollouts,
    Rules,
    decide,
    untouchable,
)
from mlops.cleanup.inventory import EndpointState, each, endpoint_states
from mlops.core.errors import MlopsError

if TYPE_CHECKING:
    from mlops.azure.session import Session
    from mlops.config.settings import Settings
    from mlops.ledger import Record

BACK = 3
"""How many released versions a rollback may want, per endpoint: what is live, and two before it."""


@dataclass(frozen=True, kw_only=True)
class CleanupPlan:
    """What becomes of everything, and what could not be looked at."""

    decisions: tuple[Decision, ...]
    problems: tuple[str, ...] = ()

    @property
    def stale(self) -> tuple[Decision, ...]:
        """What goes."""
        return tuple(item for item in self.decisions if item.stale)


def rules(settings: Settings, *, older_than: timedelta, now: datetime | None = None) -> Rules:
    """The settings' rules at this moment."""
    return Rules(
        lasting=settings.endpoint.name,
        prefix=settings.endpoint.preview_prefix,
        older_than=older_than,
        grace=timedelta(hours=settings.rollout.grace_h),
        failed_after=timedelta(hours=settings.cleanup.failed_h),
        now=now or datetime.now(UTC),
        prices_per_hour=settings.cleanup.prices_per_hour,
    )


def plan(
    session: Session,
    *,
    older_than: timedelta,
    keep_versions: int | None = None,
    scale_down: bool = False,
    now: datetime | None = None,
) -> CleanupPlan:
    """A decision for everything of the workspace.

    Args:
        session: the workspace.
        older_than: the age of a preview.
        keep_versions: how many of the model's newest versions stay; None leaves versions alone.
        scale_down: look at the clusters too.
        now: the present.
    """
    settings = session.settings
    given = rules(settings, older_than=older_than, now=now)
    at_once = settings.cleanup.at_once
    states = endpoint_states(session)

    def one(state: EndpointState) -> tuple[list[Decision], Rollouts | None]:
        decisions = decide(state, Rollouts(), given)
        if keep_versions is None and not any(item.stale for item in decisions):
            return decisions, None  # its records cannot save what nothing threatens
        if untouchable(state.endpoint):
            return decisions, None
        records = rollouts(session, state)
        return decide(state, records, given), records

    with session.console.progress() as progress:
        task = progress.add_task("rollouts", total=len(states))
        judged = each(one, states, at_once=at_once, done=lambda: progress.advance(task))
    decisions = [item for own, _ in judged for item in own]
    records = [item for _, item in judged if item is not None]
    problems = [f"{item.endpoint.name}: {item.problem}" for item in states if item.problem]
    problems += [item.problem for item in records if item.problem]
    if keep_versions is not None:
        decisions += _versions(session, states, records, keep_versions, given.now)
    if scale_down:
        decisions += _clusters(session)
    return CleanupPlan(decisions=tuple(decisions), problems=tuple(problems))


def rollouts(session: Session, state: EndpointState) -> Rollouts:
    """What the records of an endpoint say; that they cannot be read is said too."""
    from mlops.ledger import Ledger
    from mlops.ledger.records import parse

    try:
        content = Ledger(session, state.endpoint.name).log.read()
    except MlopsError as error:
        return Rollouts(problem=error.message)
    if content is None:
        return Rollouts()
    return summarise_records(parse(content.data)[0], [slot.name for slot in state.slots], locked=content.leased)


def summarise_records(records: Sequence[Record], slots: Sequence[str], *, locked: bool = False) -> Rollouts:
    """What records say of these slots."""
    from mlops.ledger import history, idle_since, unfinished
    from mlops.ledger.queries import VERSIONED

    idle = {slot: idle_since(records, slot) for slot in slots}
    released = [(item.model, item.version) for item in history(records) if item.outcome.took_traffic and item.version]
    open_ = unfinished(records)
    versioned = [item.facts for item in open_ if isinstance(item.facts, VERSIONED)]
    begun = {(facts.model or "", facts.version) for facts in versioned if facts.version}
    return Rollouts(
        locked=locked,
        unfinished=bool(open_),
        idle_since={slot: since for slot, since in idle.items() if since is not None},
        released=tuple(dict.fromkeys(released))[:BACK],
        begun=tuple(sorted(begun)),
    )


def _versions(
    session: Session, states: Sequence[EndpointState], records: Sequence[Rollouts], keep: int, now: datetime
) -> list[Decision]:
    from mlops.azure import models

    versions = models.versions(session, session.settings.model.name)
    return decide_versions(versions, states, records, keep=keep, now=now)


def _clusters(session: Session) -> list[Decision]:
    from mlops.azure import computes

    settings = session.settings

    def one(name: str) -> Decision | None:
        cluster = computes.get(session, name)
        if cluster is None:
            return None
        return decide_cluster(
            cluster,
            own=settings.compute.name,
            min_nodes=settings.compute.min_nodes,
            busy=computes.busy(session, name) if cluster.min_nodes else None,
            prices_per_hour=settings.cleanup.prices_per_hour,
        )

    names = [cluster.name for cluster in computes.listed(session) if cluster.min_nodes]
    return [item for item in each(one, names, at_once=settings.cleanup.at_once) if item is not None]
