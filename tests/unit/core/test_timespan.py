from __future__ import annotations

import pytest

from mlops.core.errors import UsageError
from mlops.core.timespan import timespan


@pytest.mark.parametrize(
    ("text", "bare", "seconds"),
    [
        ("7d", "s", 604800),
        ("5h", "d", 18000),
        ("45m", "s", 2700),
        (" 30s ", "d", 30),
        ("1.5h", "s", 5400),
        ("2", "d", 172800),
        ("90", "s", 90),
        ("0d", "s", 0),
    ],
)
def test_times_are_read(text: str, bare: str, seconds: float) -> None:
    assert timespan(text, bare=bare).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "x", "-1d", "7 weeks", "d", "1e99d", "nan", "infs"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no age"):
        timespan(text, bare="d", what="age")
