"""Model versions, of the workspace and of registries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlops.azure.ensure import ensure
from mlops.azure.errors import NotFoundError, translated
from mlops.azure.session import Session
from mlops.core.resources import ModelVersion


def get(session: Session, name: str, version: str, *, registry: str | None = None) -> ModelVersion | None:
    """One version, or the one under a label (``latest``); None where there is none."""
    client = session.registry(registry) if registry else session.ml
    where = {"label": version} if version == "latest" else {"version": version}
    try:
        with translated(f"look up the model '{name}', version '{version}'"):
            return _version(client.models.get(name, **where))
    except NotFoundError:
        return None


def versions(session: Session, name: str, *, archived: bool = False) -> list[ModelVersion]:
    """Every version of a model of the workspace, newest first (versions are timestamps); ``archived`` ones too."""
    from azure.ai.ml.constants import ListViewType

    view = ListViewType.ALL if archived else ListViewType.ACTIVE_ONLY
    try:
        with translated(f"list the versions of the model '{name}'"):
            listed = [_version(item) for item in session.ml.models.list(name=name, list_view_type=view)]
    except NotFoundError:
        return []
    return sorted(listed, key=lambda model: (model.version.isdigit() and int(model.version)) or 0, reverse=True)


def register(
    session: Session, *, name: str, version: str, job: str, output: str, description: str, tags: Mapping[str, str]
) -> ModelVersion:
    """Register a job's output as an MLflow model."""
    from azure.ai.ml.constants import AssetTypes
    from azure.ai.ml.entities import Model

    model = Model(
        path=f"azureml://jobs/{job}/outputs/{output}",
        type=AssetTypes.MLFLOW_MODEL,
        name=name,
        version=version,
        description=description,
        tags=dict(tags),
    )
    with translated(f"register the model '{name}', version '{version}'"):
        return _version(session.ml.models.create_or_update(model))


def tag(session: Session, version: ModelVersion, tags: Mapping[str, str]) -> None:
    """Add tags to a version; its content and its other tags stay."""
    with translated(f"tag the model '{version.name}', version '{version.version}'"):
        model = session.ml.models.get(version.name, version=version.version)
        model.tags = {**(model.tags or {}), **tags}
        session.ml.models.create_or_update(model)


def archive(session: Session, name: str, version: str) -> None:
    """Take a version out of lists and of ``latest``; it can still be deployed by its number, and be restored.

    Azure ML's SDK archives models and deletes none. That suits a version: its lineage stays, nothing is billed for it
    but the storage of its files, and what was archived in error is back with ``az ml model restore``.
    """

    def change() -> None:
        with translated(f"archive the model '{name}', version '{version}'"):
            session.ml.models.archive(name, version=version)

    def holds() -> bool | None:
        return None if any(item.version == version for item in versions(session, name)) else True

    ensure(change, holds)


def _version(entity: Any) -> ModelVersion:
    context = getattr(entity, "creation_context", None)
    return ModelVersion(
        name=entity.name,
        version=str(entity.version),
        id=entity.id or "",
        tags=dict(entity.tags or {}),
        properties=dict(entity.properties or {}),
        description=entity.description or "",
        created=getattr(context, "created_at", None),
        job=getattr(entity, "job_name", None) or (entity.tags or {}).get("job"),
        stage=getattr(entity, "stage", None),
    )
