"""What a subscription starts with: a workspace that is ready to use, or nothing, as a new one on Azure."""

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


def seeded_empty(layout: Layout) -> bool | None:
    """Whether this state folder's subscription was seeded empty; None before the first start."""
    record = read_json(layout.seed_record)
    if record is not None:
        return bool(record.get("empty"))
    return False if layout.database.exists() else None


def request_empty(layout: Layout) -> None:
    """Have the first start seed an empty subscription."""
    layout.root.mkdir(parents=True, exist_ok=True)
    write_private_json(layout.seed_record, {"empty": True, "begun": False})


def seed(workspace: Workspace, subscription: Subscription, blobs: Blobs, *, roles: Iterable[Role], empty: bool) -> None:
    """Write the initial resources, once; serve the blobs under the names that they had before."""
    from mlops.local.arm import workspace_document
    from mlops.local.arm.datastores import DatastoreType

    record = read_json(workspace.layout.seed_record) or {}
    if not record.get("begun"):
        empty = bool(record.get("empty", empty)) and workspace.store.get(workspace.config.workspace_id) is None
        with workspace.store.transaction():
            for role in roles:
                subscription.grant(role)
            if not empty:
                subscription.seed_group()
                workspace_document.seed(workspace)
                DatastoreType(blobs).seed(workspace)
        write_private_json(workspace.layout.seed_record, {"empty": empty, "begun": True})
    body = workspace.store.get(workspace.config.workspace_id)
    if body is not None:
        blobs.serve_account(body["properties"]["storageAccount"])
