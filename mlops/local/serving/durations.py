"""ISO 8601 durations, as ARM writes them: ``PT1M30S``, ``PT5S``, ``P1D``."""

from __future__ import annotations

from datetime import timedelta


def seconds(text: object) -> float:
    """How long a duration is; ValueError for anything else, months and years too, as their length varies."""
    from isodate import ISO8601Error, parse_duration

    try:
        duration = parse_duration(text)
    except (ISO8601Error, TypeError):
        duration = None
    if not isinstance(duration, timedelta) or duration < timedelta(0) or str(text).endswith("T"):
        raise ValueError(f"'{text}' is not an ISO 8601 duration")
    return duration.total_seconds()
