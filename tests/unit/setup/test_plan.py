"""Names, subjects and the plan: decided without Azure."""

from __future__ import annotations

import dataclasses
import re
import shlex
import string
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from mlops.azure.groups import Group
from mlops.azure.identities import ISSUER, Federation, Identity
from mlops.azure.quota import Request
from mlops.azure.roles import Assignment
from mlops.config.settings import load
from mlops.core.errors import PreconditionError, UsageError
from mlops.core.resources import MANAGED_BY, MANAGED_TAG, Cluster
from mlops.machines.quota import Shortage
from mlops.setup import subjects
from mlops.setup.capacity import Capacity
from mlops.setup.desired import dependents, workspace, workspace_dependencies
from mlops.setup.github_variables import commands, variables
from mlops.setup.plan import Step, needed_actions, nothing_to_do, plan, wrong
from mlops.setup.scope import RULES, AzureScope, in_tenant, scope_of
from mlops.setup.subjects import Subject
from mlops.setup.survey import CurrentState, SetupRequest
from tests.support.checkout import ROOT

OURS = {MANAGED_TAG: MANAGED_BY}
SUBJECT = "repo:octo@11/chat@22:environment:staging"
PLACE = AzureScope(
    subscription="00000000-0000-0000-0000-000000000001",
    group="chat",
    workspace="chat-ws",
    region="eastus",
    tenant="00000000-0000-0000-0000-00000000000a",
)
ORDER = SetupRequest(
    scope=PLACE,
    settings=load("staging", ROOT / "mlops.yaml"),
    endpoint_identity="mlops-endpoint",
    subjects=[Subject(environment="staging", value=SUBJECT)],
)


def everything(**changes: Any) -> CurrentState:
    """All of it there, ours."""
    documents: dict[str, Any] = {
        item.id.lower(): {**item.body, "properties": {**item.body["properties"], "provisioningState": "Succeeded"}}
        for item in [*workspace_dependencies(PLACE, None), workspace(PLACE, None)]
    }
    ws = documents[workspace(PLACE, None).id.lower()]
    people = {
        name: Identity(id=f"/x/{name}", name=name, client_id=f"c-{name}", principal_id=f"p-{name}", tags=OURS)
        for name in ("mlops-endpoint", "mlops-github")
    }
    uses = dependents(PLACE, ws)
    roles = {
        "mlops-endpoint": [("Storage Blob Data Reader", uses.storage), ("AcrPull", uses.registry.upper())],
        "mlops-github": [("Contributor", PLACE.group_id), ("Storage Blob Data Contributor", uses.storage)],
    }
    facts = CurrentState(
        unregistered=[],
        group=Group(id=PLACE.group_id, name="chat", region="westus", state="Succeeded", tags=OURS),
        workspace=ws,
        documents=documents,
        identities=people,
        assignments={
            name: [Assignment(id="x", role=role, scope=scope, principal=f"p-{name}") for role, scope in pairs]
            for name, pairs in roles.items()
        },
        federations={
            "github-staging": Federation(
                name="github-staging", issuer=ISSUER, subject=SUBJECT, audiences=("api://AzureADTokenExchange",)
            )
        },
        cluster=Cluster(
            name="gpu-cluster-a100",
            size="STANDARD_NC24ADS_A100_V4",
            state="Succeeded",
            tier="Dedicated",
            min_nodes=0,
            max_nodes=1,
            tags=OURS,
        ),
        capacity=Capacity(),
    )
    return dataclasses.replace(facts, **changes)


def part(plan_parts: list[Step], title: str) -> Step:
    return next(each for each in plan_parts if each.title.startswith(title))


def document(facts: CurrentState, what: str, **changes: Any) -> CurrentState:
    """With one resource changed."""
    item = next(each for each in [*workspace_dependencies(PLACE, None), workspace(PLACE, None)] if each.what == what)
    body = {**facts.documents[item.id.lower()], **changes}
    return dataclasses.replace(facts, documents={**facts.documents, item.id.lower(): body})


# -- names -------------------------------------------------------------------------------------------------------------


LETTERS = string.ascii_letters + string.digits


@hypothesis.given(
    st.tuples(st.sampled_from(LETTERS), st.text(LETTERS + "-_", min_size=2, max_size=32)).map("".join),
    st.text(LETTERS + "-_.()", min_size=1, max_size=90),
)
def test_names_keep_azure_s_rules(workspace: str, group: str) -> None:
    assert RULES["workspace"].fullmatch(workspace)
    scope = dataclasses.replace(PLACE, workspace=workspace, group=group)
    assert re.fullmatch(r"[a-z0-9]{3,24}", scope.storage)
    assert re.fullmatch(r"(?=.{3,24}$)[A-Za-z](-?[A-Za-z0-9])*", scope.vault)
    assert re.fullmatch(r"[A-Za-z0-9]{5,50}", scope.registry)
    assert re.fullmatch(r"[A-Za-z0-9][-A-Za-z0-9]{2,61}[A-Za-z0-9]", scope.logs)


def test_names_are_the_place_s_own_and_do_not_change() -> None:
    assert re.fullmatch(r"stchatws[0-9a-f]{10}", PLACE.storage)
    assert dataclasses.replace(PLACE, group="CHAT").storage == PLACE.storage  # Azure does not tell them apart
    others = [dataclasses.replace(PLACE, **{key: "other1"}) for key in ("subscription", "group", "workspace")]
    assert len({PLACE.mark, *(other.mark for other in others)}) == 4


def test_all_that_is_not_said_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_SUBSCRIPTION_ID", "AZURE_RESOURCE_GROUP", "AZUREML_WORKSPACE_NAME", "AZURE_REGION"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(PreconditionError) as caught:
        scope_of({"group": "chat"}, tmp_path)
    assert "AZURE_SUBSCRIPTION_ID, AZUREML_WORKSPACE_NAME, AZURE_REGION" in caught.value.message
    config = {"subscription_id": PLACE.subscription, "resource_group": "there", "workspace_name": "chat-ws"}
    import json

    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    scope = scope_of({"group": "chat", "region": "East US"}, tmp_path)
    assert (scope.group, scope.workspace, scope.region) == ("chat", "chat-ws", "eastus")
    with pytest.raises(PreconditionError, match="AZURE_SUBSCRIPTION_ID is 'mine'"):
        scope_of({"subscription": "mine", "region": "eastus"}, tmp_path)


# -- subjects ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "why"),
    [
        ("repo:octo/chat:pull_request", "every pull request"),
        ("repo:octo/chat:ref:refs/heads/main", "no environment"),
        ("repo:octo/chat:environment:production", "another environment"),
        ("repo:octo/chat:environment:staging2", "another environment"),
        ("repo:octo/*:environment:staging", "no single subject"),
        ("repo:octo/chat:environment:staging:pull_request", "every pull request"),
    ],
)
def test_whom_nobody_trusts(subject: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        subjects.refuse(subject, "staging")


def test_whom_one_may_trust() -> None:
    for subject in (SUBJECT, "repository_id:22:environment:staging", "environment:staging:repository_id:22"):
        subjects.refuse(subject, "staging")
    assert subjects.given([f"staging={SUBJECT}"]) == {"staging": SUBJECT}
    assert Subject(environment="my env/1").credential.startswith("github-my-env-1-")
    with pytest.raises(UsageError, match="ENVIRONMENT=SUBJECT"):
        subjects.given(["staging"])


# -- the plan ----------------------------------------------------------------------------------------------------------


def test_all_there_is_nothing_to_do() -> None:
    steps = plan(ORDER, everything())
    assert {each.state for each in steps} == {"exists"}
    assert nothing_to_do(steps)
    assert needed_actions(steps) == []


def test_an_empty_subscription() -> None:
    steps = plan(ORDER, CurrentState(unregistered=["Microsoft.Storage"], group=None, workspace=None))
    assert {each.state for each in steps} == {"make", "later"}
    order = [each.kind for each in steps]
    assert order.index("group") < order.index("resource") < order.index("cluster") < order.index("identity")
    assert "Microsoft.Authorization/roleAssignments/write" in needed_actions(steps)


@pytest.mark.parametrize(
    ("what", "changes", "state", "note"),
    [
        ("storage account", {"tags": {}}, "exists", "not made by setup"),
        ("storage account", {"properties": {"isHnsEnabled": True}}, "wrong", "hierarchical"),
        ("storage account", {"sku": {"name": "Premium_LRS"}}, "wrong", "Premium_LRS"),
        ("storage account", {"properties": {"provisioningState": "Failed"}}, "make", "again"),
        ("key vault", {"properties": {"provisioningState": "RegisteringDns"}}, "make", "registeringdns"),
        ("workspace", {"kind": "Hub"}, "wrong", "it is a hub"),
        ("workspace", {"location": "westus"}, "wrong", "in 'westus', not in 'eastus'"),
    ],
)
def test_what_stands_already(what: str, changes: dict[str, Any], state: str, note: str) -> None:
    step = part(plan(ORDER, document(everything(), what, **changes)), what)
    assert step.state == state
    assert note in step.note


def test_a_workspace_s_own_dependents_are_used_and_what_it_lacks_is_added() -> None:
    facts = everything()
    theirs = "/subscriptions/s/resourceGroups/other/providers/Microsoft.Storage/storageAccounts/theirs"
    properties = {**(facts.workspace or {})["properties"], "storageAccount": theirs, "containerRegistry": None}
    body = {**(facts.workspace or {}), "properties": properties}
    facts = document(dataclasses.replace(facts, workspace=body), "workspace", properties=properties)
    steps = plan(ORDER, facts)
    assert part(steps, "storage account").name == "theirs"
    assert part(steps, "workspace").state == "change"
    assert part(steps, "workspace").note == "it gets its containerRegistry"
    assert part(steps, "role Storage Blob Data Reader").data["scope"] == theirs


def test_the_cluster() -> None:
    cluster = everything().cluster
    assert cluster is not None

    def part_of(**changes: Any) -> Step:
        return part(plan(ORDER, everything(cluster=dataclasses.replace(cluster, **changes))), "cluster")

    assert part_of(size="Standard_D2").state == "wrong"
    assert part_of(state="Failed").state == "wrong"
    assert part_of(state="Creating").state == "make"
    assert part_of(max_nodes=4).data == {"max_nodes": 1}
    assert part_of(max_nodes=4, tags={}).state == "exists"
    assert part_of(max_nodes=2, tier="LowPriority").state == "exists"


def test_the_federated_credential() -> None:
    def part_of(federation: Federation | None, *, tags: dict[str, str] | None = None, known: bool = True) -> Step:
        facts = everything(federations={} if federation is None else {federation.name: federation})
        if tags is not None:
            mine = dataclasses.replace(facts.identities["mlops-github"], tags=tags)
            facts = dataclasses.replace(facts, identities={**facts.identities, "mlops-github": mine})
        subject = Subject(environment="staging", value=SUBJECT if known else "", why_not="no gh", hint="install it")
        return part(plan(dataclasses.replace(ORDER, subjects=[subject]), facts), "federated")

    good = everything().federations["github-staging"]
    other = dataclasses.replace(good, subject="repo:octo/chat:environment:staging")
    assert part_of(None).state == "make"
    assert part_of(good).state == "exists"
    assert part_of(other).state == "change"
    assert part_of(other, tags={}).state == "wrong"
    assert part_of(dataclasses.replace(good, name="by-hand")).state == "exists"
    assert part_of(dataclasses.replace(good, audiences=("x",))).state == "change"
    assert part_of(good, known=False).state == "exists"
    assert part_of(None, known=False).state == "open"
    assert "install it" in part_of(None, known=False).note


def test_every_environment_has_a_credential_of_its_own() -> None:
    names = ["staging", "a b", "a-b", "a/b", "x" * 112, "x" * 113, "x" * 200, "x" * 201]
    credentials = [Subject(environment=name).credential for name in names]
    assert credentials[0] == "github-staging"
    assert len(set(credentials)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{2,119}", each) for each in credentials)


@pytest.mark.parametrize("state", ["Failed", "Canceled", "Updating"])
def test_what_is_not_ours_is_not_written_over_while_it_is_not_well(state: str) -> None:
    facts = everything()
    path = workspace(PLACE, None).id.lower()
    resource = facts.documents[path]

    def part_of(tags: dict[str, str]) -> Step:
        body = {**resource, "tags": tags, "properties": {**resource["properties"], "provisioningState": state}}
        return part(plan(ORDER, dataclasses.replace(facts, documents={**facts.documents, path: body})), "workspace")

    assert part_of(OURS).state == "make"
    assert (part_of({}).state, "setup did not make it" in part_of({}).note) == ("wrong", True)


def test_the_tenant_is_the_login_s() -> None:
    assert in_tenant(PLACE, PLACE.tenant.upper()) == PLACE
    assert in_tenant(dataclasses.replace(PLACE, tenant=""), "t").tenant == "t"
    assert in_tenant(PLACE, "") == PLACE  # a token that only Azure can read
    with pytest.raises(PreconditionError, match="the login is one of the tenant 'other'"):
        in_tenant(PLACE, "other")


def test_without_github_there_is_no_identity_for_it() -> None:
    steps = plan(dataclasses.replace(ORDER, subjects=[], endpoint_identity=None), everything())
    assert not any(each.kind in ("identity", "role", "trust") for each in steps)


@pytest.mark.parametrize(
    ("asked", "before", "state", "count"),
    [
        (None, None, "make", 1),
        (None, 72, "open", 0),
        (None, 24, "make", 1),
        (True, 72, "make", 1),
        (False, None, "open", 0),
    ],
)
def test_quota_is_asked_for_once(asked: bool | None, before: int | None, state: str, count: int) -> None:
    family = "standardNCADSA100v4Family"
    short = Shortage(size="Standard_NC24ads_A100_v4", needed=72, used=0, limit=24, family="Standard NCADSA100v4 Family")
    earlier = {} if before is None else {family: Request(family=family, limit=before, state="Failed")}
    capacity = Capacity(short=[short], families=[family], asked=earlier, ask=asked)
    assert len(capacity.to_ask()) == count
    quota = part(plan(ORDER, everything(capacity=capacity)), "quota")
    assert quota.state == state
    assert "72 vCPUs" in quota.note
    assert ("portal.azure.com" in quota.note) == (state == "open")
    total = Capacity(short=[dataclasses.replace(short, family="Total")], families=[""], ask=None)
    assert total.to_ask() == []


def test_what_is_in_the_way_is_found() -> None:
    steps = plan(ORDER, document(everything(), "workspace", kind="Hub"))
    assert [each.what for each in wrong(steps)] == ["workspace"]


def test_what_is_to_be_typed_runs_nothing_else() -> None:
    for line in commands("octo/chat;id", ["a b;id"], {"AZURE_REGION": "$(id)"}):
        assert not any(word in ("id", ";id") or word.endswith(";") for word in shlex.split(line))
        assert "'" in line


def test_what_github_is_told() -> None:
    values = variables(PLACE, "client")
    assert sorted(values) == sorted(
        [
            "AZURE_CLIENT_ID",
            "AZURE_TENANT_ID",
            "AZURE_SUBSCRIPTION_ID",
            "AZURE_RESOURCE_GROUP",
            "AZUREML_WORKSPACE_NAME",
            "AZURE_REGION",
        ]
    )
    lines = commands("octo/chat", ["my env"], values)
    assert lines[0] == "gh api --silent --method PUT repos/octo/chat/environments/my%20env"
    assert "gh variable set AZURE_RESOURCE_GROUP --env 'my env' --body chat --repo octo/chat" in lines
    assert "OWNER/NAME" in commands(None, ["staging"], values)[0]
