"""ARM resources in SQLite: a tree of ids, safe for several threads and processes, safe under ``kill -9``.

Ids are compared without case, as Azure does, and kept as they were first written. Each resource has the document that
clients see and a private one (keys, process ids) that they do not.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Document = dict[str, Any]

SCHEMA = """
CREATE TABLE IF NOT EXISTS resource (
  key TEXT PRIMARY KEY, id TEXT NOT NULL, parent TEXT NOT NULL, sequence INTEGER NOT NULL,
  body TEXT NOT NULL, private TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX IF NOT EXISTS resource_parent ON resource (parent, sequence);
CREATE TABLE IF NOT EXISTS operation (
  id TEXT PRIMARY KEY, kind TEXT NOT NULL, resource TEXT NOT NULL, arguments TEXT NOT NULL,
  status TEXT NOT NULL, started TEXT NOT NULL, ended TEXT, error TEXT
);
CREATE INDEX IF NOT EXISTS operation_status ON operation (status);
"""


ROLES = "/microsoft.authorization/roleassignments/"


def collection(resource_id: str) -> str:
    """The key of the collection that an id stands in: ``…/jobs/x`` → ``…/jobs``."""
    return resource_id.rstrip("/").rsplit("/", 1)[0].lower()


class Store:
    """The resources of one workspace."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._local = threading.local()
        self.generation = 0
        """Counts what may have changed who may do what: deletions, and writes of role assignments."""
        with self.transaction() as connection:
            connection.executescript(SCHEMA)

    @property
    def connection(self) -> sqlite3.Connection:
        """This thread's connection (autocommit; use :meth:`transaction` to change several rows)."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self._path, timeout=30, isolation_level=None)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            self._local.connection = connection
        return connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, one writer at a time."""
        connection = self.connection
        if connection.in_transaction:  # nested: the outermost one commits
            yield connection
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        else:
            if connection.in_transaction:
                connection.execute("COMMIT")

    def close(self) -> None:
        """Close this thread's connection."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None

    # -- documents -------------------------------------------------------------------------------------------------

    def get(self, resource_id: str) -> Document | None:
        """The document under an id."""
        return self._column("body", resource_id)

    def private(self, resource_id: str) -> Document:
        """The private document under an id; empty where there is none."""
        return self._column("private", resource_id) or {}

    def _column(self, column: str, resource_id: str) -> Document | None:
        query = f"SELECT {column} FROM resource WHERE key = ?"  # noqa: S608 - the column is ours
        row = self.connection.execute(query, (resource_id.lower(),)).fetchone()
        return None if row is None else json.loads(row[0])

    def put(self, resource_id: str, body: Document, *, private: Document | None = None) -> None:
        """Write a document whole; the private one stays unless given."""
        if ROLES in resource_id.lower():
            self.generation += 1
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO resource (key, id, parent, sequence, body, private) "
                "VALUES (?, ?, ?, (SELECT COALESCE(MAX(sequence), 0) + 1 FROM resource), ?, ?) "
                "ON CONFLICT (key) DO UPDATE SET body = excluded.body",
                (
                    resource_id.lower(),
                    resource_id,
                    collection(resource_id),
                    json.dumps(body),
                    json.dumps(private or {}),
                ),
            )
            if private is not None:
                connection.execute(
                    "UPDATE resource SET private = ? WHERE key = ?", (json.dumps(private), resource_id.lower())
                )

    def update(self, resource_id: str, change: Callable[[Document], None]) -> Document | None:
        """Change a document in place, atomically; None where it is gone."""
        with self.transaction():
            body = self.get(resource_id)
            if body is None:
                return None
            change(body)
            self.put(resource_id, body)
            return body

    def update_private(self, resource_id: str, **values: Any) -> None:
        """Set keys of the private document; nothing where the resource is gone."""
        with self.transaction() as connection:
            merged = json.dumps({**self.private(resource_id), **values})
            connection.execute("UPDATE resource SET private = ? WHERE key = ?", (merged, resource_id.lower()))

    def delete(self, resource_id: str) -> bool:
        """Delete a resource and everything below it."""
        key = resource_id.lower()
        self.generation += 1
        with self.transaction() as connection:
            below = "key = ? OR substr(key, 1, ?) = ?"
            return (
                connection.execute(
                    f"DELETE FROM resource WHERE {below}",  # noqa: S608 - constant
                    (key, len(key) + 1, key + "/"),
                ).rowcount
                > 0
            )

    def children(self, collection_id: str) -> list[Document]:
        """The documents of a collection (``…/workspaces/w/jobs``), in the order in which they were made."""
        rows = self.connection.execute(
            "SELECT body FROM resource WHERE parent = ? ORDER BY sequence", (collection_id.rstrip("/").lower(),)
        )
        return [json.loads(body) for (body,) in rows]

    def ending(self, collection_end: str) -> list[Document]:
        """The documents of all collections whose id ends so (``/providers/microsoft.storage/storageaccounts``)."""
        end = collection_end.lower()
        rows = self.connection.execute(
            "SELECT body FROM resource WHERE substr(parent, -?) = ? ORDER BY sequence", (len(end), end)
        )
        return [json.loads(body) for (body,) in rows]

    def below(self, resource_id: str) -> list[Document]:
        """Every document whose id begins with that one and a slash."""
        begin = resource_id.rstrip("/").lower() + "/"
        rows = self.connection.execute(
            "SELECT body FROM resource WHERE substr(key, 1, ?) = ? ORDER BY sequence", (len(begin), begin)
        )
        return [json.loads(body) for (body,) in rows]
