"""Asking again: one reading of Retry-After, one pause between attempts, one loop (tenacity's)."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from tenacity import RetryCallState

T = TypeVar("T")


def retry_after_s(value: str | None) -> float | None:
    """What a server asks to wait for, in seconds; None where it says nothing that can be understood.

    Args:
        value: the header ``Retry-After``: seconds or a date (RFC 9110, section 10.2.3). A date that has passed is 0.
            Fractions of a second, which the RFC does not know, are taken as well.
    """
    text = (value or "").strip()
    if text.isascii() and text.replace(".", "", 1).isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # a year or a zone that no calendar holds
        return None
    return max((moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds(), 0.0)


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """The pauses between attempts.

    Attributes:
        first_s: before the second attempt; doubled each time after that.
        longest_s: no pause is longer, whatever the server asks for.
    """

    first_s: float
    longest_s: float

    def pause_s(self, attempt: int, asked: str | None = None) -> float:
        """How long to wait after an attempt that failed.

        Where the server does not ask for a pause, half of it is random, so that clients who failed together do not
        return together ("equal jitter": https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).

        Args:
            attempt: the number of the attempt, from 1.
            asked: its answer's ``Retry-After``.
        """
        by_server = retry_after_s(asked)
        if by_server is not None:
            return min(by_server, self.longest_s)
        jitter = random.uniform(0.5, 1.0)  # noqa: S311 - spreads requests, protects nothing
        return min(self.first_s * 2.0 ** min(attempt - 1, 60), self.longest_s) * jitter


def call(
    action: Callable[[], T],
    *,
    attempts: int,
    backoff: Backoff,
    passing: Callable[[BaseException], bool],
    asked: Callable[[BaseException], str | None] = lambda _: None,
    min_duration_s: float = 0.0,
) -> T:
    """Call until it succeeds, fails for good, or has been tried often enough.

    Args:
        action: what to call.
        attempts: at most; with ``min_duration_s`` at least.
        backoff: the pauses.
        passing: whether an error may pass; every other one is raised at once.
        asked: the ``Retry-After`` that an error brought along.
        min_duration_s: keep trying at least this long, however many attempts that takes.

    Raises:
        BaseException: what the last attempt raised.
    """
    import tenacity

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        return backoff.pause_s(state.attempt_number, asked(error) if error else None)

    stop: Any = tenacity.stop_after_attempt(attempts)
    if min_duration_s:
        stop = tenacity.stop_all(stop, tenacity.stop_before_delay(min_duration_s))
    retrying = tenacity.Retrying(stop=stop, wait=wait, retry=tenacity.retry_if_exception(passing), reraise=True)
    return retrying(action)
