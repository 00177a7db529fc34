"""Lock and history of an endpoint in one append blob: who holds its lease may write to it, nobody else."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from mlops.azure.storage import AppendLog, Content
from mlops.core.errors import MlopsError, UsageError
from mlops.ledger.lock import Lock, LockContext
from mlops.ledger.owner import Locked, Owner, lease_id
from mlops.ledger.records import Record, parse

if TYPE_CHECKING:
    from mlops.azure.session import Session

POLL_S = 1.0
FOLDER = "mlops/endpoints"


class Ledger:
    """The records of one endpoint; they outlive it."""

    most_appends = 40_000
    """Then the blob is written anew; Azure's limit is 50,000."""

    def __init__(self, session: Session, endpoint: str, *, lease_s: int | None = None) -> None:
        if not re.fullmatch(r"[a-zA-Z][-a-zA-Z0-9]*", endpoint):
            raise UsageError(f"'{endpoint}' is not a valid endpoint name", hint="letters, digits and dashes")
        self.session = session
        self.endpoint = endpoint
        self.lease_s = lease_s or session.settings.rollout.lease_s
        self.log = AppendLog(session, f"{FOLDER}/{endpoint.lower()}", lease_s=self.lease_s)
        self._context = LockContext(
            log=self.log,
            endpoint=endpoint,
            lease_s=self.lease_s,
            console=session.console,
            root=session.settings.root,
        )

    def read(self) -> list[Record]:
        """All records, oldest first; none where the endpoint has no ledger yet."""
        return self.inspect()[0]

    def inspect(self) -> tuple[list[Record], bool]:
        """All records, and whether somebody holds the lease."""
        content = self.log.read()
        return self._parsed(content), content is not None and content.leased

    def _parsed(self, content: Content | None) -> list[Record]:
        records, bad = parse(content.data if content else b"")
        if bad:
            lines = "a line" if bad == 1 else f"{bad} lines"
            self.session.console.warn(f"the ledger of '{self.endpoint}' has {lines} that cannot be read")
        return records

    @contextmanager
    def acquire(self, *, action: str, break_lease: bool = False, wait_s: float | None = None) -> Iterator[Lock]:
        """Hold the endpoint's lease while the block runs; nobody else can write meanwhile.

        A rollout writes its ``begin`` record at once, so that others can see who holds the lease; a cleanup does not.

        Args:
            action: deploy, rollback, recover or cleanup; stands in the ``begin`` record.
            break_lease: take it from whoever holds it.
            wait_s: how long to wait for a lease that nobody renews; five seconds more than it lasts by default.

        Raises:
            Locked: somebody else has it.
        """
        rollout = uuid.uuid4().hex
        lease = lease_id(rollout)
        try:
            broken = self._take(lease, break_lease=break_lease, wait_s=self.lease_s + 5 if wait_s is None else wait_s)
            lock = Lock(self._context, rollout, action, self._opened(lease), broken=broken)
        except Locked:
            raise
        except BaseException:
            with suppress(MlopsError):
                self.log.release(lease, attempts=1)
            raise
        with lock.renewed():
            yield lock

    def _opened(self, lease: str) -> list[Record]:
        """The records, in a blob that has room for more."""
        content = self.log.read()
        if content and content.is_copy:
            self.log.append(lease, content.data)  # who wrote it anew died half way
        elif content and content.appends >= self.most_appends:
            self.session.console.say(f"the ledger of '{self.endpoint}' is written anew, since it is long")
            self.log.rewrite(lease, content.data)
        return self._parsed(content)

    def _take(self, lease: str, *, break_lease: bool, wait_s: float) -> bool:
        """Acquire the lease; whether that of somebody who may be at work was broken for it."""
        deadline = time.monotonic() + wait_s
        broken = False
        if self.log.acquire(lease):
            return broken
        while break_lease and time.monotonic() < deadline:
            self.log.break_()
            broken = True
            if self.log.acquire(lease):
                return broken
        self._wait(lease, wait_s, deadline)
        return broken

    def _wait(self, lease: str, wait_s: float, deadline: float) -> None:
        """Acquire the lease once nobody renews it, or at once where its owner is dead.

        Raises:
            Locked: its owner is at work, or the time is over.
        """
        released: set[str] = set()
        known: int | None = None  # records when the wait began
        while True:
            records = self.read()
            owner = Owner.of(records)
            is_alive = owner.is_alive if owner else None
            left_s = deadline - time.monotonic()
            if owner and is_alive is False and owner.lease not in released:
                released.add(owner.lease)  # once: the lease may be another's by now, who has not yet begun
                self.log.release(owner.lease)
            else:
                writes = known is not None and len(records) > known
                if (owner and (is_alive or writes)) or left_s <= 0:
                    raise self._locked(owner)
                if known is None:
                    known = len(records)
                    who = owner or "somebody who has just begun"
                    self.session.console.say(f"'{self.endpoint}' is held by {who}; waiting for up to {wait_s:.0f} s")
                time.sleep(min(POLL_S, left_s))
            if self.log.acquire(lease):
                return

    def _locked(self, owner: Owner | None) -> Locked:
        run_url = owner.facts.run_url if owner else None
        return Locked(
            f"the endpoint '{self.endpoint}' is being changed by {owner or 'somebody who has just begun'}",
            hint="wait for its end (mlops endpoint history); mlops rollback does not wait",
            details=[run_url] if run_url else (),
        )
