"""Runs cases, several at a time, each on an endpoint that no other uses meanwhile."""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fault_injection import aftermath
from tests.fault_injection.calls import CallPoint, call_points
from tests.fault_injection.cases import CRASH_LIVE, CRASH_NEW, DOWN, FIRST, KILLS, REFUSED, ROLLBACK, Case, Recorded
from tests.fault_injection.workspace import Command, Done, Endpoint, Workspace
from tests.support.waiting import HANG_S


@dataclass
class Result:
    """What became of one case; without violations it is as it must be."""

    story: str
    fault: str
    place: str
    struck: bool = False
    code: int | None = None
    traffic: str = ""
    """What the traffic was on afterwards: old, new, both or none."""
    again: int | None = None
    """Exit code of one more deploy of the same version."""
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)
    log: str = ""

    @property
    def outcome(self) -> str:
        """Exit code in words."""
        names = {None: "killed", 0: "released", 3: "refused", 6: "gate failed", 7: "undecided", 8: "Azure failed"}
        return names.get(self.code, f"exit {self.code}")


class Worker:
    """An endpoint with something live; cases run on it one after another."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.endpoint: Endpoint | None = None
        self.live = ""
        self.before: str | None = None
        """The version that a rollback goes to, where it is known."""

    def ready(self, *, two: bool) -> Endpoint:
        """The endpoint, made anew where the last case left something wrong; with two versions that have been live."""
        if self.endpoint is None:
            self.endpoint, self.live, self.before = self.workspace.endpoint(), "", None
            self._release(self.endpoint)
        if two and self.before is None:
            self._release(self.endpoint)
        return self.endpoint

    def _release(self, endpoint: Endpoint) -> None:
        version = self.workspace.version()
        done = endpoint.deploy(version).finish()
        wrong = aftermath.released(endpoint, version)
        if done.code != 0 or wrong:
            raise RuntimeError(f"a clean release ended with {done.code} {wrong}:\n{done.log[-3000:]}")
        self.live, self.before = version, self.live or None

    def run(self, case: Case) -> Result:
        """One case from beginning to end."""
        result = Result(case.story, case.fault, str(case.point))
        start = time.monotonic()
        try:
            if case.story == FIRST:
                self._run(case, result, self.workspace.endpoint(), None, None)
            else:
                endpoint = self.ready(two=case.story == ROLLBACK)
                self.live, self.before = self._run(case, result, endpoint, self.live, self.before)
        except Exception:
            result.violations.append(f"the test itself failed: {traceback.format_exc(limit=4)}")
        if result.violations and case.story != FIRST:
            self.endpoint = None
        result.seconds = time.monotonic() - start
        return result

    def _run(
        self, case: Case, result: Result, endpoint: Endpoint, live: str | None, before: str | None
    ) -> tuple[str, str | None]:
        """The command with its fault, what it left, one more deploy.

        Returns:
            The version that is live then, and the one that it replaced where that is known.
        """
        version = self.workspace.version(good=case.story != REFUSED)
        agent = f"fault-{version}-"
        is_rollback = case.story == ROLLBACK
        command = endpoint.rollback(agent=agent) if is_rollback else endpoint.deploy(version, agent=agent)
        goal = before or "" if is_rollback else version
        done = self._strike(case, result, endpoint, command, agent)
        patience_s = HANG_S if case.fault in (CRASH_NEW, CRASH_LIVE) else 0
        after = aftermath.inspect(endpoint, before=live, new=goal, patience_s=patience_s)
        result.code, result.log = done.code, done.log
        result.traffic = named(after.shares, live, goal)
        result.violations += after.violations + judged(case, result)
        again = endpoint.deploy(version, agent=f"again-{version}-").finish()
        result.again = again.code
        expected, right = (6, live) if case.story == REFUSED else (0, version)
        wrong = [] if again.code == expected else [f"one more deploy ended with {again.code}"]
        wrong += aftermath.released(endpoint, right or "") + aftermath.closed(endpoint)
        result.violations += [f"after one more deploy: {each}" for each in wrong]
        if result.violations:
            result.log += f"\n--- once more ---\n{again.log}"
        return right or "", aftermath.replaced(endpoint) if case.story != REFUSED else None

    def _strike(self, case: Case, result: Result, endpoint: Endpoint, command: Command, agent: str) -> Done:
        workspace = self.workspace
        slot = next(iter(endpoint.traffic()), "")
        new = {"blue": "green"}.get(slot, "blue")
        rule = case.rule(name=agent, endpoint=endpoint.name, agent=agent, pid=command.pid, new=new, live=slot)
        workspace.local("POST", "faults", rule)
        done = command.finish()
        rules = [each for each in workspace.local("GET", "faults") if each["name"] == agent]
        workspace.local("DELETE", f"faults?name={agent}")
        result.struck = any(each["matched"] > each["skip"] for each in rules)
        return done


def judged(case: Case, result: Result) -> list[str]:
    """What is wrong with how the command ended, given what it left."""
    violations = []
    if result.code is None and case.fault not in KILLS:
        violations.append("the process was killed by nobody")
    if result.code not in (None, 0, 3, 6, 7, 8):
        violations.append(f"exit code {result.code}")
    if result.code == 0 and result.traffic != "new":
        violations.append(f"exit code 0, and the traffic is on: {result.traffic}")
    if result.code not in (None, 0) and result.traffic == "both" and case.fault != DOWN:
        violations.append(f"exit code {result.code}, and the traffic was left split")
    if case.story == REFUSED and result.traffic != "old":
        violations.append("traffic reached a version that the gate refuses")
    return violations


def named(shares: dict[str, int], live: str | None, version: str) -> str:
    """Which versions have traffic."""
    if not shares:
        return "none"
    ages = {live: "old", version: "new"}
    names = {ages.get(each, "other") for each in shares}
    return names.pop() if len(names) == 1 else "both"


def record(workspace: Workspace) -> Recorded:
    """The calls of clean commands."""
    endpoint, version = workspace.endpoint(), workspace.version()
    done = endpoint.deploy(version, modules=True).finish()
    if done.code != 0:
        raise RuntimeError(f"a clean release ended with {done.code}:\n{done.log[-3000:]}")
    workspace.warm_up(done.modules)

    def traced(endpoint: Endpoint, command: Command, expected: int) -> list[CallPoint]:
        workspace.local("POST", "requests", {"record": True})
        done = command.finish()
        workspace.local("POST", "requests", {"record": False})
        if done.code != expected:
            raise RuntimeError(f"a clean command ended with {done.code}:\n{done.log[-3000:]}")
        trace = workspace.local("GET", "requests")
        return call_points(trace, endpoint.name, "recorded-", stages(endpoint.ledger()))

    def deploy(endpoint: Endpoint, *, good: bool = True) -> Command:
        return endpoint.deploy(workspace.version(good=good), agent="recorded-")

    deploy(endpoint).finish()  # from now on both slots stand, as in every later release
    new = workspace.endpoint()
    return Recorded(
        release=traced(endpoint, deploy(endpoint), 0),
        rollback=traced(endpoint, endpoint.rollback(agent="recorded-"), 0),
        refused=traced(endpoint, deploy(endpoint, good=False), 6),
        first=traced(new, deploy(new), 0),
    )


def stages(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each record of the last rollout says, in a word or two."""
    stages: list[str] = []
    for record in records:
        if record["kind"] == "begin":
            stages = []
        facts = record["facts"]
        shares = facts.get("wanted") or facts.get("traffic") or {}
        which = {
            "verdict": f"{facts.get('what')} {facts.get('share') or ''} {facts.get('verdict')}",
            "traffic": f"traffic {max(shares.values(), default=0)} wanted",
            "moved": f"traffic {max(shares.values(), default=0)} seen",
            "end": f"end: {facts.get('outcome')}",
        }.get(record["kind"], record["kind"])
        stages.append(" ".join(which.split()))
    return stages


def run(
    workspace: Workspace, cases: Sequence[Case], *, workers: int, done: Callable[[Result], None] = lambda _: None
) -> list[Result]:
    """Run cases in so many workers."""
    waiting: queue.SimpleQueue[Case] = queue.SimpleQueue()
    for case in cases:
        waiting.put(case)
    results: list[Result] = []
    lock = threading.Lock()

    def work() -> None:
        worker = Worker(workspace)
        while True:
            try:
                case = waiting.get_nowait()
            except queue.Empty:
                return
            result = worker.run(case)
            with lock:
                results.append(result)
                done(result)

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def keep(results: Sequence[Result], folder: Path) -> None:
    """Leave the logs of what went wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, result in enumerate(each for each in results if each.violations):
        text = f"{result.story}: {result.fault}: {result.place}\n" + "\n".join(result.violations)
        (folder / f"{number:03d}.txt").write_text(f"{text}\n\n{result.log}", encoding="utf-8")


def plain(results: Sequence[Result]) -> list[dict[str, object]]:
    """For JSON, without the logs."""
    return [{**dataclasses.asdict(each), "log": "", "outcome": each.outcome} for each in results]
