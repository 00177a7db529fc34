"""From an empty subscription to one that the workflows can use, and back, over real HTTPS with the real clients."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import until
from tests.unit.setup.gh import FakeGitHub
from tests.unit.setup.subscription import SUBJECT, Subscription

pytestmark = pytest.mark.slow
GIVEN = ("--subject", f"staging={SUBJECT}")


def tags(fresh: Subscription, kind: str) -> dict[str, str]:
    resource = next(item for item in fresh.resources() if item["type"].lower().endswith(kind.lower()))
    return dict(resource.get("tags") or {})


def test_empty_to_done_and_a_second_run_changes_nothing(fresh: Subscription) -> None:
    fresh.record()
    planned = fresh.setup("--dry-run", *GIVEN)
    assert planned.code == 0, planned.log
    assert fresh.changes() == []
    states = {f"{part['what']} {part['name']}".strip(): part["state"] for part in planned.document["parts"]}
    assert len(states) == 17
    assert states.pop("quota") == "later"
    assert set(states.values()) == {"make"}

    done = fresh.made()
    assert len(done.document["made"]) == 17
    assert {item["tags"]["managed-by"] for item in fresh.resources()} == {"mlops"}
    variables = done.document["variables"]
    identity = fresh.arm(
        "GET", f"{fresh.group}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/mlops-github"
    )
    assert variables["AZURE_CLIENT_ID"] == identity.json()["properties"]["clientId"]
    assert variables["AZURE_REGION"] == "eastus"
    assert len(variables) == 6
    before = fresh.state()
    endpoint_roles = [line for line in before["roles"] if "2a2b9908" in line or "7f951dda" in line]
    assert len(endpoint_roles) == 2
    assert len(before["roles"]) - len(endpoint_roles) >= 2

    fresh.record()
    again = fresh.setup("--yes", *GIVEN)
    assert again.code == 0, again.log
    assert fresh.changes() == []
    assert again.document["made"] == []
    assert "nothing to do" in fresh.setup_text("--yes", *GIVEN)
    assert fresh.state() == before


def test_what_stands_is_used_and_not_touched(fresh: Subscription) -> None:
    fresh.made()
    workspace = f"{fresh.group}/providers/Microsoft.MachineLearningServices/workspaces/local"
    account = fresh.arm("GET", workspace).json()["properties"]["storageAccount"]
    fresh.arm("PATCH", account, {"tags": {"owner": "somebody"}})
    identity = f"{fresh.group}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/mlops-endpoint"
    fresh.arm("DELETE", identity, api="2023-01-31")
    done = fresh.made()
    assert done.line("storage account") == {
        "what": "storage account",
        "name": account.rsplit("/", 1)[1],
        "state": "exists",
        "note": "not made by setup",
    }
    assert done.document["made"][0] == "identity mlops-endpoint"
    assert len(done.document["made"]) == 3  # with its roles: it is another identity now
    assert fresh.arm("GET", account).json()["tags"] == {"owner": "somebody"}


def test_what_is_in_the_way_is_said_before_anything_is_made(fresh: Subscription) -> None:
    fresh.made()
    fresh.record()
    other = {"MLOPS_SETTINGS": str(_settings(fresh.folder, compute={"size": "Standard_NC40ads_H100_v5"}))}
    refused = fresh.setup("--yes", *GIVEN, env=other)
    assert refused.code == 3
    assert "the cluster gpu-cluster-a100 is in the way" in refused.log
    assert "Standard_NC24ads_A100_v4" in refused.log.replace("STANDARD_NC24ADS_A100_V4", "Standard_NC24ads_A100_v4")
    assert fresh.changes() == []


def test_a_workflow_s_login_may_not_set_up(fresh: Subscription) -> None:
    fresh.made()
    client = fresh.setup("--yes", *GIVEN).document["variables"]["AZURE_CLIENT_ID"]
    job = fresh.local("POST", "github-job", {"subject": SUBJECT, "claims": {}})
    group = {"AZURE_CLIENT_ID": client, "AZURE_CLIENT_SECRET": "", "GITHUB_ACTIONS": "true", **job}
    ready = fresh.setup("--yes", *GIVEN, env=group)
    assert ready.code == 0, ready.log  # with nothing to do, nothing is needed
    fresh.record()
    refused = fresh.setup(
        "--yes",
        *GIVEN,
        "--environment",
        "staging",
        "--subject",
        f"nightly={_for('nightly')}",
        "--environment",
        "nightly",
        env=group,
    )
    assert refused.code == 0, refused.log  # a federated credential is a Contributor's to make
    identity = f"{fresh.group}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/mlops-endpoint"
    fresh.arm("DELETE", identity, api="2023-01-31")
    fresh.record()
    refused = fresh.setup("--yes", *GIVEN, env=group)
    assert refused.code == 3, refused.log
    assert "Microsoft.Authorization/roleAssignments/write" in refused.log
    assert "User Access Administrator" in refused.log
    assert fresh.changes() == []


def test_a_login_of_the_group_alone_need_not_see_the_subscription_s_deleted_vaults(fresh: Subscription) -> None:
    client = fresh.made().document["variables"]["AZURE_CLIENT_ID"]
    job = fresh.local("POST", "github-job", {"subject": SUBJECT, "claims": {}})
    group = {"AZURE_CLIENT_ID": client, "AZURE_CLIENT_SECRET": "", "GITHUB_ACTIONS": "true", **job}
    vault = next(item for item in fresh.resources() if item["type"] == "Microsoft.KeyVault/vaults")
    assert fresh.arm("DELETE", vault["id"]).status_code < 300
    until(lambda: fresh.arm("GET", vault["id"]).status_code == 404)
    planned = fresh.setup("--dry-run", *GIVEN, env=group)
    assert planned.code == 0, planned.log
    assert planned.line("key vault")["state"] == "make"

    outcome = fresh.setup("--yes", *GIVEN, env=group)  # the name is the deleted one's still: it is recovered
    assert outcome.code == 0, outcome.log
    assert fresh.arm("GET", vault["id"]).status_code == 200


def test_delete_leaves_nothing_of_ours_and_setup_recovers_the_vault(fresh: Subscription) -> None:
    fresh.made()
    before = fresh.state()
    outcome = fresh.setup("--delete", "--dry-run")
    assert "workspace local" in outcome.document["delete"]
    assert "resource group local" in outcome.document["delete"]
    assert any("cluster gpu-cluster-a100" in line for line in outcome.document["lost"])
    nobody = fresh.setup("--delete")
    assert nobody.code == 2
    assert "nothing was deleted" in nobody.log
    assert fresh.state() == before
    done = fresh.setup("--delete", "--yes")
    assert done.code == 0, done.log
    assert done.document["group_deleted"]
    assert fresh.arm("GET", fresh.group).status_code == 404
    assert "nothing" in fresh.setup_text("--delete", "--yes")
    planned = fresh.setup("--dry-run", *GIVEN)
    assert "recovered" in planned.line("key vault")["note"]
    fresh.made()
    assert fresh.state() == before


def test_delete_spares_what_is_not_ours(fresh: Subscription) -> None:
    fresh.made()
    theirs = f"{fresh.group}/providers/Microsoft.OperationalInsights/workspaces/theirs"
    fresh.arm("PUT", theirs, {"location": "eastus", "properties": {}})
    hub = f"{fresh.group}/providers/Microsoft.MachineLearningServices/workspaces/their-hub"
    uses = fresh.arm("GET", f"{fresh.group}/providers/Microsoft.MachineLearningServices/workspaces/local").json()
    keys = ("storageAccount", "keyVault", "applicationInsights")
    body = {
        "location": "eastus",
        "kind": "Hub",
        "identity": {"type": "SystemAssigned"},
        "properties": {key: uses["properties"][key] for key in keys},
    }
    assert fresh.arm("PUT", hub, body).status_code < 300
    until(lambda: fresh.arm("GET", hub).json()["properties"]["provisioningState"] == "Succeeded")
    done = fresh.setup("--delete", "--yes")
    assert done.code == 0, done.log
    assert not done.document["group_deleted"]
    names = sorted(item["name"] for item in fresh.resources())
    used_names = sorted(uses["properties"][key].rsplit("/", 1)[1] for key in keys)
    assert names == sorted([*used_names, "local-logs", "theirs", "their-hub"])  # the insights write to the logs
    assert sum("something that stays uses it" in line for line in done.document["left"]) == 4


def test_in_a_workspace_of_somebody_s_the_cluster_alone_is_ours(fresh: Subscription) -> None:
    fresh.made()
    everything = [item["id"] for item in fresh.resources()]
    for path in [fresh.group, *everything]:
        assert fresh.arm("PATCH", path, {"tags": {"owner": "somebody"}}).status_code == 200
    done = fresh.made()
    assert done.document["made"] == []
    assert done.line("workspace")["note"] == "not made by setup"
    removed = fresh.setup("--delete", "--yes")
    assert removed.code == 0, removed.log
    assert removed.document["delete"] == ["cluster gpu-cluster-a100"]
    assert len(removed.document["left"]) == len(everything) + 1
    assert [item["id"] for item in fresh.resources()] == everything
    assert fresh.made().document["made"] == ["cluster gpu-cluster-a100"]


def test_github_is_told_and_told_once(fresh: Subscription, github: FakeGitHub) -> None:
    env = {"PATH": os.environ["PATH"]}
    done = fresh.setup("--yes", "--github", env=env)
    assert done.code == 0, done.log
    assert done.line("federated credential")["note"] == SUBJECT
    assert github.state["environments"]["staging"] == done.document["variables"]
    assert len(github.changes()) == 7
    again = fresh.setup("--yes", "--github", env=env)
    assert again.document["told_github"] == []
    assert len(github.changes()) == 7
    identity = f"{fresh.group}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/mlops-github"
    credential = f"{identity}/federatedIdentityCredentials/github-staging"
    properties = fresh.arm("GET", credential, api="2023-01-31").json()["properties"]
    assert properties["subject"] == SUBJECT
    assert properties["audiences"] == ["api://AzureADTokenExchange"]

    github.write(subject={"use_default": True, "sub_claim_prefix": "repo:octo@11/renamed@22"})
    changed = fresh.setup("--yes", env=env)
    assert changed.document["made"] == ["federated credential github-staging"]


def test_two_targets_share_a_workspace_and_its_identities(fresh: Subscription) -> None:
    fresh.made()
    subject = _for("production")
    done = fresh.setup("--yes", "--subject", f"production={subject}", target="production")
    assert done.code == 0, done.log
    assert done.document["made"] == ["federated credential github-production"]
    fresh.record()
    both = fresh.setup("--yes", *GIVEN, "--subject", f"production={subject}")
    assert both.code == 0, both.log
    assert fresh.changes() == []


@pytest.mark.parametrize("option", [("--repository", "octo"), ("--repository", "octo/chat;id"), ("--environment", "")])
def test_what_is_no_name_on_github_is_refused_at_once(fresh: Subscription, option: tuple[str, str]) -> None:
    fresh.record()
    refused = fresh.setup("--yes", *option)
    assert refused.code == 2, refused.log
    assert option[0] in refused.log
    assert fresh.trace() == []


def test_a_workspace_whose_account_is_in_another_group(fresh: Subscription) -> None:
    fresh.made()
    shared = f"{fresh.root}/resourceGroups/shared"
    assert fresh.arm("PUT", shared, {"location": "eastus"}).status_code < 300
    kind = f"{fresh.group}/providers/Microsoft.MachineLearningServices/workspaces"
    uses = fresh.arm("GET", f"{kind}/local").json()["properties"]
    account = f"{shared}/providers/Microsoft.Storage/storageAccounts/sharedaccount"
    body = {"location": "eastus", "kind": "StorageV2", "sku": {"name": "Standard_LRS"}, "properties": {}}
    assert fresh.arm("PUT", account, body).status_code < 300
    until(lambda: fresh.arm("GET", account).json()["properties"]["provisioningState"] == "Succeeded")
    names = ("keyVault", "applicationInsights", "containerRegistry")
    other = {
        "location": "eastus",
        "kind": "Default",
        "identity": {"type": "SystemAssigned"},
        "properties": {"storageAccount": account, **{name: uses[name] for name in names}},
    }
    other_account = f"{kind}/other"
    assert fresh.arm("PUT", other_account, other).status_code < 300
    until(lambda: fresh.arm("GET", other_account).json()["properties"]["provisioningState"] == "Succeeded")
    env = {"AZUREML_WORKSPACE_NAME": "other"}
    try:
        first = fresh.setup("--yes", *GIVEN, env=env)
        assert any("Storage Blob Data Reader" in line for line in first.document["made"]), first.log
        again = fresh.setup("--yes", *GIVEN, env=env)
        assert again.document["made"] == [], again.log
    finally:
        fresh.arm("DELETE", shared)


def test_where_github_cannot_tell_all_else_is_made(fresh: Subscription, tmp_path: Path) -> None:
    done = fresh.setup("--yes", env={"PATH": str(tmp_path)})
    assert done.code == 0, done.log
    assert done.line("federated credential")["state"] == "open"
    assert any("--subject staging=" in note for note in done.document["for_you"])
    assert done.document["variables"]["AZURE_CLIENT_ID"]
    assert any(line.startswith("gh variable set AZURE_CLIENT_ID --env staging") for line in done.document["commands"])


def test_prompt_flow_gets_a_hub_a_project_and_once_there_is_an_endpoint_its_connection(fresh: Subscription) -> None:
    waits = fresh.made("--prompt-flow")
    assert waits.line("hub")["state"] == waits.line("project")["state"] == "make"
    assert any("mlops deploy makes it" in note for note in waits.document["for_you"])
    learning = f"{fresh.group}/providers/Microsoft.MachineLearningServices/workspaces"
    endpoint = f"{learning}/local/onlineEndpoints/ultrachat-completion-staging"
    body = {"location": "eastus", "identity": {"type": "SystemAssigned"}, "properties": {"authMode": "Key"}}
    assert fresh.arm("PUT", endpoint, body).status_code == 201
    until(lambda: fresh.arm("GET", endpoint).json()["properties"]["provisioningState"] == "Succeeded")
    key = fresh.arm("POST", f"{endpoint}/listKeys").json()["primaryKey"]

    done = fresh.made("--prompt-flow")
    assert done.document["made"] == ["connection chat-endpoint"]
    assert key not in done.log
    connection = f"{learning}/ultrachat-chat/connections/chat-endpoint"
    secrets = fresh.arm("POST", f"{connection}/listsecrets", api="2024-04-01").json()["properties"]
    assert secrets["credentials"]["keys"] == {"key": key}
    assert secrets["target"] == fresh.arm("GET", endpoint).json()["properties"]["scoringUri"]
    fresh.record()
    assert fresh.made("--prompt-flow").document["made"] == []
    assert [change for change in fresh.changes() if not change.endswith("/listKeys")] == []
    gone = fresh.setup("--delete", "--yes")
    assert gone.code == 0, gone.log
    assert any("endpoint ultrachat-completion-staging, without traffic" in line for line in gone.document["lost"])
    assert fresh.arm("GET", fresh.group).status_code == 404


@pytest.mark.parametrize("subject", ["repo:octo/chat:pull_request", "repo:octo/chat:ref:refs/heads/main", "x"])
def test_nobody_else_is_trusted(fresh: Subscription, subject: str) -> None:
    fresh.record()
    refused = fresh.setup("--yes", "--subject", f"staging={subject}")
    assert refused.code == 2
    assert fresh.trace() == []


def _for(environment: str) -> str:
    return SUBJECT.replace("staging", environment)


def _settings(folder: Path, **sections: dict[str, Any]) -> Path:
    import yaml

    from tests.support.checkout import ROOT

    document = yaml.safe_load((ROOT / "mlops.yaml").read_text(encoding="utf-8"))
    for name, values in sections.items():
        document["defaults"][name] |= values
    path = folder / "other" / "mlops.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path
