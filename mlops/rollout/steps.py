"""Traffic, step by step: each step's soak has to pass before the next."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mlops import gate
from mlops.core.errors import GateFailed
from mlops.core.resources import Endpoint
from mlops.ledger import Verdict
from mlops.rollout.plan import traffic_at
from mlops.rollout.soak import soak

if TYPE_CHECKING:
    from mlops.rollout.context import UnderWay


def move(work: UnderWay, steps: tuple[int, ...], *, watched: bool) -> Endpoint:
    """Raise the new slot's share step by step; each step's soak has to pass before the next."""
    console, plan, rollout = work.session.console, work.plan, work.settings.rollout
    if watched and plan.mirror:
        with console.step(f"Mirror {plan.mirror} % to {plan.slot} for {rollout.mirror_s:g} s"):
            work.move(plan.before, what="mirror", mirror={plan.slot: plan.mirror})
            time.sleep(rollout.mirror_s)
            work.check_unchanged()
    seen: Endpoint | None = None
    for index, share in enumerate(steps):
        with console.step(f"Traffic: {share} % to {plan.slot}") as step:
            if index:
                work.check_unchanged()
            seen = work.move(traffic_at(plan, share), what=f"step {share} %")
            if watched:
                found = _watch(work, share)
                step.note = soak_line(found)
                _judge(work, found)
    assert seen is not None
    return seen


def _watch(work: UnderWay, share: int) -> gate.Soak:
    with work.session.console.progress() as progress:
        task = progress.add_task("soak", total=None)

        def seen(words: str) -> None:
            work.hold.check()  # a rollback that broke the lease need not wait for the soak's end
            progress.update(task, description=f"soak: {words}")

        plan = work.plan
        return soak(
            work.scorer, work.settings, work.samples, candidate=plan.slot, live=plan.live, share=share, seen=seen
        )


def soak_line(found: gate.Soak) -> str:
    """A soak in one line."""
    return ", ".join(
        f"{slot.slot} {slot.requests} probes" + (f", p95 {slot.p95_ms:.0f} ms" if slot.latencies_ms else "")
        for slot in found.slots
    )


def _judge(work: UnderWay, found: gate.Soak) -> None:
    work.soaks.append(found)
    work.record_verdict(Verdict(what="soak", verdict=found.verdict, share=found.share))
    old = next((slot for slot in found.slots if slot.slot.lower() != work.plan.slot), None)
    if old is not None and old.requests and old.success_rate < 1:
        work.session.console.warn(f"{old.slot}, which was live before, answered {old.success_rate:.0%} of its probes")
    if found.verdict == "pass":
        return
    missed = [
        f"{check.title} is {check.measured:.3g}, asked is {check.relation} {check.threshold:g}"
        for check in found.checks
        if not check.passed and check.threshold is not None
    ]
    slot = work.plan.slot
    raise GateFailed(
        f"{work.label} did not hold {found.share} % of the traffic in {slot}",
        details=missed,
        hint=f"the slot stays at 0 % for a look: mlops endpoint logs --slot {slot} --endpoint {work.name}",
    )
