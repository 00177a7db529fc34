"""Run history in SQLite: one row per job and per step, written by the daemon and by the jobs' own processes.

The body of a run is the document of the run history service; what clients must not see (process ids, where outputs
lie) is in ``private``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from mlops.local.state.store import Document, Store

SCHEMA = """
CREATE TABLE IF NOT EXISTS run (
  name TEXT PRIMARY KEY COLLATE NOCASE, parent TEXT COLLATE NOCASE, root TEXT NOT NULL COLLATE NOCASE,
  experiment TEXT NOT NULL, status TEXT NOT NULL, mlflow TEXT, body TEXT NOT NULL, private TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX IF NOT EXISTS run_parent ON run (parent);
CREATE INDEX IF NOT EXISTS run_root ON run (root);
CREATE INDEX IF NOT EXISTS run_mlflow ON run (mlflow);
"""

TERMINAL = ("Completed", "Failed", "Canceled")
"""States that a run does not leave."""


def stamp() -> str:
    """The time as run history writes it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


class Runs:
    """The runs of one workspace."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # not executescript: it would end a transaction that is open
        for statement in SCHEMA.split(";"):
            if statement.strip():
                store.connection.execute(statement)

    def add(self, body: Document, *, private: Document | None = None, mlflow: str | None = None) -> None:
        """Write a new run (its body holds runId, rootRunId, experimentName, status, …)."""
        with self._store.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO run (name, parent, root, experiment, status, mlflow, body, private) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    body["runId"],
                    body.get("parentRunId"),
                    body["rootRunId"],
                    body["experimentName"],
                    body["status"],
                    mlflow,
                    json.dumps(body),
                    json.dumps(private or {}),
                ),
            )

    def get(self, name: str) -> Document | None:
        """A run's body by its name (the job's name, a step's id)."""
        row = self._store.connection.execute("SELECT body FROM run WHERE name = ?", (name,)).fetchone()
        return None if row is None else json.loads(row[0])

    def private(self, name: str) -> Document:
        """What only the workspace knows of a run."""
        row = self._store.connection.execute("SELECT private FROM run WHERE name = ?", (name,)).fetchone()
        return {} if row is None else json.loads(row[0])

    def change(self, name: str, change: Callable[[Document], None]) -> Document | None:
        """Change a run in place, atomically; None where there is none."""
        with self._store.transaction() as connection:
            body = self.get(name)
            if body is None:
                return None
            change(body)
            connection.execute(
                "UPDATE run SET body = ?, status = ? WHERE name = ?", (json.dumps(body), body["status"], name)
            )
            return body

    def remember(self, name: str, **values: Any) -> None:
        """Set keys of the private document."""
        with self._store.transaction() as connection:
            merged = json.dumps({**self.private(name), **values})
            connection.execute("UPDATE run SET private = ? WHERE name = ?", (merged, name))

    def move(self, name: str, status: str, *, error: Document | None = None) -> bool:
        """Move a run to a state, with its times; False where it had already ended (the first end stands)."""
        moved = False

        def change(body: Document) -> None:
            nonlocal moved
            if body["status"] in TERMINAL or (body["status"] == "CancelRequested" and status not in TERMINAL):
                return
            moved = True
            body["status"] = status
            body["revision"] = int(body.get("revision", 0)) + 1
            body["lastModifiedUtc"] = stamp()
            if status in ("Preparing", "Running") and not body.get("startTimeUtc"):
                body["startTimeUtc"] = stamp()
            if status in TERMINAL:
                body["endTimeUtc"] = stamp()
                began = datetime.fromisoformat(body.get("startTimeUtc") or body["createdUtc"])
                spent = (datetime.now(UTC) - began).total_seconds()
                body["duration"] = body["computeDuration"] = clock(spent)
            if error is not None:
                body["error"] = error

        self.change(name, change)
        return moved

    def children(self, name: str) -> list[Document]:
        """The runs right below a run, in the order in which they were made."""
        return self._bodies("parent = ?", (name,))

    def family(self, root: str) -> list[Document]:
        """A job and everything below it."""
        return self._bodies("root = ?", (root,))

    def unfinished(self) -> list[Document]:
        """The jobs (not their steps) that have not ended."""
        marks = ", ".join("?" for _ in TERMINAL)
        return self._bodies(f"parent IS NULL AND status NOT IN ({marks})", TERMINAL)

    def _bodies(self, where: str, values: tuple[str, ...]) -> list[Document]:
        query = f"SELECT body FROM run WHERE {where} ORDER BY rowid"  # noqa: S608 - constants
        return [json.loads(body) for (body,) in self._store.connection.execute(query, values)]

    def delete(self, root: str) -> None:
        """Forget a job and its steps."""
        with self._store.transaction() as connection:
            connection.execute("DELETE FROM run WHERE root = ?", (root,))

    def clear(self) -> None:
        """Forget all of them."""
        with self._store.transaction() as connection:
            connection.execute("DELETE FROM run")

    # -- the tracking server's ids ---------------------------------------------------------------------------------

    def link(self, name: str, mlflow: str) -> None:
        """Note the tracking server's id of a run."""
        with self._store.transaction() as connection:
            connection.execute("UPDATE run SET mlflow = ? WHERE name = ?", (mlflow, name))

    def mlflow_id(self, name: str) -> str | None:
        """The tracking server's id of a run."""
        row = self._store.connection.execute("SELECT mlflow FROM run WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def named(self, mlflow: str) -> str | None:
        """The run that has this id on the tracking server."""
        row = self._store.connection.execute("SELECT name FROM run WHERE mlflow = ?", (mlflow,)).fetchone()
        return None if row is None else row[0]


def clock(seconds: float) -> str:
    """A duration as .NET writes it, ``00:01:07.2605562``."""
    whole = int(seconds)
    fraction = int((seconds - whole) * 1e7)
    return f"{whole // 3600:02d}:{whole % 3600 // 60:02d}:{whole % 60:02d}.{fraction:07d}"


def new_run(
    *,
    name: str,
    root: str,
    parent: str | None,
    experiment: str,
    display_name: str,
    kind: str,
    caller: str,
    description: str | None = None,
    tags: dict[str, str] | None = None,
    properties: dict[str, str] | None = None,
    compute: str | None = None,
) -> Document:
    """The first document of a run; ``kind`` is ``azureml.PipelineRun``, ``….StepRun`` or ``….scriptrun``."""
    made = stamp()
    who = {"userObjectId": caller, "userTenantId": None, "userName": caller}
    job_kind = {"azureml.PipelineRun": "pipeline", "azureml.scriptrun": "command"}.get(kind, "azureml.StepRun")
    return {
        "runNumber": 1,
        "runId": name,
        "parentRunId": parent,
        "rootRunId": root,
        "experimentName": experiment,
        "experimentId": experiment,
        "createdUtc": made,
        "createdBy": who,
        "userId": caller,
        "status": "NotStarted",
        "revision": 1,
        "startTimeUtc": None,
        "endTimeUtc": None,
        "duration": None,
        "computeDuration": None,
        "lastModifiedUtc": made,
        "error": None,
        "warnings": None,
        "displayName": display_name,
        "name": None,
        "description": description,
        "dataContainerId": f"dcid.{name}",
        "hidden": False,
        "runType": kind,
        "runTypeV2": {"orchestrator": "Pipeline" if kind != "azureml.scriptrun" else "Execution", "traits": [kind]},
        "properties": {"azureml.runsource": kind, "runSource": "MFE", "runType": "HTTP", **(properties or {})},
        "parameters": {},
        "tags": dict(tags or {}),
        "target": compute,
        "compute": {"target": compute, "targetType": "amlcompute"} if compute else None,
        "services": {},
        "inputs": {},
        "outputs": {},
        "jobType": job_kind,
    }
