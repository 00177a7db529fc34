"""Spans of time as people write them: 30s, 45m, 5h, 7d."""

from __future__ import annotations

import math
from datetime import timedelta

from mlops.core.errors import UsageError

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def timespan(text: str, *, bare: str, what: str = "time") -> timedelta:
    """Read ``7d``, ``12h``, ``30m``, ``45s`` or a number without a unit.

    Args:
        text: what was written.
        bare: the unit of a number that has none: s, m, h or d.
        what: how an error calls it.

    Raises:
        UsageError: it is none of these.
    """
    given = text.strip()
    number, unit = (given[:-1], given[-1]) if given[-1:] in UNITS else (given, bare)
    try:
        value = float(number)
        if not math.isfinite(value) or value < 0:
            raise ValueError(text)
        return timedelta(seconds=value * UNITS[unit])
    except (ValueError, OverflowError):
        raise UsageError(f"'{text}' is no {what}", hint="write 7d, 12h, 30m or 45s") from None
