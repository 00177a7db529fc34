"""How a subscription begins: with a workspace that stands, or empty, as a fresh one on Azure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mlops.local.state.layout import Layout
from mlops.local.state.private_files import read_json, write_private_json

if TYPE_CHECKING:
    from mlops.local.arm.roles import Role
    from mlops.local.arm.subscription import Subscription
    from mlops.local.blob.store import Blobs
    from mlops.local.state.workspace import Workspace


def began_empty(layout: Layout) -> bool | None:
    """Whether this state folder's subscription began empty; None where it has not begun."""
    found = read_json(layout.beginning)
    if found is not None:
        return bool(found.get("empty"))
    return False if layout.database.exists() else None


def wish(layout: Layout, *, empty: bool) -> None:
    """Say before its first start how a subscription shall begin."""
    layout.root.mkdir(parents=True, exist_ok=True)
    write_private_json(layout.beginning, {"empty": empty, "begun": False})


def seed(workspace: Workspace, subscription: Subscription, blobs: Blobs, *, roles: Iterable[Role], empty: bool) -> None:
    """Write what is there from the beginning, once; take up the names of blobs that were served before."""
    from mlops.local.arm import workspace_document
    from mlops.local.arm.datastores import DatastoreType

    found = read_json(workspace.layout.beginning) or {}
    if not found.get("begun"):
        empty = bool(found.get("empty", empty)) and workspace.store.get(workspace.config.workspace_id) is None
        with workspace.store.transaction():
            for role in roles:
                subscription.grant(role)
            if not empty:
                subscription.seed_group()
                workspace_document.seed(workspace)
                DatastoreType(blobs).seed(workspace)
        write_private_json(workspace.layout.beginning, {"empty": empty, "begun": True})
    body = workspace.store.get(workspace.config.workspace_id)
    if body is not None:
        blobs.serve_account(body["properties"]["storageAccount"])
