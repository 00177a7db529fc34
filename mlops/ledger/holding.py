"""Lock and history of an endpoint in one append blob: who holds its lease may write to it, nobody else."""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mlops.azure.storage import AppendLog, Content
from mlops.console import plain
from mlops.errors import MlopsError, PreconditionError, UsageError
from mlops.ledger import machine
from mlops.ledger.records import Kind, Record, parse, unfinished

if TYPE_CHECKING:
    from mlops.azure.session import Session

POLL_S = 1.0
FOLDER = "mlops/endpoints"


class Held(PreconditionError):
    """Somebody else is changing the endpoint."""


class Overruled(PreconditionError):
    """The lease was broken or taken: whoever did so decides now."""


@dataclass(frozen=True)
class Holder:
    """Who seems to hold a lease: the rollout that has begun and not ended."""

    begin: Record

    @classmethod
    def of(cls, records: Sequence[Record]) -> Holder | None:
        """None where nobody has begun: the holder is about to, or about to release."""
        found = unfinished(records)
        return cls(next(record for record in found if record.rollout == found[-1].rollout)) if found else None

    @property
    def lease(self) -> str:
        """The id of its lease."""
        return _lease(self.begin.rollout)

    @property
    def lives(self) -> bool | None:
        """Whether its process runs; None where it is one of another machine."""
        return machine.is_alive(self.begin.facts.get("machine"))

    def __str__(self) -> str:
        begin = self.begin
        named = ":".join(part for part in (begin.text("model"), begin.text("version")) if part)
        what = begin.text("action") or "rollout"
        return f"{begin.by} ({what}{f' of {named}' if named else ''}, since {begin.at.astimezone(UTC):%F %T} UTC)"


def _lease(rollout: str) -> str:
    """A rollout's lease has the rollout's id, so that one can give back the lease of a dead one, and no other."""
    return str(uuid.UUID(rollout))


class Ledger:
    """The records of one endpoint; they outlive it."""

    most_appends = 40_000
    """Then the blob is written anew; Azure's limit is 50,000."""

    def __init__(self, session: Session, endpoint: str, *, lease_s: int | None = None) -> None:
        if not re.fullmatch(r"[a-zA-Z][-a-zA-Z0-9]*", endpoint):
            raise UsageError(f"'{endpoint}' is no name of an endpoint", hint="letters, digits and dashes")
        self.session = session
        self.endpoint = endpoint
        self.lease_s = lease_s or session.settings.rollout.lease_s
        self.log = AppendLog(session, f"{FOLDER}/{endpoint.lower()}", lease_s=self.lease_s)

    def read(self) -> list[Record]:
        """All records, oldest first; none where the endpoint has no ledger yet."""
        return self.look()[0]

    def look(self) -> tuple[list[Record], bool]:
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
    def hold(self, *, action: str, break_lease: bool = False, wait_s: float | None = None) -> Iterator[Hold]:
        """Hold the endpoint's lease while the block runs; nobody else can write meanwhile.

        The caller writes the ``begin`` record, at once, so that others can see who holds it.

        Args:
            action: deploy, rollback or recover; stands in the ``begin`` record.
            break_lease: take it from whoever holds it.
            wait_s: how long to wait for a lease that nobody renews; five seconds more than it lasts by default.

        Raises:
            Held: somebody else has it.
        """
        rollout = uuid.uuid4().hex
        lease = _lease(rollout)
        try:
            broken = self._take(lease, break_lease, self.lease_s + 5 if wait_s is None else wait_s)
            hold = Hold(self, rollout, action, self._opened(lease), broken=broken)
        except Held:
            raise
        except BaseException:
            with suppress(MlopsError):
                self.log.release(lease, attempts=1)
            raise
        with hold.renewed():
            yield hold

    def _opened(self, lease: str) -> list[Record]:
        """The records, in a blob that has room for more."""
        content = self.log.read()
        if content and content.is_copy:
            self.log.append(lease, content.data)  # who wrote it anew died half way
        elif content and content.appends >= self.most_appends:
            self.session.console.say(f"the ledger of '{self.endpoint}' is written anew, since it is long")
            self.log.rewrite(lease, content.data)
        return self._parsed(content)

    def _take(self, lease: str, break_lease: bool, wait_s: float) -> bool:
        """Acquire the lease; whether that of somebody who may be at work was broken for it."""
        deadline = time.monotonic() + wait_s
        buried: set[str] = set()
        first: list[Record] | None = None
        told = overruled = False
        while not self.log.acquire(lease):
            left_s = deadline - time.monotonic()
            if break_lease and left_s > 0:
                self.log.break_()
                overruled = True
                continue
            records = self.read()
            holder = Holder.of(records)
            lives = holder.lives if holder else None
            if holder and lives is False and holder.lease not in buried:
                buried.add(holder.lease)  # once: the lease may be another's by now, who has not yet begun
                self.log.release(holder.lease)
                continue
            first = records if first is None else first
            writes = len(records) > len(first)
            if (holder and (lives or writes)) or left_s <= 0:
                raise self._held(holder)
            if not told:
                who = holder or "somebody who has just begun"
                self.session.console.say(f"'{self.endpoint}' is held by {who}; waiting for up to {wait_s:.0f} s")
                told = True
            time.sleep(min(POLL_S, left_s))
        return overruled

    def _held(self, holder: Holder | None) -> Held:
        run_url = holder.begin.text("run_url") if holder else ""
        return Held(
            f"the endpoint '{self.endpoint}' is being changed by {holder or 'somebody who has just begun'}",
            hint="wait for its end (mlops endpoint history); mlops rollback does not wait",
            details=[run_url] if run_url else (),
        )


class Hold:
    """A held lease, and the one rollout that writes under it.

    Attributes:
        rollout: the id of this rollout.
        broke: the rollout that was stopped by ``break_lease``, if one was under way.
    """

    def __init__(
        self, ledger: Ledger, rollout: str, action: str, records: list[Record], *, broken: bool = False
    ) -> None:
        self.rollout = rollout
        self.action = action
        self.by = machine.actor()
        open_ = unfinished(records)
        self.broke = open_[-1].rollout if broken and open_ else None
        self._ledger = ledger
        self._log = ledger.log
        self._lease = _lease(rollout)
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
            Overruled: it is.
        """
        if self.lost:
            raise self._overruled()

    def write(self, kind: Kind, *, rollout: str | None = None, **facts: Any) -> Record:
        """Append a record. A ``begin`` gets action, machine, broke, commit and run_url by itself.

        Args:
            kind: of the record.
            rollout: whose it is, this one's by default; who comes after a dead runner writes its ``end`` as well.
            facts: what is to be known.

        Raises:
            Overruled: the lease is lost; nothing is written.
        """
        self.check()
        if kind == "begin":
            facts = {**self._origin(), **facts}
        record = Record(
            at=datetime.now(UTC), rollout=rollout or self.rollout, kind=kind, by=self.by, facts=plain(facts)
        )
        # A lease that merely ran out (a suspended laptop) is still ours until somebody takes it.
        written = self._log.append(self._lease, record.line) or (
            self._log.renew(self._lease) and self._log.append(self._lease, record.line)
        )
        if not written:
            self._lost.set()
            self.check()
        self._records.append(record)
        return record

    def _origin(self) -> dict[str, Any]:
        from mlops import lineage

        tags = lineage.tags(self._ledger.session.settings.root)
        return {
            "action": self.action,
            "machine": machine.this_process(),
            "broke": self.broke,
            "commit": tags.get("commit"),
            "run_url": tags.get("run-url"),
        }

    def _overruled(self) -> Overruled:
        who: object = None
        with suppress(MlopsError):  # only to name it
            content = self._log.read(attempts=1)
            others = [record for record in parse(content.data if content else b"")[0] if record.kind == "begin"]
            if others and others[-1].rollout != self.rollout and others[-1] not in self._records:
                who = Holder(others[-1])
        return Overruled(
            f"this {self.action} of '{self._ledger.endpoint}' was stopped: the endpoint was taken over by "
            f"{who or 'somebody who has just begun'}",
            hint="mlops endpoint history shows what was done; mlops deploy starts anew",
        )

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """Renew the lease in the background while the block runs, and give it back in the end."""
        thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join(timeout=1)  # one that hangs in a call is left behind
            if not self.lost:
                self._release()

    def _renew(self) -> None:
        pause_s = self._ledger.lease_s / 3
        while not self._done.wait(pause_s):
            try:
                kept = self._log.renew(self._lease, attempts=1)
            except MlopsError:
                pause_s = min(1.0, self._ledger.lease_s / 3)
                continue
            if not kept and not self._done.is_set():
                self._lost.set()
                return
            pause_s = self._ledger.lease_s / 3

    def _release(self) -> None:
        try:
            self._log.release(self._lease)
        except MlopsError as error:
            why = error.message.rstrip(".")
            self._ledger.session.console.warn(f"{why}; the lease ends by itself in {self._ledger.lease_s} s")
