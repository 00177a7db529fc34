"""Users notice nothing of a rollout and of the way back."""

from __future__ import annotations

import time

import pytest

from tests.fire.load import load
from tests.fire.workspace import Workspace

pytestmark = [pytest.mark.slow]
RATE = 20.0


def test_no_request_fails_over_a_rollout_and_a_rollback(fire_workspace: Workspace) -> None:
    endpoint, old, new = fire_workspace.endpoint(), fire_workspace.version(), fire_workspace.version()
    first = endpoint.deploy(old).finish()
    assert first.code == 0, first.log

    with load(endpoint, rate=RATE) as users:
        time.sleep(1)
        there = endpoint.deploy(new).finish()
        after_s = users.now_s()
        time.sleep(1)
        back = endpoint.rollback().finish()
        time.sleep(1)

    assert (there.code, back.code) == (0, 0), f"{there.log}\n{back.log}"
    assert len(users.requests) >= RATE * 3
    assert users.failed == []
    answered = [each.version for each in users.requests]
    assert answered[0] == answered[-1] == old
    assert {each.version for each in users.between(after_s, after_s + 0.5)} == {new}
