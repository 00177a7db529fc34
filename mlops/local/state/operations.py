"""Long-running operations: durable, finished after a restart, reported the way Azure reports them.

An operation names a kind of work that a part of the workspace registered; its arguments are JSON. When the daemon dies
and comes back, unfinished operations run again, so work must be safe to repeat.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mlops.local.state.config import Config
from mlops.local.state.store import Store

log = logging.getLogger(__name__)

Work = Callable[[str, dict[str, Any]], Awaitable[None]]
"""``await work(resource_id, arguments)``; raises :class:`OperationFailed` for what Azure would report."""


class OperationFailed(Exception):
    """The operation ends as Failed with Azure's code and message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True)
class Operation:
    """One operation as stored."""

    id: str
    kind: str
    resource: str
    status: str
    started: str
    ended: str | None
    error: dict[str, Any] | None


def now() -> str:
    """The time as Azure writes it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


class Operations:
    """Starts, runs and reports operations."""

    def __init__(self, store: Store, config: Config) -> None:
        self._store = store
        self._config = config
        self._work: dict[str, Work] = {}
        self._failed: dict[str, Callable[[str], None]] = {}
        self.before: Callable[[str, str], Awaitable[None]] | None = None
        """Called with kind and resource before the work of an operation; may delay it or raise OperationFailed."""
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def register(self, kind: str, work: Work, *, failed: Callable[[str], None] | None = None) -> None:
        """Tell how operations of a kind are done, and what is noted on the resource when one ends as Failed."""
        self._work[kind] = work
        if failed is not None:
            self._failed[kind] = failed

    def start(self, kind: str, resource_id: str, arguments: dict[str, Any] | None = None, *, prefix: str) -> str:
        """Begin an operation; returns its id, ``<prefix>:<workspace guid>:<guid>`` (a bare guid without prefix)."""
        guid = str(uuid.uuid4())
        operation_id = f"{prefix}:{self._config.workspace_guid}:{guid}" if prefix else guid
        with self._store.transaction() as connection:
            connection.execute(
                "INSERT INTO operation (id, kind, resource, arguments, status, started) VALUES (?, ?, ?, ?, ?, ?)",
                (operation_id, kind, resource_id, json.dumps(arguments or {}), "InProgress", now()),
            )
        self._launch(operation_id)
        return operation_id

    def get(self, operation_id: str) -> Operation | None:
        """An operation by its id."""
        row = self._store.connection.execute(
            "SELECT id, kind, resource, status, started, ended, error FROM operation WHERE id = ?", (operation_id,)
        ).fetchone()
        if row is None:
            return None
        identity, kind, resource, status, started, ended, error = row
        return Operation(identity, kind, resource, status, started, ended, json.loads(error) if error else None)

    def running_on(self, resource_id: str) -> bool:
        """Whether an operation on this very resource is unfinished."""
        row = self._store.connection.execute(
            "SELECT 1 FROM operation WHERE lower(resource) = ? AND status = 'InProgress'", (resource_id.lower(),)
        ).fetchone()
        return row is not None

    def resume(self) -> None:
        """Run again what a daemon that died left unfinished."""
        rows = self._store.connection.execute("SELECT id FROM operation WHERE status = 'InProgress'").fetchall()
        for (operation_id,) in rows:
            if operation_id not in self._tasks:  # not one that a quick client has begun meanwhile
                self._launch(operation_id)

    async def settle(self) -> None:
        """Wait until nothing runs (for an orderly stop, and for tests)."""
        while self._tasks:
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _launch(self, operation_id: str) -> None:
        task = asyncio.get_running_loop().create_task(self._run(operation_id))
        self._tasks[operation_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(operation_id, None))

    async def _run(self, operation_id: str) -> None:
        row = self._store.connection.execute(
            "SELECT kind, resource, arguments FROM operation WHERE id = ?", (operation_id,)
        ).fetchone()
        kind, resource, arguments = row[0], row[1], json.loads(row[2])
        error: dict[str, Any] | None = None
        try:
            if self.before is not None:
                await self.before(kind, resource)
            await self._work[kind](resource, arguments)
        except OperationFailed as failure:
            error = {"code": failure.code, "message": failure.message}
        except asyncio.CancelledError:
            raise  # the daemon stops; the next one resumes
        except Exception:
            log.exception("operation %s on %s", kind, resource)
            error = {"code": "InternalServerError", "message": "An internal server error occurred."}
        with self._store.transaction() as connection:
            if error and kind in self._failed:
                self._failed[kind](resource)
            connection.execute(
                "UPDATE operation SET status = ?, ended = ?, error = ? WHERE id = ?",
                ("Failed" if error else "Succeeded", now(), json.dumps(error) if error else None, operation_id),
            )
