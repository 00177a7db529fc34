"""One reading of Retry-After, one pause, one loop."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.core.retry import Backoff, call, retry_after_s

BACKOFF = Backoff(first_s=0.2, longest_s=30.0)
NO_PAUSE = Backoff(first_s=0.0, longest_s=0.0)


@pytest.mark.parametrize(("value", "seconds"), [("3", 3), (" 0 ", 0), ("100", 100), ("0.5", 0.5)])
def test_seconds(value: str, seconds: float) -> None:
    assert retry_after_s(value) == seconds


NO_DATES = ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", "Mon, 01 Jan 2035 00:00:00 +999999999999999")


@pytest.mark.parametrize("value", [None, "", "soon", "-1", "1.2.3", "²", ".", *NO_DATES])
def test_nonsense_says_nothing(value: str | None) -> None:
    assert retry_after_s(value) is None


@pytest.mark.parametrize(("ahead_s", "low", "high"), [(20, 18, 20), (-20, 0, 0)])
def test_a_date_is_read_as_the_time_until_it(ahead_s: float, low: float, high: float) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=ahead_s), usegmt=True)
    seconds = retry_after_s(date)

    assert seconds is not None
    assert low <= seconds <= high


def test_pauses_double_up_to_the_longest() -> None:
    for attempt, most in ((1, 0.2), (2, 0.4), (3, 0.8), (20, 30.0), (5000, 30.0)):
        assert most / 2 <= BACKOFF.pause_s(attempt) <= most


@given(st.text() | st.integers().map(str) | st.floats().map(str), st.integers(1, 10_000))
def test_no_header_makes_it_wait_longer_than_the_longest(text: str, attempt: int) -> None:
    assert 0 <= BACKOFF.pause_s(attempt, text) <= BACKOFF.longest_s


class Server:
    """Fails so many times, then answers."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.calls, self.failures, self.error = 0, failures, error

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return "answer"


def test_what_passes_is_tried_again() -> None:
    server = Server(2, OSError("busy"))

    assert call(server, attempts=3, backoff=NO_PAUSE, passing=lambda error: isinstance(error, OSError)) == "answer"
    assert server.calls == 3


def test_the_last_error_is_raised() -> None:
    server = Server(9, OSError("busy"))

    with pytest.raises(OSError, match="busy"):
        call(server, attempts=3, backoff=NO_PAUSE, passing=lambda error: isinstance(error, OSError))
    assert server.calls == 3


def test_what_does_not_pass_is_raised_at_once() -> None:
    server = Server(9, ValueError("wrong"))

    with pytest.raises(ValueError, match="wrong"):
        call(server, attempts=3, backoff=NO_PAUSE, passing=lambda error: isinstance(error, OSError))
    assert server.calls == 1


def test_patience_makes_more_attempts_of_it() -> None:
    server = Server(10, OSError("busy"))

    assert call(server, attempts=2, backoff=NO_PAUSE, passing=lambda _: True, min_duration_s=600.0) == "answer"
    assert server.calls == 11


def test_the_server_is_waited_for_as_long_as_it_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", pauses.append)

    call(Server(2, OSError("7")), attempts=3, backoff=BACKOFF, passing=lambda _: True, asked=str)
    assert pauses == [7.0, 7.0]
