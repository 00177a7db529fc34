"""How a subscription begins: standing by default, empty by option, remembered either way."""

from __future__ import annotations

import json
from typing import Any

from tests.unit.local.arm.conftest import VERSION
from tests.unit.local.conftest import Local

STATES = """
    import json
    from azure.identity import DefaultAzureCredential
    from azure.mgmt.resource.resources import ResourceManagementClient
    import os
    client = ResourceManagementClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"])
    groups = [group.name for group in client.resource_groups.list()]
    found = {group: sorted(each.type for each in client.resources.list_by_resource_group(group)) for group in groups}
    registered = sum(each.registration_state == "Registered" for each in client.providers.list())
    print(json.dumps([found, registered]))
"""


def states(local: Local) -> Any:
    """The groups with the types in them, and how many providers are registered."""
    return json.loads(local.run_python(STATES))


def test_it_stands_by_default_and_is_empty_by_option(bare_local: Local) -> None:
    bare_local.cli("start")
    groups, registered = states(bare_local)
    assert groups == {
        "local": [
            "Microsoft.ContainerRegistry/registries",
            "Microsoft.Insights/components",
            "Microsoft.KeyVault/vaults",
            "Microsoft.MachineLearningServices/workspaces",
            "Microsoft.OperationalInsights/workspaces",
            "Microsoft.Storage/storageAccounts",
        ]
    }
    assert registered > 8
    refused = bare_local.cli("start", "--empty", check=False)
    assert refused.returncode == 3
    assert "began with a workspace in it" in refused.stderr
    assert "mlops local reset --empty" in refused.stderr
    bare_local.cli("reset", "--yes", "--empty")
    bare_local.cli("start")
    assert states(bare_local) == [{}, 2]
    bare_local.stop()
    bare_local.cli("start", "--empty")
    assert states(bare_local) == [{}, 2]


def test_what_was_deleted_stays_away(bare_local: Local) -> None:
    bare_local.cli("start")
    bare_local.run_python(f"""
        import os
        from azure.identity import DefaultAzureCredential
        from azure.mgmt.resource.resources import ResourceManagementClient
        client = ResourceManagementClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"])
        registry = next(each for each in client.resources.list() if "ContainerRegistry" in each.type)
        client.resources.begin_delete_by_id(registry.id, api_version="{VERSION}").result()
    """)
    bare_local.stop()
    groups, _ = states(bare_local)
    assert "Microsoft.ContainerRegistry/registries" not in groups["local"]
    assert "Microsoft.Storage/storageAccounts" in groups["local"]
