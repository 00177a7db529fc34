"""Quota that is short: asked for where that can be, granted or refused, never in the way of the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.setup.subscription import SUBJECT, Subscription

pytestmark = pytest.mark.slow
GIVEN = ("--yes", "--subject", f"staging={SUBJECT}")
REQUEST = "/providers/Microsoft.Quota/quotas/"


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[Callable[[int], Subscription]]:
    """A subscription with quota for one machine, and so many vCPUs that Azure grants by itself."""
    opened = []

    def make(grant: int) -> Subscription:
        subscription = Subscription(tmp_path / "s", tmp_path / "cache", FAMILY_VCPUS="24", QUOTA_GRANT=str(grant))
        subscription.open()
        opened.append(subscription)
        return subscription

    yield make
    for each in opened:
        each.close()


def test_granted(limited: Callable[[int], Subscription]) -> None:
    subscription = limited(100)
    done = subscription.setup(*GIVEN)
    assert done.code == 0, done.log
    assert "72 vCPUs of standardNCADSA100v4Family: granted" in done.log
    assert done.document["for_you"] == []
    subscription.record()
    again = subscription.setup(*GIVEN)
    assert again.line("quota") == {
        "what": "quota",
        "name": "",
        "state": "exists",
        "note": "suffices for one training and two slots",
    }
    assert subscription.changes() == []


def test_refused_is_told_once_and_stops_nothing(limited: Callable[[int], Subscription]) -> None:
    subscription = limited(0)
    never = subscription.setup(*GIVEN, "--no-request-quota")
    assert never.code == 0, never.log
    assert any("a limit of 72 vCPUs" in note and "portal.azure.com" in note for note in never.document["for_you"])
    subscription.record()
    done = subscription.setup(*GIVEN)
    assert done.code == 0, done.log
    assert [change for change in subscription.changes() if REQUEST in change]
    (note,) = done.document["for_you"]
    assert "72 vCPUs" in note
    assert "portal.azure.com" in note
    subscription.record()
    again = subscription.setup(*GIVEN)
    assert again.code == 0, again.log
    assert subscription.changes() == []  # it was asked for, and refused: a person has to ask now
    assert again.line("quota")["state"] == "open"
    assert "asked for 72: Failed" in again.line("quota")["note"]
    subscription.record()
    assert subscription.setup(*GIVEN, "--request-quota").code == 0
    assert len([change for change in subscription.changes() if REQUEST in change]) == 1
