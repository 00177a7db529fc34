"""Faults on request: refused, dropped, slow and lost calls, failing operations, processes that die.

A rule says what it matches and what happens then. It counts: the first ``skip`` matches pass, the next ``times`` are
hit (all of them where ``times`` is null). Rules come from ``faults.json`` in the state folder when the daemon starts,
and from ``POST https://management.azure.com/__local/faults``; ``DELETE`` there ends them all, and what hangs with them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from mlops.local.state import processes
from mlops.local.state.operations import OperationFailed
from mlops.local.state.private_files import read_json

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
    agent: Pattern = ""
    """The client, by its User-Agent (``AZURE_HTTP_USER_AGENT`` adds to that of Azure's SDKs)."""
    operation: Pattern = ""
    """The kind of a long-running operation."""
    resource: Pattern = ""
    """The id of the resource that an operation works on."""


class Rule(BaseModel):
    """What happens to which requests or operations.

    ``kind`` is one of

    - ``status``: the answer is ``status``, with ``retry_after``;
    - ``drop``: the connection is closed;
    - ``hang``: nothing is said for ``delay_s`` (or until the rules are deleted), then the connection is closed;
    - ``slow``: the request goes on after ``delay_s``;
    - ``operation``: a long-running operation fails with ``code`` and ``message``, after ``delay_s``; without a code it
      is only late;
    - ``crash``: the scoring processes of ``endpoint`` and ``deployment`` are killed, and what was matched goes on: a
      request, or an operation where ``match.operation`` is given;
    - ``kill_client``: the process ``pid`` is killed, for tests of what a client leaves behind. Only the user's own;
    - ``die``: the daemon kills itself.

    ``when`` is ``before`` the request is worked on, or ``after``: then the work is done and its answer not yet sent.
    A rule with ``since`` sleeps until that many (``since_count``) requests of that kind have come; the last of them is
    not yet struck. ``name`` is for deleting it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["status", "drop", "hang", "slow", "operation", "crash", "kill_client", "die"]
    name: str = ""
    match: Match = Match()
    since: Match | None = None
    since_count: int = Field(1, ge=1)
    when: Literal["before", "after"] = "before"
    skip: int = Field(0, ge=0)
    times: int | None = Field(1, ge=1)
    status: int = Field(503, ge=400, le=599)
    code: str = ""
    message: str = ""
    retry_after: float | None = Field(None, ge=0)
    delay_s: float = Field(0.0, ge=0)
    endpoint: str = ""
    deployment: str = ""
    pid: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _complete(self) -> Rule:
        if self.kind == "crash" and not (self.endpoint and self.deployment):
            raise ValueError("a crash needs an endpoint and a deployment")
        if self.kind == "kill_client" and not processes.is_ours(self.pid):
            raise ValueError(f"there is no process {self.pid} of this user that may be killed")
        return self

    @property
    def of_operations(self) -> bool:
        """Whether it strikes operations instead of requests."""
        if self.kind == "crash":
            return bool(self.match.operation or self.match.resource)
        return self.kind == "operation"


class BadRules(ValueError):
    """Rules that cannot be read; the message is for the person who wrote them."""


@dataclass
class _Entry:
    """A rule in force."""

    rule: Rule
    client: float
    """When the process to be killed was started: its id may be another's by then."""
    matched: int = 0
    seen: int = 0
    """Requests of the kind that the rule waits for."""

    def awake(self, facts: dict[str, str]) -> bool:
        """Whether the rule is in force for a request; counts one that it waits for."""
        since = self.rule.since
        if since is None or self.seen >= self.rule.since_count:
            return True
        self.seen += _matches(since, facts)
        return False


class Faults:
    """The rules in force and how often each has matched. May be asked from any thread."""

    def __init__(self, path: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._entries: list[_Entry] = []
        self._cleared = asyncio.Event()
        self.crash: Callable[[str, str], bool] = lambda _endpoint, _deployment: False
        """Kills the processes of a deployment; the part that has them puts itself here."""
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
        begun = [processes.create_time(rule.pid) if rule.kind == "kill_client" else 0.0 for rule in made]
        with self._lock:
            self._entries += [_Entry(rule, since) for rule, since in zip(made, begun, strict=True)]

    def clear(self, name: str | None = None) -> None:
        """No more faults, and what hangs is let go; or only the rules of one name are taken away."""
        with self._lock:
            self._entries = [entry for entry in self._entries if name is not None and entry.rule.name != name]
        if name is not None:
            return
        cleared, self._cleared = self._cleared, asyncio.Event()
        cleared.set()

    def shown(self) -> list[dict[str, object]]:
        """The rules with how often each has matched."""
        with self._lock:
            return [{**entry.rule.model_dump(), "matched": entry.matched} for entry in self._entries]

    def hit(self, **facts: str) -> Rule | None:
        """The rule that strikes a request, if one does; counts the match."""
        entry = self._first(facts, operations=False) if self._entries else None
        return None if entry is None else entry.rule

    async def hang(self, limit_s: float) -> None:
        """Wait so long, or until the rules are cleared."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._cleared.wait()

    def kill_client(self, rule: Rule) -> None:
        """Kill the process that a rule names, if it is still the one that it named."""
        with self._lock:
            since = next((entry.client for entry in self._entries if entry.rule is rule), None)
        if since is not None and processes.alive(rule.pid, since):
            os.kill(rule.pid, signal.SIGKILL)

    async def before_operation(self, kind: str, resource: str) -> None:
        """Delay or fail a long-running operation, or crash a deployment, where a rule says so."""
        entry = self._first({"operation": kind, "resource": resource}, operations=True) if self._entries else None
        if entry is None:
            return
        rule = entry.rule
        log.info("fault: %s at the operation %s on %s", rule.kind, kind, resource)
        if rule.kind == "crash":
            self.crash(rule.endpoint, rule.deployment)
            return
        await asyncio.sleep(rule.delay_s)
        if rule.code:
            raise OperationFailed(rule.code, rule.message or "The operation failed, as a fault rule wished.")

    def _first(self, facts: dict[str, str], *, operations: bool) -> _Entry | None:
        with self._lock:
            awake = [entry for entry in self._entries if entry.awake({} if operations else facts)]
            for entry in awake:
                rule = entry.rule
                if rule.of_operations != operations or not _matches(rule.match, facts):
                    continue
                entry.matched += 1
                over = rule.times is not None and entry.matched > rule.skip + rule.times
                if entry.matched > rule.skip and not over:
                    return entry
        return None


def _matches(match: Match, facts: dict[str, str]) -> bool:
    return all(
        not pattern or re.search(pattern, facts.get(name, ""), re.IGNORECASE)
        for name, pattern in match.model_dump().items()
    )


def die() -> None:
    """End this process as ``kill -9`` would."""
    os.kill(os.getpid(), signal.SIGKILL)
