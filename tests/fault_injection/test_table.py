"""Every call of a rollout fails once in every way, or the process dies there; then one more deploy ends well."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.fault_injection import report, runner
from tests.fault_injection.cases import FAULTS, sample
from tests.fault_injection.workspace import Workspace
from tests.support.checkout import ROOT

pytestmark = [pytest.mark.slow]
SEED = 7
SAMPLE = 20
WORKERS = 4 * max(2, os.cpu_count() or 1)
"""A rollout waits most of its time."""


def run(workspace: Workspace, count: int | None) -> None:
    path = Path(
        os.environ.get("MLOPS_FIRE_REPORT") or ROOT / "build" / ("faults.md" if count is None else "faults-sample.md")
    )
    start = time.monotonic()
    cases = runner.record(workspace).table()
    subset = cases if count is None else sample(cases, count, seed=SEED)
    results = runner.run(workspace, subset, workers=WORKERS if count is None else min(WORKERS, count // 3))
    order = {(each.story, each.fault, str(each.point)): number for number, each in enumerate(cases)}
    results.sort(key=lambda each: order[(each.story, each.fault, each.place)])
    report.write(results, path, seconds=time.monotonic() - start)
    runner.keep(results, path.with_suffix(""))
    wrong = [f"{each.story}: {each.fault}: {each.place}: {each.violations}" for each in results if each.violations]
    assert not wrong, f"{len(wrong)} of {len(results)}, see {path}:\n" + "\n".join(wrong)
    struck = sum(each.struck for each in results)
    assert struck >= 0.9 * len(results), f"only {struck} of {len(results)} faults struck"
    assert {each.fault for each in results} == set(FAULTS)


def test_a_sample_of_the_table(fault_workspace: Workspace) -> None:
    run(fault_workspace, SAMPLE)


@pytest.mark.full
@pytest.mark.timeout(6 * 3600)  # 36 minutes on two busy cores
@pytest.mark.skipif(not os.environ.get("MLOPS_FULL"), reason="make test-full")
def test_the_whole_table(fault_workspace: Workspace) -> None:
    run(fault_workspace, None)
