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
    from mlops.rollout.context import RolloutContext


def shift_traffic(context: RolloutContext, *, watched: bool) -> Endpoint:
    """Raise the new slot's share step by step; each step's soak has to pass before the next."""
    console, plan, rollout = context.session.console, context.plan, context.settings.rollout
    if watched and plan.mirror:
        with console.step(f"Mirror {plan.mirror} % to {plan.slot} for {rollout.mirror_s:g} s"):
            context.set_traffic(plan.before, what="mirror", mirror={plan.slot: plan.mirror})
            time.sleep(rollout.mirror_s)
            context.check_unchanged()
    seen: Endpoint | None = None
    for index, share in enumerate(plan.steps):
        with console.step(f"Traffic: {share} % to {plan.slot}") as step:
            if index:
                context.check_unchanged()
            seen = context.set_traffic(traffic_at(plan, share), what=f"step {share} %")
            if watched:
                result = _watch(context, share)
                step.note = soak_line(result)
                _judge(context, result)
    assert seen is not None
    return seen


def _watch(context: RolloutContext, share: int) -> gate.Soak:
    with context.session.console.progress() as progress:
        task = progress.add_task("soak", total=None)

        def on_progress(tally: str) -> None:
            context.lock.check()  # a rollback that broke the lease need not wait for the soak's end
            progress.update(task, description=f"soak: {tally}")

        plan = context.plan
        return soak(
            context.scorer,
            context.settings,
            context.samples,
            candidate=plan.slot,
            live=plan.live,
            share=share,
            on_progress=on_progress,
        )


def soak_line(result: gate.Soak) -> str:
    """A soak in one line."""
    return ", ".join(
        f"{slot.slot} {slot.requests} probes" + (f", p95 {slot.p95_ms:.0f} ms" if slot.latencies_ms else "")
        for slot in result.slots
    )


def _judge(context: RolloutContext, result: gate.Soak) -> None:
    context.soaks.append(result)
    context.record_verdict(Verdict(what="soak", verdict=result.verdict, share=result.share))
    old = next((slot for slot in result.slots if slot.slot.lower() != context.plan.slot), None)
    if old is not None and old.requests and old.success_rate < 1:
        context.session.console.warn(
            f"{old.slot}, which was live before, answered {old.success_rate:.0%} of its probes"
        )
    if result.verdict == "pass":
        return
    missed = [
        f"{check.title} is {check.measured:.3g}, required: {check.relation} {check.threshold:g}"
        for check in result.checks
        if not check.passed and check.threshold is not None
    ]
    slot = context.plan.slot
    raise GateFailed(
        f"{context.label} did not hold {result.share} % of the traffic in {slot}",
        details=missed,
        hint=f"the slot stays at 0 % for inspection: mlops endpoint logs --slot {slot} --endpoint {context.name}",
    )
