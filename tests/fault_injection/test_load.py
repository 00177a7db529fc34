"""Users notice nothing of a rollout and of the way back."""

from __future__ import annotations

import pytest

from tests.fault_injection.load import Load, Request, load
from tests.fault_injection.workspace import Workspace
from tests.support.waiting import until

pytestmark = [pytest.mark.slow]
RATE = 20.0


def a_second_of(users: Load) -> list[Request]:
    """As many requests as come in a second, all of them begun and answered within this call."""
    since = users.now_s()

    def new_requests() -> list[Request]:
        some = [each for each in list(users.requests) if each.asked_s >= since]
        return some if len(some) >= RATE else []

    return until(new_requests, what="the users' next requests")


def test_no_request_fails_over_a_rollout_and_a_rollback(fault_workspace: Workspace) -> None:
    endpoint, old, new = fault_workspace.endpoint(), fault_workspace.version(), fault_workspace.version()
    first = endpoint.deploy(old).finish()
    assert first.code == 0, first.log

    with load(endpoint, rate=RATE) as users:
        a_second_of(users)
        there = endpoint.deploy(new).finish()
        between = a_second_of(users)
        rollback = endpoint.rollback().finish()
        a_second_of(users)

    assert (there.code, rollback.code) == (0, 0), f"{there.log}\n{rollback.log}"
    assert users.failed == []
    versions = [each.version for each in users.requests]
    assert versions[0] == versions[-1] == old
    assert {each.version for each in between} == {new}
