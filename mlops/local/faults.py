"""Faults on request: refused, dropped, slow and lost calls, failing operations, a daemon that dies.

A rule says what it matches and what happens then. It counts: the first ``skip`` matches pass, the next ``times`` are
hit (all of them where ``times`` is null). Rules come from ``faults.json`` in the state folder when the daemon starts,
and from ``POST https://management.azure.com/__local/faults``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import threading
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from mlops.local.operations import OperationFailed
from mlops.local.private_files import read_json

log = logging.getLogger(__name__)

CODES = {
    400: "BadRequest",
    401: "InvalidAuthenticationToken",
    403: "AuthorizationFailed",
    404: "NotFound",
    408: "RequestTimeout",
    409: "Conflict",
    412: "PreconditionFailed",
    429: "TooManyRequests",
    500: "InternalServerError",
    502: "BadGateway",
    503: "ServiceUnavailable",
    504: "GatewayTimeout",
}


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"'{pattern}' is not a regular expression: {error}") from error
    return pattern


Pattern = Annotated[str, AfterValidator(_compiles)]


class Match(BaseModel):
    """Regular expressions, searched without regard to case; an empty one matches all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Pattern = ""
    host: Pattern = ""
    path: Pattern = ""
    query: Pattern = ""
    operation: Pattern = ""
    """The kind of a long-running operation."""
    resource: Pattern = ""
    """The id of the resource that an operation works on."""


class Rule(BaseModel):
    """What happens to which requests or operations.

    ``kind`` is one of ``status`` (answer with ``status``), ``drop`` (close the connection), ``hang`` (say nothing for
    ``delay_s``, then close), ``slow`` (go on after ``delay_s``), ``die`` (the daemon kills itself) and ``operation``
    (a long-running operation fails with ``code`` and ``message``, after ``delay_s``; without a code it is only late).
    ``when`` is ``before`` the request is worked on, or ``after``: then the work is done and only its answer is lost.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["status", "drop", "hang", "slow", "die", "operation"]
    match: Match = Match()
    when: Literal["before", "after"] = "before"
    skip: int = Field(0, ge=0)
    times: int | None = Field(1, ge=1)
    status: int = Field(503, ge=400, le=599)
    code: str = ""
    message: str = ""
    retry_after: float | None = Field(None, ge=0)
    delay_s: float = Field(0.0, ge=0)


class BadRules(ValueError):
    """Rules that cannot be read; the message is for the person who wrote them."""


class Faults:
    """The rules in force and how often each has matched. May be asked from any thread."""

    def __init__(self, path: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._rules: list[tuple[Rule, list[int]]] = []
        if path is not None and path.is_file():
            self.add((read_json(path) or {}).get("rules", []))

    def add(self, rules: object) -> None:
        """Add rules (one object or a list of them); raises :class:`BadRules`."""
        entries = rules if isinstance(rules, list) else [rules]
        try:
            made = [Rule.model_validate(entry) for entry in entries]
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BadRules(f"{where}: {first['msg']}" if where else first["msg"]) from error
        with self._lock:
            self._rules += [(rule, [0]) for rule in made]

    def clear(self) -> None:
        """No more faults."""
        with self._lock:
            self._rules.clear()

    def shown(self) -> list[dict[str, object]]:
        """The rules with how often each has matched."""
        with self._lock:
            return [{**rule.model_dump(), "matched": count[0]} for rule, count in self._rules]

    def hit(self, **facts: str) -> Rule | None:
        """The rule that strikes a request, if one does; counts the match."""
        return self._first(facts, operations=False) if self._rules else None

    async def before_operation(self, kind: str, resource: str) -> None:
        """Delay or fail a long-running operation where a rule says so."""
        rule = self._first({"operation": kind, "resource": resource}, operations=True) if self._rules else None
        if rule is None:
            return
        log.info("fault: operation %s on %s", kind, resource)
        await asyncio.sleep(rule.delay_s)
        if rule.code:
            raise OperationFailed(rule.code, rule.message or "The operation failed, as a fault rule wished.")

    def _first(self, facts: dict[str, str], *, operations: bool) -> Rule | None:
        with self._lock:
            for rule, count in self._rules:
                if (rule.kind == "operation") != operations or not _holds(rule.match, facts):
                    continue
                count[0] += 1
                over = rule.times is not None and count[0] > rule.skip + rule.times
                if count[0] > rule.skip and not over:
                    return rule
        return None


def _holds(match: Match, facts: dict[str, str]) -> bool:
    return all(
        not pattern or re.search(pattern, facts.get(name, ""), re.IGNORECASE)
        for name, pattern in match.model_dump().items()
    )


def die() -> None:
    """End this process as ``kill -9`` would."""
    os.kill(os.getpid(), signal.SIGKILL)
