"""What must hold after a rollout that met a fault, and after the next one; each breach is a sentence."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.fault_injection.workspace import Endpoint
from tests.support.waiting import until

SETTLED = {"Succeeded", "Failed"}
ASKED = 6


@dataclass
class Aftermath:
    """What was found, and what of it must not be."""

    traffic: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    @property
    def shares(self) -> dict[str, int]:
        """Shares by model version."""
        return {self.versions.get(slot, "?"): share for slot, share in self.traffic.items()}


def settled(endpoint: Endpoint) -> dict[str, str]:
    """The states once nothing is under way any more."""

    def settled_states() -> list[dict[str, str]]:
        states = endpoint.states()
        return [states] if set(states.values()) <= SETTLED else []

    return until(settled_states, what=f"the end of what is under way on {endpoint.name}", every_s=0.1)[0]


def passed(endpoint: Endpoint, version: str) -> bool:
    """Whether the ledger says that a version came past the gate."""
    verdicts = [record["facts"] for record in endpoint.ledger() if record["kind"] == "verdict"]
    return any(
        facts.get("what") == "gate" and facts.get("verdict") == "pass" and str(facts.get("version")) == version
        for facts in verdicts
    )


def replaced(endpoint: Endpoint) -> str | None:
    """The version that the last release replaced, by its plan: a rollback goes there."""
    plans = [record["facts"] for record in endpoint.ledger() if record["kind"] == "plan"]
    release = plans[-1].get("replaced") if plans else None
    return str(release["version"]) if release else None


def inspect(endpoint: Endpoint, *, before: str | None, new: str, patience_s: float = 0) -> Aftermath:
    """Live traffic rests on what passed its gate, users are answered, nothing is half done.

    Args:
        endpoint: which.
        before: the version that was live, if any.
        new: the version that was to be released.
        patience_s: how long users may go without an answer (a process that crashed is started again).
    """
    aftermath = Aftermath()
    settled(endpoint)
    aftermath.traffic, aftermath.versions = endpoint.traffic(), endpoint.versions()
    total = sum(aftermath.traffic.values())
    if total != 100 and not (before is None and total == 0):
        aftermath.violations.append(f"the traffic is {aftermath.traffic}")
    for slot, share in aftermath.traffic.items():
        version = aftermath.versions.get(slot, "nothing")
        if version != before and not (version == new and passed(endpoint, version)):
            aftermath.violations.append(
                f"{share} % of the traffic is on version {version}, which has not passed its gate"
            )
    if total:
        aftermath.violations += unanswered(endpoint, set(aftermath.shares), patience_s)
    return aftermath


def unanswered(endpoint: Endpoint, versions: set[str], patience_s: float = 0) -> list[str]:
    """What users would complain of."""
    end = time.monotonic() + patience_s
    while True:
        answers = endpoint.ask(ASKED)
        bad = [each for each in answers if each.status != 200 or not each.right or each.version not in versions]
        if not bad or time.monotonic() > end:
            return [f"a user was answered {each}" for each in bad[:1]]
        time.sleep(0.2)


def closed(endpoint: Endpoint) -> list[str]:
    """The ledger has no rollout without an end, and nobody holds it."""
    ended, begun = set(), []
    records = endpoint.ledger()
    for record in records:
        if record["kind"] == "begin":
            begun.append(record["rollout"])
            if record["facts"].get("broke"):
                ended.add(record["facts"]["broke"])
        if record["kind"] == "end":
            ended.add(record["rollout"])
    violations = ["there is no ledger"] if not records else []
    violations += ["the last rollout has no end in the ledger"] if begun and begun[-1] not in ended else []
    return violations + (["somebody still holds the lease"] if endpoint.leased() else [])


def released(endpoint: Endpoint, version: str) -> list[str]:
    """All traffic is on that version, and users are answered by it."""
    states = settled(endpoint)
    traffic, versions = endpoint.traffic(), endpoint.versions()
    live: Mapping[str, int] = {versions.get(slot, "?"): share for slot, share in traffic.items()}
    if live != {version: 100}:
        return [f"the traffic is {dict(live)} by version, and not all on {version}"]
    slot = next(iter(traffic))
    violations = [] if states.get(slot) == "Succeeded" else [f"the live slot '{slot}' is '{states.get(slot)}'"]
    return violations + unanswered(endpoint, {version})
