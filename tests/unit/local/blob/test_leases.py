"""The states of a lease, as in the tables of "Lease Blob" in the Azure Storage REST reference."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlops.local.blob.errors import BlobError
from mlops.local.blob.leases import INFINITE, Leases
from mlops.local.state.store import Store

WHERE = ("container", "blob")
MINE, OTHER = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("mlops.local.blob.leases.time", made)
    return made


@pytest.fixture
def leases(tmp_path: Path, clock: Clock) -> Iterator[Leases]:
    store = Store(tmp_path / "workspace.sqlite")
    yield Leases(store)
    store.close()


def refused(code: str, call: Callable[[], object]) -> None:
    with pytest.raises(BlobError) as caught:
        call()
    assert caught.value.code == code


def acquire(leases: Leases, lease: str = MINE, duration_s: int = 15) -> None:
    leases.acquire(*WHERE, duration_s=duration_s, proposed=lease)


def test_an_available_blob_is_written_without_a_lease_only(leases: Leases) -> None:
    leases.check(*WHERE, None, writes=True)
    refused("LeaseNotPresentWithBlobOperation", lambda: leases.check(*WHERE, MINE, writes=True))


def test_a_leased_blob_is_written_by_its_holder_only(leases: Leases) -> None:
    acquire(leases)
    leases.check(*WHERE, MINE, writes=True)
    leases.check(*WHERE, MINE.upper(), writes=True)
    leases.check(*WHERE, None, writes=False)
    refused("LeaseIdMissing", lambda: leases.check(*WHERE, None, writes=True))
    refused("LeaseIdMismatchWithBlobOperation", lambda: leases.check(*WHERE, OTHER, writes=False))


def test_only_one_holds_it(leases: Leases, clock: Clock) -> None:
    acquire(leases)
    refused("LeaseAlreadyPresent", lambda: acquire(leases, OTHER))
    clock.now += 10
    acquire(leases)  # the holder again: the time begins anew
    clock.now += 10
    leases.check(*WHERE, MINE, writes=True)
    clock.now += 6
    acquire(leases, OTHER)
    refused("LeaseIdMismatchWithBlobOperation", lambda: leases.check(*WHERE, MINE, writes=True))


def test_an_expired_lease_locks_nobody_and_serves_nobody(leases: Leases, clock: Clock) -> None:
    acquire(leases)
    clock.now += 16
    leases.check(*WHERE, None, writes=True)
    refused("LeaseLost", lambda: leases.check(*WHERE, MINE, writes=True))
    leases.renew(*WHERE, given=MINE)
    leases.check(*WHERE, MINE, writes=True)


def test_a_write_between_ends_an_expired_lease_for_good(leases: Leases, clock: Clock) -> None:
    acquire(leases)
    clock.now += 16
    leases.written(*WHERE)
    refused("LeaseIdMismatchWithLeaseOperation", lambda: leases.renew(*WHERE, given=MINE))


def test_an_infinite_lease_stays(leases: Leases, clock: Clock) -> None:
    acquire(leases, duration_s=INFINITE)
    clock.now += 1e9
    refused("LeaseIdMissing", lambda: leases.check(*WHERE, None, writes=True))


@pytest.mark.parametrize("duration_s", [0, 14, 61, -2])
def test_durations_outside_azures_are_refused(leases: Leases, duration_s: int) -> None:
    refused("InvalidHeaderValue", lambda: acquire(leases, duration_s=duration_s))


def test_breaking_takes_effect_when_its_period_is_over(leases: Leases, clock: Clock) -> None:
    acquire(leases, duration_s=60)
    assert leases.end(*WHERE, period_s=20) == 20
    leases.check(*WHERE, MINE, writes=True)
    refused("LeaseAlreadyPresent", lambda: acquire(leases, OTHER))
    refused("LeaseIsBreakingAndCannotBeAcquired", lambda: acquire(leases))
    refused("LeaseIsBreakingAndCannotBeChanged", lambda: leases.change(*WHERE, given=MINE, proposed=OTHER))
    refused("LeaseIsBrokenAndCannotBeRenewed", lambda: leases.renew(*WHERE, given=MINE))
    clock.now += 10
    assert leases.end(*WHERE, period_s=60) == 10, "a second break makes it no longer"
    clock.now += 11
    refused("LeaseNotPresentWithBlobOperation", lambda: leases.check(*WHERE, MINE, writes=True))
    acquire(leases, OTHER)


@pytest.mark.parametrize(("duration_s", "left"), [(60, 60), (INFINITE, 0)])
def test_breaking_without_a_period(leases: Leases, duration_s: int, left: int) -> None:
    acquire(leases, duration_s=duration_s)
    assert leases.end(*WHERE, period_s=None) == left


def test_release_and_change_need_the_right_id(leases: Leases) -> None:
    refused("LeaseIdMismatchWithLeaseOperation", lambda: leases.release(*WHERE, given=MINE))
    acquire(leases)
    refused("LeaseIdMismatchWithLeaseOperation", lambda: leases.release(*WHERE, given=OTHER))
    refused("InvalidHeaderValue", lambda: leases.release(*WHERE, given="mine"))
    leases.change(*WHERE, given=MINE, proposed=OTHER)
    leases.change(*WHERE, given=MINE, proposed=OTHER)  # a repeat of the same call is no error
    leases.release(*WHERE, given=OTHER)
    acquire(leases)
