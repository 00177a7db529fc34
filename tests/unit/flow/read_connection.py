"""Run by Prompt flow's interpreter: its own reader of a project's connections, as a flow on Azure uses it.

It asks the ML SDK, which its environment has not, for two addresses alone; they are given here.
"""

import json
import os
import sys
import types
from typing import Any

MANAGEMENT = "https://management.azure.com"
clouds: Any = types.ModuleType("azure.ai.ml._azure_environments")
clouds._get_base_url_from_metadata = lambda: MANAGEMENT
clouds._resource_to_scopes = lambda resource: [f"{resource}/.default"]
for name in ("azure.ai", "azure.ai.ml"):
    sys.modules[name] = types.ModuleType(name)
sys.modules[clouds.__name__] = clouds

from azure.identity import EnvironmentCredential  # noqa: E402
from promptflow.core._connection_provider._workspace_connection_provider import (  # noqa: E402
    WorkspaceConnectionProvider,
)

workspace = (os.environ["AZURE_SUBSCRIPTION_ID"], os.environ["AZURE_RESOURCE_GROUP"], sys.argv[1])
connection = WorkspaceConnectionProvider(*workspace, EnvironmentCredential()).get(sys.argv[2])
print(
    json.dumps(
        {"kind": type(connection).__name__, "configs": dict(connection.configs), "secrets": dict(connection.secrets)}
    )
)
