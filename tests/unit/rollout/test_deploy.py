"""What a deploy decides before it begins: no server."""

from __future__ import annotations

import pytest

from mlops.ledger import Outcome
from mlops.rollout.deploy import may_still_run
from tests.support.records import record


@pytest.mark.parametrize("outcome", Outcome)
def test_only_after_a_good_end_nothing_can_still_run(outcome: Outcome) -> None:
    good = {Outcome.RELEASED, Outcome.ROLLED_BACK, Outcome.UNCHANGED, Outcome.RECOVERED}

    assert may_still_run([record("begin"), record("end", outcome=outcome)]) == (outcome not in good)


def test_what_has_no_end_may_still_run_and_what_never_began_does_not() -> None:
    assert may_still_run([record("end", outcome="released"), record("begin")])
    assert not may_still_run([])
