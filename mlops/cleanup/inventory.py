"""Every endpoint of the workspace with its slots: looked at several at a time, never more than so many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from mlops.core.errors import MlopsError
from mlops.core.resources import CREATED_TAG, KIND_TAG, Deployment, Endpoint, made_here

if TYPE_CHECKING:
    from mlops.azure.session import Session

T = TypeVar("T")
R = TypeVar("R")
STAMP_DIGITS = 11
"""As many as whole seconds have for the next three thousand years."""


@dataclass(frozen=True, kw_only=True)
class EndpointState:
    """An endpoint with its slots, sorted by name; ``problem`` says why they could not be looked at."""

    endpoint: Endpoint
    slots: tuple[Deployment, ...] = ()
    problem: str | None = None


def each(
    call: Callable[[T], R], items: Iterable[T], *, at_once: int, done: Callable[[], object] = lambda: None
) -> list[R]:
    """Do something with every item, several at a time; the results in the items' order.

    After Ctrl-C, or where ``call`` raises, nothing further begins.

    Args:
        call: makes one call at a time, so that ``at_once`` bounds the calls too.
        items: what to work on.
        at_once: how many at a time.
        done: called after each.
    """

    def one(item: T) -> R:
        result = call(item)
        done()
        return result

    pool = ThreadPoolExecutor(max_workers=at_once, thread_name_prefix="each")
    try:
        return list(pool.map(one, items))
    finally:
        pool.shutdown(cancel_futures=True)


def endpoint_states(session: Session) -> list[EndpointState]:
    """Every endpoint with its slots, by name. One that vanishes meanwhile is left out; a look-up that fails says so."""
    from mlops.azure import endpoints
    from mlops.azure.errors import NotFoundError

    def inspect(endpoint: Endpoint) -> EndpointState | None:
        try:
            slots = endpoints.deployments(session, endpoint.name)
        except NotFoundError:
            return None
        except MlopsError as error:
            return EndpointState(endpoint=endpoint, problem=error.message)
        return EndpointState(endpoint=endpoint, slots=tuple(sorted(slots, key=lambda slot: slot.name)))

    listed = sorted(endpoints.listed(session), key=lambda endpoint: endpoint.name)
    with session.console.progress() as progress:
        task = progress.add_task("endpoints", total=len(listed))
        at_once = session.settings.cleanup.at_once
        states = each(inspect, listed, at_once=at_once, done=lambda: progress.advance(task))
    return [state for state in states if state is not None]


def share(shares: Mapping[str, int], slot: str) -> int:
    """A slot's part of a traffic map; names are compared without case, as Azure does."""
    return next((part for name, part in shares.items() if name.lower() == slot.lower()), 0)


def kind(endpoint: Endpoint, lasting: str) -> str:
    """``lasting``, ``preview``, or ``other`` for what this repository did not make."""
    if endpoint.name.lower() == lasting.lower():
        return "lasting"
    return endpoint.tags.get(KIND_TAG, "other") if made_here(endpoint.tags) else "other"


def created(endpoint: Endpoint, prefix: str) -> datetime | None:
    """When an endpoint was made: its tag, else the whole seconds in a preview's name."""
    try:
        moment = datetime.fromisoformat(endpoint.tags.get(CREATED_TAG, ""))
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except ValueError:
        stamp = endpoint.name.removeprefix(prefix)
        known = stamp != endpoint.name and stamp.isascii() and stamp.isdigit() and len(stamp) <= STAMP_DIGITS
        return datetime.fromtimestamp(int(stamp), UTC) if known else None


def in_words(age: timedelta) -> str:
    """An age, short."""
    seconds = max(age.total_seconds(), 0)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{f'{seconds / size:.1f}'.removesuffix('.0')} {unit}"
    return f"{seconds:.0f} s"


def slots_in_words(state: EndpointState) -> list[str]:
    """Each slot with its traffic and version, for people."""
    if state.problem:
        return [state.problem]
    traffic, mirror = state.endpoint.traffic, state.endpoint.mirror
    return [_slot_in_words(slot, traffic, mirror) for slot in state.slots] or ["none"]


def _slot_in_words(slot: Deployment, traffic: Mapping[str, int], mirror: Mapping[str, int]) -> str:
    fields = [slot.name, f"{share(traffic, slot.name)} %"]
    if share(mirror, slot.name):
        fields.append(f"(mirror {share(mirror, slot.name)} %)")
    fields.append(slot.model_version or slot.model)
    if slot.state.lower() != "succeeded":
        fields.append(slot.state)
    return " ".join(filter(None, fields))


def outline(states: Sequence[EndpointState], *, lasting: str, prefix: str, now: datetime) -> list[dict[str, object]]:
    """What `mlops endpoint list` shows, as data."""
    rows: list[dict[str, object]] = []
    for state in states:
        endpoint = state.endpoint
        created_at = created(endpoint, prefix)
        rows.append(
            {
                "endpoint": endpoint.name,
                "kind": kind(endpoint, lasting),
                "state": endpoint.state,
                "age_s": (now - created_at).total_seconds() if created_at else None,
                "traffic": {name: part for name, part in endpoint.traffic.items() if part},
                "slots": [
                    {
                        "name": slot.name,
                        "traffic": share(endpoint.traffic, slot.name),
                        "mirror": share(endpoint.mirror, slot.name),
                        "model": slot.model,
                        "version": slot.model_version,
                        "state": slot.state,
                        "instance_type": slot.instance_type,
                        "instance_count": slot.instance_count,
                    }
                    for slot in state.slots
                ],
                "url": endpoint.scoring_url,
                "problem": state.problem,
            }
        )
    return rows
