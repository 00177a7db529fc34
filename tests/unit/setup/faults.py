"""Every call of a setup fails once in each way, and setup is killed at each: what is there after one more run."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.support.checkout import ROOT
from tests.unit.setup.subscription import CHANGES, SUBJECT, Outcome, Subscription

ANSWERS: dict[str, dict[str, Any]] = {
    "429, Retry-After": {"kind": "status", "status": 429, "retry_after": 0.2},
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
OPERATIONS = (
    "logAnalytics.create",
    "storageAccounts.create",
    "vaults.create",
    "registries.create",
    "workspace.create",
    "compute.write",
)
PROVIDER = re.compile(r"/providers/Microsoft\.\w+(?=(/register)?$)")
GUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Case:
    """One setup with one fault, at the n-th call of a method and a path (or an operation of a kind)."""

    fault: str
    method: str
    path: str
    nth: int = 0

    def rule(self, pid: int) -> dict[str, Any]:
        """For the local workspace."""
        if self.fault == FAILS:
            text = {"code": "InternalServerError", "message": "The operation failed, as a test wished."}
            return {"kind": "operation", "match": {"operation": f"^{re.escape(self.path)}$"}, **text}
        match = {"method": f"^{self.method}$", "path": f"^{self.path}$", "host": "management"}
        how = ANSWERS.get(self.fault) or {**KILLS[self.fault], "pid": pid}
        return {"match": match, "skip": self.nth, **how}

    def __str__(self) -> str:
        return f"{self.fault}: {self.method} {self.path.replace(chr(92), '')} ({self.nth + 1})"


@dataclass
class Result:
    """What became of it."""

    case: Case
    code: int | None
    struck: bool
    violations: list[str] = field(default_factory=list)
    log: str = ""


class FaultRuns:
    """A subscription that is emptied for each case."""

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        document = yaml.safe_load((ROOT / "mlops.yaml").read_text(encoding="utf-8"))
        document["defaults"]["http"] = {"connect_timeout_s": 2, "read_timeout_s": 2}
        document["defaults"]["training"]["poll_s"] = 0.1
        self._settings = subscription.folder / "impatient" / "mlops.yaml"
        self._settings.parent.mkdir(exist_ok=True)
        self._settings.write_text(yaml.safe_dump(document), encoding="utf-8")
        self.call_points: list[tuple[str, str, int]] = []
        self.expected: dict[str, Any] = {}

    def record(self) -> None:
        """A clean setup: its calls, and what it leaves."""
        self.subscription.empty()
        self.subscription.record()
        done = self._setup()
        assert done.code == 0, done.log
        counts: Counter[tuple[str, str]] = Counter()
        alike: Counter[tuple[str, str]] = Counter()
        for each in self.subscription.trace():
            call = (each["method"], pattern(each["path"]))
            kind = (each["method"], PROVIDER.sub("", each["path"]))
            if counts[call] < 2 and alike[kind] < 2:  # polls come as often as it takes; one provider is as another
                self.call_points.append((*call, counts[call]))
            counts[call] += 1
            alike[kind] += 1
        self.expected = self.subscription.state()

    def table(self) -> list[Case]:
        """Every case."""
        cases = [
            Case(fault, *call)
            for call in dict.fromkeys(self.call_points)
            for fault in (*ANSWERS, *KILLS)
            if call[0] in CHANGES or fault not in ("dropped after", "killed after")  # a lost answer to a question
        ]
        return [*cases, *(Case(FAILS, "", operation) for operation in OPERATIONS)]

    def sample(self, count: int, *, seed: int) -> list[Case]:
        """So many, each fault at least once."""
        shuffled = random.Random(seed).sample(self.table(), len(self.table()))
        kinds: dict[str, Case] = {}
        for case in shuffled:
            kinds.setdefault(case.fault, case)
        chosen = list(kinds.values())
        return chosen + [case for case in shuffled if case not in chosen][: max(0, count - len(chosen))]

    def run(self, case: Case) -> Result:
        """One case: the fault, one more run, and one after it that has nothing to do."""
        subscription = self.subscription
        subscription.empty()
        command = subscription.command("--yes", "--subject", f"staging={SUBJECT}", env=self._env())
        subscription.local("POST", "faults", case.rule(command.pid))
        done = command.finish()
        (rule,) = subscription.local("GET", "faults")
        subscription.local("DELETE", "faults")
        result = Result(case, done.code, rule["matched"] > rule["skip"], log=done.log)
        if done.code not in (None, 0, 3, 8):
            result.violations.append(f"exit code {done.code}")
        if done.code is None and case.fault not in KILLS:
            result.violations.append("killed by nobody")
        again = self._setup()
        result.log += f"\n--- again ---\n{again.log}"
        if again.code != 0:
            result.violations.append(f"one more run ended with {again.code}")
            return result
        actual, expected = subscription.state(), dict(self.expected)
        if case.path == "compute.write":  # where Dedicated cannot be had, LowPriority is right
            for path in [each for each in expected if each.endswith("/c")]:
                assert "LowPriority" in str(actual.pop(path))
                expected.pop(path)
        result.violations += [
            f"{path} is {actual.get(path)}, not {expected.get(path)}"
            for path in sorted({*actual, *expected})
            if actual.get(path) != expected.get(path)
        ]
        subscription.record()
        last = self._setup()
        changes = subscription.changes()
        if last.code != 0 or changes or last.document["made"]:
            result.violations.append(f"the run after it ended with {last.code} and changed {changes}")
        return result

    def _setup(self) -> Outcome:
        return self.subscription.setup("--yes", "--subject", f"staging={SUBJECT}", env=self._env())

    def _env(self) -> dict[str, str]:
        return {"MLOPS_SETTINGS": str(self._settings)}


def pattern(path: str) -> str:
    """A regular expression for a path whose made-up ids differ from run to run."""
    pieces = re.split(rf"({GUID.pattern})", path)
    return "".join(re.escape(piece) if number % 2 == 0 else "[-0-9a-f]{36}" for number, piece in enumerate(pieces))


def keep(results: list[Result], folder: Path) -> None:
    """Leave the logs of what went wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, result in enumerate(each for each in results if each.violations):
        text = f"{result.case}\n" + "\n".join(result.violations)
        (folder / f"{number:03d}.txt").write_text(f"{text}\n\n{result.log}", encoding="utf-8")
