"""ISO 8601 durations, as ARM writes them: ``PT1M30S``, ``PT5S``, ``P1D``."""

from __future__ import annotations

import re

PATTERN = re.compile(
    r"^P(?:(?P<days>\d+(?:\.\d+)?)D)?"
    r"(?:T(?:(?P<hours>\d+(?:\.\d+)?)H)?(?:(?P<minutes>\d+(?:\.\d+)?)M)?(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?$"
)
UNITS = {"days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}


def seconds(text: object) -> float:
    """How long a duration is; ValueError for anything else."""
    found = PATTERN.match(text) if isinstance(text, str) else None
    if found is None or not any(found.groupdict().values()):
        raise ValueError(f"'{text}' is not an ISO 8601 duration")
    return sum(float(value) * UNITS[unit] for unit, value in found.groupdict().items() if value)
