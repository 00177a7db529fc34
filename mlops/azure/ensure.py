"""Changes that are asked for until they hold.

An answer can be lost after the work was done, an operation can fail in passing, and the call that is repeated meets
the operation that it began itself. Whoever holds an endpoint's lease may therefore look, wait and ask again, until
what Azure holds is what was wanted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from mlops.azure.errors import BusyError, UnavailableError
from mlops.core import retry
from mlops.core.errors import AzureError, MlopsError
from mlops.core.interrupts import stay_interruptible
from mlops.core.retry import Backoff

if TYPE_CHECKING:
    from mlops.azure.session import Session

T = TypeVar("T")
ATTEMPTS = 4
READ_BACKOFF = Backoff(first_s=0.5, longest_s=10.0)
SETTLED = ("succeeded", "failed", "canceled")
"""Provisioning states in which nothing changes a resource."""
SETTLE_S = 1800.0
"""How long Azure gives an operation on an endpoint or a deployment (``x-ms-async-operation-timeout: PT30M``)."""
PASSING = (UnavailableError, BusyError)


def ensure(
    change: Callable[[], object],
    holds: Callable[[], T | None],
    *,
    retried_errors: tuple[type[MlopsError], ...] = PASSING,
    pause_s: float = 1.0,
) -> T:
    """Ask for a change until it holds.

    Args:
        change: the call; its result is not looked at.
        holds: what Azure has, once nothing changes it, where that is what was wanted; else None.
        retried_errors: errors of ``change`` after which it is looked again.
        pause_s: between the attempts, doubled each time.

    Raises:
        MlopsError: what the last attempt ended with.
    """
    backoff = Backoff(first_s=pause_s, longest_s=10.0)
    last: MlopsError = AzureError("the change was made, and Azure shows something else", hint="mlops endpoint status")
    for attempt in range(ATTEMPTS):
        state = retry_read(holds)
        if state is not None:
            return state
        if attempt:
            time.sleep(backoff.pause_s(attempt))
        try:
            change()
        except retried_errors as error:
            last = error
    state = retry_read(holds)
    if state is None:
        raise last
    return state


def retry_read(read: Callable[[], T]) -> T:
    """A call that only looks, asked again where Azure gave no answer to the SDK's own attempts."""
    return retry.call(read, attempts=3, backoff=READ_BACKOFF, passing=lambda error: isinstance(error, UnavailableError))


def settled(session: Session, what: str, read: Callable[[], T | None], state: Callable[[T], str]) -> T | None:
    """A resource once nothing changes it any more.

    Raises:
        BusyError: it is still being changed after :data:`SETTLE_S`.
    """
    end, announced = time.monotonic() + SETTLE_S, False
    stay_interruptible()
    while True:
        resource = retry_read(read)
        if resource is None or state(resource).lower() in SETTLED:
            return resource
        if time.monotonic() > end:
            raise BusyError(f"{what} is '{state(resource)}' after {SETTLE_S / 60:.0f} minutes", hint="try again later")
        if not announced:
            session.console.say(f"waiting for {what}, which is '{state(resource)}'")
            announced = True
        time.sleep(min(5.0, session.settings.training.poll_s))
