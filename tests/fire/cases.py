"""The table's rows: each fault at each place of a rollout."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tests.fire.calls import Place

ANSWERS: dict[str, dict[str, Any]] = {
    "429, Retry-After": {"kind": "status", "status": 429, "retry_after": 0.2},
    "429": {"kind": "status", "status": 429},
    "500": {"kind": "status", "status": 500},
    "503": {"kind": "status", "status": 503},
    "dropped before": {"kind": "drop"},
    "dropped after": {"kind": "drop", "when": "after"},
    "hangs": {"kind": "hang", "delay_s": 20},
}
KILLS: dict[str, dict[str, Any]] = {
    "killed before": {"kind": "kill_client"},
    "killed after": {"kind": "kill_client", "when": "after"},
}
FAILS = "operation fails"
CRASH_NEW, CRASH_LIVE = "new slot crashes", "live slot crashes"
FAULTS = (*ANSWERS, FAILS, *KILLS, CRASH_NEW, CRASH_LIVE)


@dataclass(frozen=True)
class Case:
    """One rollout with one fault.

    Attributes:
        fault: one of FAULTS.
        place: where it strikes.
        good: whether the model version would pass the gate.
        first: whether the endpoint does not exist before.
    """

    fault: str
    place: Place
    good: bool = True
    first: bool = False

    @property
    def story(self) -> str:
        """Which rollout it is."""
        return "first release" if self.first else "release" if self.good else "release that the gate refuses"

    def __str__(self) -> str:
        return f"{self.story}: {self.fault}: {self.place}"

    def rule(self, *, name: str, endpoint: str, agent: str, pid: int, new: str, live: str) -> dict[str, Any]:
        """The fault rule; ``new`` and ``live`` are slots."""
        where = {"name": name, **self.place.rule(endpoint, agent)}
        if self.fault in ANSWERS:
            return {**where, **ANSWERS[self.fault]}
        if self.fault in KILLS:
            return {**where, **KILLS[self.fault], "pid": pid}
        if self.fault == FAILS:
            # the operation that this call starts, and no other of its kind
            match = {"operation": f"^{self.place.kind.operation}$", "resource": f"/{endpoint}(/|$)"}
            since = {"since": where["match"], "since_count": self.place.total}
            text = {"code": "InternalServerError", "message": "The operation failed, as a test wished."}
            return {"name": name, "kind": "operation", "match": match, **since, **text}
        slot = new if self.fault == CRASH_NEW else live
        return {**where, "kind": "crash", "endpoint": endpoint, "deployment": slot}


def table(release: list[Place], refused: list[Place], first: list[Place]) -> list[Case]:
    """Every case, from the calls of a release, of one that the gate refuses, and of an endpoint's first."""
    cases = [case for place in release for case in _at(place)]
    cases += [Case(fault, place, good=False) for place in refused for fault in KILLS]
    known = {place.kind for place in release}
    cases += [case for place in first if place.kind not in known or place.kind.operation for case in _at(place, True)]
    return cases


def _at(place: Place, first: bool = False) -> Iterable[Case]:
    reads = place.kind.method in ("GET", "HEAD")
    for fault in (*ANSWERS, *KILLS):
        if not (reads and fault == "dropped after"):  # a read that was done and lost is a read that was lost
            yield Case(fault, place, first=first)
    if place.kind.operation:
        yield Case(FAILS, place, first=first)
    if place.kind.service == "score" and not first:
        yield Case(CRASH_NEW, place)
        yield Case(CRASH_LIVE, place)


def sample(cases: list[Case], count: int, *, seed: int) -> list[Case]:
    """So many of them, each fault at least once."""
    chance = random.Random(seed)
    shuffled = chance.sample(cases, len(cases))
    kinds: dict[str, Case] = {}
    for case in shuffled:
        kinds.setdefault(case.fault, case)
    chosen = list(kinds.values())
    chosen += [case for case in shuffled if case not in chosen][: max(0, count - len(chosen))]
    return chosen[:count]
