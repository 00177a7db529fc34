"""Every call of a rollout fails once in every way, or the process dies there; then one more deploy ends well."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.fire import fire, report
from tests.fire.cases import FAULTS, sample
from tests.fire.workspace import ROOT, Workspace

pytestmark = [pytest.mark.slow]
SEED = 7
SAMPLE = 20
LANES = 4 * max(2, os.cpu_count() or 1)
"""A rollout waits most of its time."""


def run(workspace: Workspace, count: int | None) -> None:
    place = Path(
        os.environ.get("MLOPS_FIRE_REPORT") or ROOT / "build" / ("fire.md" if count is None else "fire-sample.md")
    )
    begin = time.monotonic()
    cases = fire.record(workspace).table()
    chosen = cases if count is None else sample(cases, count, seed=SEED)
    results = fire.run(workspace, chosen, lanes=LANES if count is None else min(LANES, count // 3))
    order = {(each.story, each.fault, str(each.place)): number for number, each in enumerate(cases)}
    results.sort(key=lambda each: order[(each.story, each.fault, each.place)])
    report.write(results, place, seconds=time.monotonic() - begin)
    fire.keep(results, place.with_suffix(""))
    wrong = [f"{each.story}: {each.fault}: {each.place}: {each.breaches}" for each in results if each.breaches]
    assert not wrong, f"{len(wrong)} of {len(results)}, see {place}:\n" + "\n".join(wrong)
    struck = sum(each.struck for each in results)
    assert struck >= 0.9 * len(results), f"only {struck} of {len(results)} faults struck"
    assert {each.fault for each in results} == set(FAULTS)


def test_a_sample_of_the_table(fire_workspace: Workspace) -> None:
    run(fire_workspace, SAMPLE)


@pytest.mark.full
@pytest.mark.timeout(6 * 3600)  # 36 minutes on two busy cores
@pytest.mark.skipif(not os.environ.get("MLOPS_FULL"), reason="make test-full")
def test_the_whole_table(fire_workspace: Workspace) -> None:
    run(fire_workspace, None)
