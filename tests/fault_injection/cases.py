"""The table's rows: each fault at each point of a rollout."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from tests.fault_injection.calls import CallPoint

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
DOWN = "stays down"
"""From there on every call of that kind is refused, to the end of the command."""
CRASH_NEW, CRASH_LIVE = "new slot crashes", "live slot crashes"
FAULTS = (*ANSWERS, FAILS, DOWN, *KILLS, CRASH_NEW, CRASH_LIVE)
RELEASE, REFUSED, FIRST, ROLLBACK = "release", "release that the gate refuses", "first release", "rollback"


@dataclass(frozen=True)
class Case:
    """One rollout with one fault.

    Attributes:
        story: which command, on what: RELEASE, REFUSED, FIRST (there is no endpoint yet), ROLLBACK.
        fault: one of FAULTS.
        point: where it strikes.
    """

    story: str
    fault: str
    point: CallPoint

    def __str__(self) -> str:
        return f"{self.story}: {self.fault}: {self.point}"

    @property
    def slow(self) -> bool:
        """Whether it takes minutes: the SDK is patient with uploads."""
        return self.fault == DOWN and self.point.kind.service == "blob" and self.point.kind.query != "appendblock"

    def rule(self, *, name: str, endpoint: str, agent: str, pid: int, new: str, live: str) -> dict[str, Any]:
        """The fault rule; ``new`` and ``live`` are slots."""
        where = {"name": name, **self.point.rule(endpoint, agent)}
        if self.fault in ANSWERS:
            return {**where, **ANSWERS[self.fault]}
        if self.fault in KILLS:
            return {**where, **KILLS[self.fault], "pid": pid}
        if self.fault == FAILS:
            # the operation that this call starts, and no other of its kind
            match = {"operation": f"^{self.point.kind.operation}$", "resource": f"/{endpoint}(/|$)"}
            since = {"since": where["match"], "since_count": self.point.total}
            text = {"code": "InternalServerError", "message": "The operation failed, as a test wished."}
            return {"name": name, "kind": "operation", "match": match, **since, **text}
        if self.fault == DOWN:
            return {**where, "kind": "status", "status": 503, "times": None}
        slot = new if self.fault == CRASH_NEW else live
        return {**where, "kind": "crash", "endpoint": endpoint, "deployment": slot}


@dataclass(frozen=True)
class Recorded:
    """The calls of a clean command of each story."""

    release: list[CallPoint]
    refused: list[CallPoint]
    first: list[CallPoint]
    rollback: list[CallPoint]

    def table(self) -> list[Case]:
        """Every case."""
        cases = [Case(RELEASE, fault, point) for point in self.release for fault in faults_at(point)]
        cases += [
            Case(RELEASE, fault, point)
            for point in self.release
            for fault in (CRASH_NEW, CRASH_LIVE)
            if point.kind.service == "score"
        ]
        cases += [Case(REFUSED, fault, point) for point in self.refused for fault in KILLS]
        known = {point.kind for point in self.release}
        news = [point for point in self.first if point.kind not in known or point.kind.operation]
        cases += [Case(FIRST, fault, point) for point in news for fault in faults_at(point)]
        some = ("503", "dropped after", *KILLS)
        cases += [
            Case(ROLLBACK, fault, point) for point in self.rollback for fault in faults_at(point) if fault in some
        ]
        return cases


def faults_at(point: CallPoint) -> list[str]:
    """What can happen to a call, and to the operation that it starts."""
    reads = point.kind.method in ("GET", "HEAD")
    faults = [fault for fault in ANSWERS if not (reads and fault == "dropped after")]  # it is lost either way
    faults += [FAILS] if point.kind.operation else []
    faults += [DOWN] if point.kind.changes else []
    return faults + list(KILLS)


def sample(cases: list[Case], count: int, *, seed: int) -> list[Case]:
    """So many of them, each fault at least once; and with them an upload that fails, which the SDK waits for."""
    chance = random.Random(seed)
    shuffled = [case for case in chance.sample(cases, len(cases)) if not case.slow]
    lost = [case for case in cases if str(case.point).endswith("PUT code file") and case.fault == "dropped after"]
    kinds: dict[str, Case] = {case.fault: case for case in lost}
    for case in shuffled:
        kinds.setdefault(case.fault, case)
    subset = list(kinds.values())
    subset += [case for case in shuffled if case not in subset][: max(0, count - len(subset))]
    return subset[:count]
