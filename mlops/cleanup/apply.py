"""Carrying out what was decided: several at a time, each looked at once more right before it goes.

One failure does not stop the others. What belongs to one endpoint goes in turn, under its lease, so that no rollout
can begin meanwhile.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mlops.cleanup.decisions import Decision, Rollouts, Rules, decide_endpoint, decide_slot
from mlops.cleanup.inventory import EndpointState, each
from mlops.cleanup.survey import summarise_records
from mlops.core import retry
from mlops.core.errors import AzureError, MlopsError
from mlops.core.resources import kept
from mlops.core.retry import Backoff

if TYPE_CHECKING:
    from mlops.azure.session import Session

Outcome = Literal["done", "spared", "failed"]
ATTEMPTS = 3
BACKOFF = Backoff(first_s=2.0, longest_s=4.0)
"""Between attempts at what Azure began and could not finish."""
SUCCESSES = range(200, 300)
DONE = {"delete": "deleted", "archive": "archived", "scale_down": "scaled down"}


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a decision.

    Attributes:
        decision: what was to go.
        outcome: ``done``, also where it was gone already; ``spared``, because it is no longer stale; or ``failed``.
        why: the reason where it is not done.
    """

    decision: Decision
    outcome: Outcome
    why: str = ""


def apply_decisions(session: Session, decisions: Sequence[Decision], rules: Rules) -> list[Result]:
    """Do what was decided; never more calls at a time than the settings' ``cleanup.at_once``.

    A log gets a line for each as it goes; a terminal has a bar meanwhile, and the lines after it.
    """
    live = sys.stderr.isatty()
    stale = [item for item in decisions if item.stale]
    groups: dict[tuple[str, str], list[Decision]] = {}
    for item in stale:
        groups.setdefault((item.kind, (item.endpoint or item.name).lower()), []).append(item)
    with session.console.progress() as progress:
        task = progress.add_task("cleanup", total=len(stale))

        def group(items: list[Decision]) -> list[Result]:
            results = _slots(session, items, rules) if items[0].kind == "slot" else [_one(session, items[0], rules)]
            progress.advance(task, len(results))
            if not live:
                _tell(session, results)
            return results

        batches = each(group, groups.values(), at_once=session.settings.cleanup.at_once)
    done = [result for results in batches for result in results]
    if live:
        _tell(session, done)
    return done


def failure(results: Sequence[Result], problems: Sequence[str] = ()) -> AzureError | None:
    """The error that names what failed; None where nothing did."""
    failed = [item for item in results if item.outcome == "failed"]
    if failed:
        message = f"{len(failed)} of {len(results)} could not be cleaned up; the others are done"
    elif problems:
        message = f"{len(problems)} could not be looked at, so nothing of theirs was touched"
    else:
        return None
    details = [f"{item.decision.title}: {item.why}" for item in failed] + list(problems)
    return AzureError(message, details=details, hint="mlops cleanup tries again")


def _one(session: Session, item: Decision, rules: Rules) -> Result:
    def act() -> Result:
        match item.kind:
            case "endpoint":
                return _endpoint(session, item, rules)
            case "version":
                return _version(session, item)
            case _:
                return _cluster(session, item)

    return _guarded(item, act)


def _guarded(item: Decision, act: Callable[[], Result]) -> Result:
    """An outcome for everything; an operation that Azure began and gave up is asked for again."""
    try:
        return retry.call(act, attempts=ATTEMPTS, backoff=BACKOFF, passing=_was_given_up)
    except MlopsError as error:
        return Result(decision=item, outcome="failed", why=error.message)


def _was_given_up(error: BaseException) -> bool:
    return isinstance(error, MlopsError) and getattr(error.__cause__, "status_code", None) in SUCCESSES


def _endpoint(session: Session, item: Decision, rules: Rules) -> Result:
    from mlops.azure import endpoints

    now = endpoints.get(session, item.name)
    if now is not None and now.state.lower() != "deleting":
        again = decide_endpoint(EndpointState(endpoint=now), Rollouts(), rules)
        if not again.stale:
            return Result(decision=item, outcome="spared", why=again.why)
        endpoints.delete(session, item.name)
    return Result(decision=item, outcome="done")


def _slots(session: Session, items: Sequence[Decision], rules: Rules) -> list[Result]:
    """The stale slots of one endpoint, in turn: Azure changes one thing of an endpoint at a time."""
    from mlops.azure import endpoints
    from mlops.azure.errors import NotFoundError
    from mlops.ledger import Ledger, Locked

    name = str(items[0].endpoint)
    done: list[Result] = []
    try:
        with Ledger(session, name).acquire(action="cleanup", wait_s=0) as lock:
            endpoint = endpoints.get(session, name)
            deployments = {slot.name: slot for slot in endpoints.deployments(session, name)} if endpoint else {}
            records = summarise_records(lock.records(), list(deployments))
            for item in items:
                slot = deployments.get(item.name)
                if endpoint is None or slot is None:
                    done.append(Result(decision=item, outcome="done"))
                    continue
                again = decide_slot(slot, endpoint, records, rules)
                if not again.stale:
                    done.append(Result(decision=item, outcome="spared", why=again.why))
                    continue
                lock.check()
                done.append(_guarded(item, lambda item=item: _slot(session, name, item)))  # type: ignore[misc]
    except NotFoundError:
        rest = Result(decision=items[0], outcome="done")
    except Locked as error:
        rest = Result(decision=items[0], outcome="spared", why=error.message)
    except MlopsError as error:
        rest = Result(decision=items[0], outcome="failed", why=error.message)
    return done + [Result(decision=item, outcome=rest.outcome, why=rest.why) for item in items[len(done) :]]


def _slot(session: Session, endpoint: str, item: Decision) -> Result:
    from mlops.azure import endpoints

    endpoints.delete_deployment(session, endpoint, item.name)
    return Result(decision=item, outcome="done")


def _version(session: Session, item: Decision) -> Result:
    from mlops.azure import models

    name, _, version = item.name.rpartition(":")
    model = models.get(session, name, version)
    if model is not None and kept(model.tags):
        return Result(decision=item, outcome="spared", why="tagged keep")
    if model is not None:
        models.archive(session, name, version)
    return Result(decision=item, outcome="done")


def _cluster(session: Session, item: Decision) -> Result:
    from mlops.azure import computes

    settings = session.settings.compute
    busy = computes.busy(session, item.name)
    if busy:
        return Result(decision=item, outcome="spared", why=busy)
    own = item.name.lower() == settings.name.lower()
    computes.scale_down(session, item.name, settings.min_nodes if own else 0)
    return Result(decision=item, outcome="done")


def _tell(session: Session, results: Sequence[Result]) -> None:
    for result in results:
        title = result.decision.title
        if result.outcome == "done":
            session.console.say(f"{DONE[result.decision.action]} {title}")
        else:
            session.console.warn(f"{title} {'stays' if result.outcome == 'spared' else 'failed'}: {result.why}")
