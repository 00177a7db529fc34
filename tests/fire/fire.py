"""Runs cases, several at a time, each on an endpoint that no other uses meanwhile."""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.fire import aftermath
from tests.fire.calls import Place, places
from tests.fire.cases import CRASH_LIVE, CRASH_NEW, KILLS, Case, table
from tests.fire.workspace import Done, Endpoint, Workspace

RESTART_S = 20.0
"""How long a crashed scoring process may take to be there again."""


@dataclass
class Result:
    """What became of one case; without breaches it is as it must be."""

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
    breaches: list[str] = field(default_factory=list)
    log: str = ""

    @property
    def outcome(self) -> str:
        """Exit code in words."""
        words = {None: "killed", 0: "released", 3: "refused", 6: "gate failed", 7: "undecided", 8: "Azure failed"}
        return words.get(self.code, f"exit {self.code}")


class Lane:
    """An endpoint with something live; cases run on it one after another."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.endpoint: Endpoint | None = None
        self.live = ""

    def ready(self) -> tuple[Endpoint, str]:
        """The endpoint and the version that is live there; made anew where the last case left something wrong."""
        if self.endpoint is None:
            endpoint, version = self.workspace.endpoint(), self.workspace.version()
            done = endpoint.deploy(version).finish()
            wrong = aftermath.released(endpoint, version)
            if done.code != 0 or wrong:
                raise RuntimeError(f"a clean release ended with {done.code} {wrong}:\n{done.log[-3000:]}")
            self.endpoint, self.live = endpoint, version
        return self.endpoint, self.live

    def run(self, case: Case) -> Result:
        """One case from beginning to end."""
        result = Result(case.story, case.fault, str(case.place))
        begin = time.monotonic()
        try:
            if case.first:
                self._run(case, result, self.workspace.endpoint(), None)
            else:
                endpoint, live = self.ready()
                self.live = self._run(case, result, endpoint, live)
        except Exception:
            result.breaches.append(f"the test itself failed: {traceback.format_exc(limit=4)}")
        if result.breaches and not case.first:
            self.endpoint = None
        result.seconds = time.monotonic() - begin
        return result

    def _run(self, case: Case, result: Result, endpoint: Endpoint, live: str | None) -> str:
        workspace = self.workspace
        version = workspace.version(good=case.good)
        agent = f"fire-{version}-"
        command = endpoint.deploy(version, agent=agent)
        slot = next(iter(endpoint.traffic()), "")
        new = {"blue": "green"}.get(slot, "blue")
        rule = case.rule(name=agent, endpoint=endpoint.name, agent=agent, pid=command.pid, new=new, live=slot)
        workspace.local("POST", "faults", rule)
        done = command.finish()
        shown = [each for each in workspace.local("GET", "faults") if each["name"] == agent]
        workspace.local("DELETE", f"faults?name={agent}")
        result.struck = any(each["matched"] > each["skip"] for each in shown)
        result.code, result.log = done.code, done.log
        patience_s = RESTART_S if case.fault in (CRASH_NEW, CRASH_LIVE) else 0
        after = aftermath.look(endpoint, before=live, new=version, patience_s=patience_s)
        result.traffic = named(after.shown, live, version)
        result.breaches += after.breaches + self._judge(case, result)
        again = endpoint.deploy(version, agent=f"again-{version}-").finish()
        result.again = again.code
        result.breaches += self._judge_again(case, endpoint, again, live, version)
        if result.breaches:
            result.log += f"\n--- once more ---\n{again.log}"
        return version if case.good else live or ""

    def _judge(self, case: Case, result: Result) -> list[str]:
        found = []
        if result.code is None and case.fault not in KILLS:
            found.append("the process was killed by nobody")
        if result.code not in (None, 0, 3, 6, 7, 8):
            found.append(f"exit code {result.code}")
        if result.code == 0 and result.traffic != "new":
            found.append(f"exit code 0, and the traffic is on: {result.traffic}")
        if result.code not in (None, 0) and result.traffic == "both":
            found.append(f"exit code {result.code}, and the traffic was left split")
        if not case.good and result.traffic not in ("old", "none"):
            found.append("traffic reached a version that the gate refuses")
        return found

    def _judge_again(self, case: Case, endpoint: Endpoint, again: Done, live: str | None, version: str) -> list[str]:
        wanted = 0 if case.good else 6
        found = [] if again.code == wanted else [f"one more deploy ended with {again.code}"]
        right = version if case.good else live
        if right is not None:
            found += [f"after one more deploy {each}" for each in aftermath.released(endpoint, right)]
        return found + [f"after one more deploy {each}" for each in aftermath.closed(endpoint)]


def named(shown: dict[str, int], live: str | None, version: str) -> str:
    """Which versions have traffic."""
    if not shown:
        return "none"
    words = {live: "old", version: "new"}
    names = {words.get(each, "other") for each in shown}
    return names.pop() if len(names) == 1 else "both"


def record(workspace: Workspace) -> tuple[list[Place], list[Place], list[Place]]:
    """The calls of a clean release, of one that the gate refuses, and of an endpoint's first release."""
    endpoint, version = workspace.endpoint(), workspace.version()
    done = endpoint.deploy(version, modules=True).finish()
    if done.code != 0:
        raise RuntimeError(f"a clean release ended with {done.code}:\n{done.log[-3000:]}")
    workspace.warm_up(done.modules)

    def traced(endpoint: Endpoint, good: bool, wanted: int) -> list[Place]:
        version = workspace.version(good=good)
        workspace.local("POST", "requests", {"record": True})
        done = endpoint.deploy(version, agent="recorded-").finish()
        workspace.local("POST", "requests", {"record": False})
        if done.code != wanted:
            raise RuntimeError(f"a clean release ended with {done.code}:\n{done.log[-3000:]}")
        return places(workspace.local("GET", "requests"), endpoint.name, "recorded-")

    return traced(endpoint, True, 0), traced(endpoint, False, 6), traced(workspace.endpoint(), True, 0)


def cases_of(workspace: Workspace) -> list[Case]:
    """The whole table."""
    return table(*record(workspace))


def run(
    workspace: Workspace, cases: Sequence[Case], *, lanes: int, done: Callable[[Result], None] = lambda _: None
) -> list[Result]:
    """Run cases in so many lanes."""
    waiting: queue.SimpleQueue[Case] = queue.SimpleQueue()
    for case in cases:
        waiting.put(case)
    results: list[Result] = []
    lock = threading.Lock()

    def work() -> None:
        lane = Lane(workspace)
        while True:
            try:
                case = waiting.get_nowait()
            except queue.Empty:
                return
            result = lane.run(case)
            with lock:
                results.append(result)
                done(result)

    threads = [threading.Thread(target=work) for _ in range(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def keep(results: Sequence[Result], folder: Path) -> None:
    """Leave the logs of what went wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, result in enumerate(each for each in results if each.breaches):
        text = f"{result.story}: {result.fault}: {result.place}\n" + "\n".join(result.breaches)
        (folder / f"{number:03d}.txt").write_text(f"{text}\n\n{result.log}", encoding="utf-8")


def plain(results: Sequence[Result]) -> list[dict[str, object]]:
    """For JSON, without the logs."""
    return [{**dataclasses.asdict(each), "log": "", "outcome": each.outcome} for each in results]
