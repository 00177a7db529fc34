"""Connections of a project on Azure: an address and secrets that a flow asks by.

Custom keys have no entity in the ML SDK 1.35 (its credentials know one key by itself, which Prompt flow cannot read),
so they are written as the resource that they are.
"""

from __future__ import annotations

from collections.abc import Mapping

from mlops.azure import management
from mlops.azure.session import Session
from mlops.core.errors import PreconditionError

VERSION = "2024-04-01"
FLOW = {"azureml.flow.connection_type": "Custom", "azureml.flow.module": "promptflow.connections"}
"""By these Prompt flow knows a connection as its own (promptflow-core 1.18, `_workspace_connection_provider.py`)."""


def project_id(session: Session, project: str) -> str:
    """ARM id of a project in the workspace's resource group."""
    group = f"{management.subscription_id(session)}/resourceGroups/{session.ml.resource_group_name}"
    return f"{group}/providers/Microsoft.MachineLearningServices/workspaces/{project}"


def put_custom(
    session: Session, project: str, name: str, *, target: str, keys: Mapping[str, str], values: Mapping[str, str]
) -> None:
    """Create or renew a connection with keys of our own naming.

    Args:
        session: the login.
        project: the project's name.
        name: the connection's.
        target: the address, as Azure shows it.
        keys: secrets by name.
        values: what a flow reads beside them.

    Raises:
        PreconditionError: there is no such project.
    """
    scope = project_id(session, project)
    if management.get(session, scope, VERSION) is None:
        raise PreconditionError(
            f"there is no project '{project}' in '{session.ml.resource_group_name}'",
            hint="mlops setup --prompt-flow makes it",
        )
    properties = {
        "category": "CustomKeys",
        "authType": "CustomKeys",
        "target": target,
        "credentials": {"keys": dict(keys)},
        "metadata": {**FLOW, **values},
        "isSharedToAll": False,
    }
    management.put(session, f"{scope}/connections/{name}", VERSION, {"properties": properties})
