"""Deleting what is stale: preview endpoints past their age. What is live, kept or not ours is never touched."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from mlops.azure import endpoints
from mlops.errors import AzureError, MlopsError, UsageError
from mlops.resources import MANAGED_BY, MANAGED_TAG, Endpoint
from mlops.rollout import CREATED_TAG, KIND_TAG

if TYPE_CHECKING:
    from mlops.azure.session import Session

AT_ONCE = 8
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What becomes of one endpoint, and why."""

    endpoint: str
    delete: bool
    why: str


def age_of(text: str) -> timedelta:
    """Read ``7d``, ``12h``, ``30m``, ``45s`` or a bare number of days.

    Raises:
        UsageError: it is none of these.
    """
    number, unit = (text[:-1], text[-1]) if text[-1:] in UNITS else (text, "d")
    try:
        value = float(number)
        if value < 0:
            raise ValueError(text)
        return timedelta(seconds=value * UNITS[unit])
    except (ValueError, OverflowError):
        raise UsageError(f"'{text}' is no age", hint="write 7d, 12h, 30m or 45s") from None


def created(endpoint: Endpoint, prefix: str) -> datetime | None:
    """When an endpoint was made: its tag, else the whole seconds in a preview's name."""
    try:
        moment = datetime.fromisoformat(endpoint.tags.get(CREATED_TAG, ""))
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except ValueError:
        stamp = endpoint.name.removeprefix(prefix)
        return datetime.fromtimestamp(int(stamp), UTC) if stamp.isdigit() and len(stamp) <= 11 else None


def decide(endpoint: Endpoint, *, lasting: str, prefix: str, older_than: timedelta, now: datetime) -> Decision:
    """Whether an endpoint is stale."""

    def keep(why: str) -> Decision:
        return Decision(endpoint=endpoint.name, delete=False, why=why)

    if endpoint.name.lower() == lasting.lower():
        return keep("the lasting endpoint")
    if endpoint.tags.get(MANAGED_TAG) != MANAGED_BY:
        return keep("not made by this repository")
    if "keep" in endpoint.tags:
        return keep("tagged keep")
    if endpoint.tags.get(KIND_TAG) != "preview":
        return keep("not a preview")
    made = created(endpoint, prefix)
    if made is None:
        return keep("its age is not known")
    age = now - made
    if age < older_than:
        return keep(f"only {in_words(age)} old")
    return Decision(endpoint=endpoint.name, delete=True, why=f"a preview, {in_words(age)} old")


def in_words(age: timedelta) -> str:
    """An age, short."""
    seconds = max(age.total_seconds(), 0)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def plan(session: Session, *, older_than: timedelta, now: datetime | None = None) -> list[Decision]:
    """A decision for every endpoint of the workspace."""
    settings = session.settings.endpoint
    moment = now or datetime.now(UTC)
    return [
        decide(item, lasting=settings.name, prefix=settings.preview_prefix, older_than=older_than, now=moment)
        for item in endpoints.listed(session)
    ]


def delete(session: Session, decisions: Sequence[Decision]) -> list[str]:
    """Delete what was decided, several at once; one failure does not stop the others.

    Returns:
        The names that are gone.

    Raises:
        AzureError: some could not be deleted; the others are gone.
    """

    def one(name: str) -> MlopsError | None:
        try:
            endpoints.delete(session, name)
        except MlopsError as error:
            return error
        session.console.say(f"deleted {name}")
        return None

    names = [item.endpoint for item in decisions if item.delete]
    pool = ThreadPoolExecutor(max_workers=AT_ONCE)
    try:
        failures = {name: error for name, error in zip(names, pool.map(one, names), strict=True) if error}
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C no further deletion begins
    if failures:
        raise AzureError(
            f"{len(failures)} of {len(names)} endpoints could not be deleted",
            details=[f"{name}: {error.message}" for name, error in failures.items()],
            hint="mlops cleanup tries again",
        )
    return names
