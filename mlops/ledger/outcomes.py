"""How a rollout ends, and what follows from it."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

Health = Literal["good", "doubt", "bad", "running"]


class Outcome(StrEnum):
    """How a rollout ended, or why it has no end; the value stands in the ``end`` record and in the history.

    A value that only a newer version knows is kept as it is: ``Outcome("paused")`` equals ``"paused"``.
    """

    RELEASED = "released"
    ROLLED_BACK = "rolled_back"
    UNCHANGED = "unchanged"
    """The version was live already."""
    RECOVERED = "recovered"
    """A rollout that only brought another one, whose runner had died, to its end."""
    REFUSED = "refused"
    """By the gate."""
    UNDECIDED = "undecided"
    """The gate could not decide."""
    RESTORED = "restored"
    """Traffic had moved and was put back."""
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    """By Ctrl-C; or cut off, with another rollout after it."""
    OVERRULED = "overruled"
    """Another rollout took the lease."""
    ABANDONED = "abandoned"
    """Its runner died before it had changed the traffic."""
    UNFINISHED = "unfinished"
    """It has no end and nobody holds the lease."""
    RUNNING = "running"
    """It has no end and somebody holds the lease."""

    @classmethod
    def _missing_(cls, value: object) -> Outcome:
        text = "" if value is None else str(value)
        outcome = str.__new__(cls, text)
        outcome._name_, outcome._value_ = "UNKNOWN", text
        return outcome

    @property
    def took_traffic(self) -> bool:
        """Whether the rollout's version had all the traffic in the end."""
        return self in (Outcome.RELEASED, Outcome.ROLLED_BACK)

    @property
    def is_settled(self) -> bool:
        """Whether none of the rollout's operations can still run in Azure."""
        return self.took_traffic or self in (Outcome.UNCHANGED, Outcome.RECOVERED)

    @property
    def is_final(self) -> bool:
        """Whether the version is not to be offered again: it was live, or the gate or a person said no."""
        return self.took_traffic or self in (
            Outcome.UNCHANGED,
            Outcome.REFUSED,
            Outcome.UNDECIDED,
            Outcome.OVERRULED,
            Outcome.INTERRUPTED,
        )

    @property
    def health(self) -> Health:
        """How it is shown to people."""
        if self.is_settled:
            return "good"
        if self is Outcome.RUNNING:
            return "running"
        return "bad" if self in (Outcome.REFUSED, Outcome.RESTORED, Outcome.FAILED) else "doubt"
