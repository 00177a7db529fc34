"""A record of the requests that came in, for tests: what a client asked, in which order, and what it got.

Off until somebody wishes it, and bounded: the oldest go first.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

MAX_RECORDS = 20_000


@dataclass
class Entry:
    """One request; ``status`` is 0 for as long as there is no answer, and where the connection broke."""

    number: int
    at: float
    """Seconds since the epoch when it came in."""
    method: str
    host: str
    path: str
    query: str
    agent: str
    status: int = 0
    elapsed_ms: float = 0.0


class Trace:
    """The requests since recording was switched on, numbered from 1 in the order in which they came."""

    def __init__(self) -> None:
        self.recording = False
        self._entries: deque[Entry] = deque(maxlen=MAX_RECORDS)
        self._numbers = itertools.count(1)

    def record(self, enabled: bool) -> None:
        """Switch it on or off; what was recorded stays until it is switched on again."""
        if enabled and not self.recording:
            self._entries.clear()
            self._numbers = itertools.count(1)
        self.recording = enabled

    def arrived(self, method: str, host: str, path: str, query: str, agent: str) -> Entry | None:
        """Note a request; None where nothing is recorded."""
        if not self.recording:
            return None
        entry = Entry(next(self._numbers), time.time(), method, host, path, query, agent)
        self._entries.append(entry)
        return entry

    def after(self, number: int) -> list[dict[str, Any]]:
        """The requests with a higher number than that."""
        return [asdict(entry) for entry in self._entries if entry.number > number]
