"""Users at a constant rate: each asks when its time has come, whether or not those before have been answered.

Latency is counted from the time at which a request was due, so that a stall is felt by all who come during it and not
only by the first.
"""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

import httpx

from tests.fault_injection.workspace import Endpoint, Seen, asked
from tests.support.waiting import HANG_S


@dataclass(frozen=True)
class Request:
    """One request of a user; times are seconds since the load began."""

    due_s: float
    asked_s: float
    """Later than it was due where the machine is busy."""
    latency_ms: float
    status: int
    version: str
    right: bool
    error: str = ""

    @property
    def failed(self) -> bool:
        """Whether its user has reason to complain."""
        return self.status != 200 or not self.right


@dataclass
class Load:
    """What was asked so far."""

    began: float
    """Seconds since the epoch."""
    requests: list[Request] = field(default_factory=list)

    def now_s(self) -> float:
        """Seconds since the load began."""
        return time.time() - self.began

    def between(self, begin_s: float, end_s: float) -> list[Request]:
        """Those that were due in a stretch of time."""
        return [each for each in self.requests if begin_s <= each.due_s < end_s]

    @property
    def failed(self) -> list[Request]:
        """Those that must not be."""
        return [each for each in self.requests if each.failed]


@contextmanager
def load(endpoint: Endpoint, *, rate: float) -> Iterator[Load]:
    """Users of an endpoint's live traffic, for as long as the block runs; all are answered when it is left."""
    key = endpoint.key()
    result = Load(time.time())
    over = threading.Event()

    async def one(client: httpx.AsyncClient, number: int, due: float) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        seen, error, asked_s = Seen(0, "", "", False), "", result.now_s()
        try:
            answer = await client.post(f"https://{endpoint.host}/score", json=asked(number), headers=headers)
            seen = Seen.of(answer, number)
            error = "" if seen.status == 200 else answer.text[:200]
        except httpx.HTTPError as problem:
            error = f"{type(problem).__name__}: {problem}"
        latency_ms = (time.perf_counter() - due) * 1000
        result.requests.append(Request(due - start, asked_s, latency_ms, seen.status, seen.version, seen.right, error))

    async def users() -> None:
        # as many as a proxy before the users would keep; who waits for one has waited since his time came
        limits = httpx.Limits(max_connections=16, max_keepalive_connections=16)
        async with httpx.AsyncClient(
            proxy=endpoint.workspace.env["HTTPS_PROXY"],
            verify=endpoint.workspace.trust,
            trust_env=False,
            timeout=httpx.Timeout(HANG_S, pool=None),
            limits=limits,
        ) as client:
            number = 0
            async with asyncio.TaskGroup() as group:
                while not over.is_set():
                    due = start + number / rate
                    await asyncio.sleep(max(0.0, due - time.perf_counter()))
                    group.create_task(one(client, number, due))
                    number += 1

    start = time.perf_counter()
    thread = threading.Thread(target=lambda: asyncio.run(users()))
    thread.start()
    try:
        yield result
    finally:
        over.set()
        thread.join()
        result.requests.sort(key=lambda each: each.due_s)


@dataclass(frozen=True)
class Stretch:
    """A stretch of time and how users fared in it."""

    name: str
    begin_s: float
    end_s: float
    count: int
    failed: int
    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, users: Load, name: str, begin_s: float, end_s: float) -> Stretch:
        """Measured over the requests that were due in it."""
        some = users.between(begin_s, end_s)
        times = sorted(each.latency_ms for each in some)
        cuts = statistics.quantiles(times, n=100, method="inclusive") if len(times) > 1 else [float("nan")] * 99
        return cls(name, begin_s, end_s, len(some), sum(each.failed for each in some), cuts[49], cuts[98])


@dataclass(frozen=True)
class Moment:
    """Something that a rollout wrote down; ``at_s`` is since the load began."""

    at_s: float
    what: str


def moments(endpoint: Endpoint, users: Load) -> list[Moment]:
    """The rollouts' own account of what happened while users asked."""
    events = []
    for record in endpoint.ledger():
        facts = record["facts"]
        at_s = datetime.fromisoformat(record["at"]).timestamp() - users.began
        if at_s < 0:
            continue
        shares = " ".join(f"{name} {share}" for name, share in facts.get("traffic", {}).items() if share)
        what = {
            "begin": f"{facts.get('action')} begins",
            "deployed": f"{facts.get('slot')} stands",
            "verdict": f"{facts.get('what')}: {facts.get('verdict')}",
            "moved": shares,
            "end": "end",
        }.get(record["kind"])
        if what:
            events.append(Moment(at_s, what))
    return events


def render(stretches: Sequence[Stretch]) -> str:
    """A table for the terminal."""
    lines = [f"{'':18} {'seconds':>8} {'requests':>9} {'failed':>7} {'p50 ms':>8} {'p99 ms':>8}"]
    lines += [
        f"{each.name:18} {each.end_s - each.begin_s:8.1f} {each.count:9} {each.failed:7} {each.p50_ms:8.1f} "
        f"{each.p99_ms:8.1f}"
        for each in stretches
    ]
    return "\n".join(lines)
