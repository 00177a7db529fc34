"""Faults at every call: whatever one run met, the next ends well, and the one after it has nothing to do."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.unit.setup.faults import Case, FaultRuns, Result, keep
from tests.unit.setup.subscription import Subscription

SEED = int(os.environ.get("MLOPS_SETUP_SEED", "6"))
COUNT = int(os.environ.get("MLOPS_SETUP_CASES", "9"))


@pytest.fixture(scope="module")
def runs(subscription: Subscription) -> FaultRuns:
    fault_runs = FaultRuns(subscription)
    fault_runs.record()
    return fault_runs


def judged(runs: FaultRuns, cases: list[Case], folder: Path) -> None:
    results: list[Result] = []
    for case in cases:
        start = time.monotonic()
        results.append(runs.run(case))
        print(
            f"{time.monotonic() - start:5.1f} s  {case}: {results[-1].code} {results[-1].violations}"[:300], flush=True
        )
    keep(results, folder)
    struck = [each for each in results if each.struck]
    print(f"\n{len(results)} setups, {len(struck)} struck")
    for (fault, code), count in sorted(Counter((each.case.fault, str(each.code)) for each in struck).items()):
        print(f"  {fault:18} ended with {code:5} {count}")
    wrong = [f"{each.case}: {'; '.join(each.violations)[:600]}" for each in results if each.violations]
    assert not wrong, "\n".join(wrong)
    assert len(struck) >= len(results) * 0.9


@pytest.mark.slow
def test_a_sample_of_faults(runs: FaultRuns, tmp_path: Path) -> None:
    judged(runs, runs.sample(COUNT, seed=SEED), tmp_path)


@pytest.mark.full
@pytest.mark.timeout(4 * 3600)  # 354 cases of 4 s each
@pytest.mark.skipif(not os.environ.get("MLOPS_FULL"), reason="the whole table; MLOPS_FULL=1 runs it")
def test_every_call_fails_once_in_each_way(runs: FaultRuns) -> None:
    judged(runs, runs.table(), ROOT / "build" / "setup-runs")
