"""A held lease: what is written under it, and its renewal while the work takes."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlops.azure.storage import AppendLog
from mlops.azure.transport import GUARD
from mlops.core import process
from mlops.core.console import Console
from mlops.core.errors import AzureError, MlopsError
from mlops.ledger.owner import LeaseLost, Owner, lease_id
from mlops.ledger.queries import unfinished
from mlops.ledger.records import Begin, Facts, Record, parse


@dataclass(frozen=True, kw_only=True)
class LockContext:
    """What a lock works with.

    Attributes:
        log: the blob that is leased and written.
        endpoint: whose records they are.
        lease_s: how long the lease lasts unless it is renewed.
        console: for what the user should know.
        root: the checkout; its commit stands in the ``begin`` record.
    """

    log: AppendLog
    endpoint: str
    lease_s: int
    console: Console
    root: Path


class Lock:
    """A held lease, and the one rollout that writes under it.

    Attributes:
        rollout: the id of this rollout.
        superseded: the rollout that was stopped by ``break_lease``, if one was under way.
    """

    def __init__(
        self, context: LockContext, rollout: str, action: str, records: list[Record], *, broken: bool = False
    ) -> None:
        self.rollout = rollout
        self.action = action
        self.by = process.actor()
        open_ = unfinished(records)
        self.superseded = open_[-1].rollout if broken and open_ else None
        self._context = context
        self._log = context.log
        self._lease = lease_id(rollout)
        self._records = records
        self._lost = threading.Event()
        self._done = threading.Event()

    def records(self) -> list[Record]:
        """All records as they stood when the lease was taken, and those that were written since."""
        return list(self._records)

    @property
    def lost(self) -> bool:
        """Whether the lease is known to be lost; asks nobody."""
        return self._lost.is_set()

    def check(self) -> None:
        """Stop here if the lease is known to be lost; for long work between two records.

        Raises:
            LeaseLost: it is.
        """
        if self.lost:
            raise self._lease_lost()

    def confirm(self) -> None:
        """As :meth:`check`, but asks the storage; one that does not answer changes nothing of what is known.

        Raises:
            LeaseLost: the lease is lost.
        """
        self.check()
        try:
            kept = self._log.renew(self._lease, attempts=1)
        except AzureError:
            return
        if not kept:
            self._lost.set()
            self.check()

    def write(self, facts: Facts, *, rollout: str | None = None) -> Record:
        """Append a record. A ``begin`` gets action, machine, superseded, commit and run_url by itself.

        Args:
            facts: what is to be known.
            rollout: whose it is, this one's by default; who comes after a dead runner writes its ``end`` as well.

        Raises:
            LeaseLost: the lease is lost; nothing is written.
        """
        self.check()
        if isinstance(facts, Begin):
            facts = facts.model_copy(update=self._origin(besides=facts.model_fields_set))
        record = Record(rollout=rollout or self.rollout, by=self.by, facts=facts)
        # A lease that merely ran out (a suspended laptop) is still ours until somebody takes it.
        written = self._log.append(self._lease, record.line) or (
            self._log.renew(self._lease) and self._log.append(self._lease, record.line)
        )
        if not written:
            self._lost.set()
            self.check()
        self._records.append(record)
        return record

    def _origin(self, *, besides: Collection[str]) -> dict[str, Any]:
        """Facts of a ``begin`` that nobody has given."""
        from mlops.core import lineage

        tags = lineage.tags(self._context.root)
        origin = {
            "action": self.action,
            "machine": process.this_process(),
            "superseded": self.superseded,
            "commit": tags.get("commit"),
            "run_url": tags.get("run-url"),
        }
        return {name: fact for name, fact in origin.items() if name not in besides}

    def _lease_lost(self) -> LeaseLost:
        who: object = None
        with suppress(MlopsError):  # only to name it
            content = self._log.read(attempts=1)
            others = [record for record in parse(content.data if content else b"")[0] if record.kind == "begin"]
            if others and others[-1].rollout != self.rollout and others[-1] not in self._records:
                who = Owner(others[-1])
        return LeaseLost(
            f"this {self.action} of '{self._context.endpoint}' was stopped: the endpoint was taken over by "
            f"{who or 'somebody who has just begun'}",
            hint="mlops endpoint history shows what was done; mlops deploy starts over",
        )

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """Renew the lease in the background while the block runs, and give it back in the end."""
        thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        thread.start()
        guard = GUARD.set(self.confirm)
        try:
            yield
        finally:
            GUARD.reset(guard)
            self._done.set()
            thread.join(timeout=1)  # one that hangs in a call is left behind
            if not self.lost:
                self._release()

    def _renew(self) -> None:
        pause_s = self._context.lease_s / 3
        while not self._done.wait(pause_s):
            try:
                kept = self._log.renew(self._lease, attempts=1)
            except MlopsError:
                pause_s = min(1.0, self._context.lease_s / 3)
                continue
            if not kept and not self._done.is_set():
                self._lost.set()
                return
            pause_s = self._context.lease_s / 3

    def _release(self) -> None:
        try:
            self._log.release(self._lease)
        except MlopsError as error:
            why = error.message.rstrip(".")
            self._context.console.warn(f"{why}; the lease ends by itself in {self._context.lease_s} s")
