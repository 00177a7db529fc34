"""What a pipeline job was given: the literal inputs of its nodes."""

from __future__ import annotations

from typing import Any

from mlops.azure.errors import translated
from mlops.azure.session import Session


def read(session: Session, job: str) -> dict[str, str]:
    """The parameters of a pipeline job by name, as Azure holds them; files and models are named by their paths."""
    with translated(f"look up the job '{job}'"):
        entity = session.ml.jobs.get(job)
    given: dict[str, str] = {}
    for node in (entity, *getattr(entity, "jobs", {}).values()):
        for name, value in (getattr(node, "inputs", None) or {}).items():
            given[name] = _literal(value)
    return dict(sorted(given.items()))


def _literal(value: Any) -> str:
    """An input as text: the SDK wraps it, and a file or a model in another wrapper, which has its path."""
    data = getattr(value, "_data", value)
    return str(getattr(data, "path", None) or data)
