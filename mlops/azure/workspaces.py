"""Workspaces as the ML SDK knows them: only their end; they are made by their id (:mod:`mlops.azure.management`)."""

from __future__ import annotations

from mlops.azure.errors import NotFoundError, translated
from mlops.azure.session import Session, finished


def delete(session: Session, name: str) -> None:
    """Delete a workspace, a hub or a project for good, without what it leans on; one that is gone is no error.

    A workspace that is only soft-deleted keeps its name, and a later one of the same name could not be made.
    """
    try:
        with translated(f"delete the workspace '{name}'"):
            finished(
                session.ml.workspaces.begin_delete(name, delete_dependent_resources=False, permanently_delete=True)
            )
    except NotFoundError:
        return
