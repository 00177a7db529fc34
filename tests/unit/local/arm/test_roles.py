"""Roles: what they permit, how they are assigned, and that nobody does what his do not permit."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import pytest

from mlops.local.arm.roles import BUILT_IN, matches, named
from mlops.local.arm.subscription import action_and_scope
from mlops.local.arm.target import Target
from tests.support.waiting import until
from tests.unit.local.arm.conftest import QUICK, STANDING, Cloud, admin, refused
from tests.unit.local.arm.test_managed_identities import job, trust
from tests.unit.local.conftest import make_local

GROUP = "/subscriptions/s/resourceGroups/g"
LEARNING = "Microsoft.MachineLearningServices"
ML = f"{GROUP}/providers/Microsoft.MachineLearningServices"
BLOBS = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs"


@pytest.mark.parametrize(
    ("pattern", "action", "expected"),
    [
        ("*", "Microsoft.Anything/x/write", True),
        ("*/read", "Microsoft.Storage/storageAccounts/read", True),
        ("*/read", "Microsoft.Storage/storageAccounts/readers", False),
        ("Microsoft.Authorization/*/Write", "microsoft.authorization/roleAssignments/write", True),
        ("Microsoft.Storage/storageAccounts/read", "Microsoft.Storage/storageAccountsXread", False),
    ],
)
def test_patterns(pattern: str, action: str, expected: bool) -> None:
    assert matches(pattern, action) is expected


@pytest.mark.parametrize(
    ("role", "action", "data", "expected"),
    [
        ("Owner", "Microsoft.Authorization/roleAssignments/write", False, True),
        ("Contributor", "Microsoft.Authorization/roleAssignments/write", False, False),
        ("Contributor", "Microsoft.Authorization/roleAssignments/read", False, True),
        ("Contributor", f"{BLOBS}/read", True, False),
        ("Reader", "Microsoft.MachineLearningServices/workspaces/jobs/write", False, False),
        ("User Access Administrator", "Microsoft.Authorization/roleAssignments/write", False, True),
        ("Role Based Access Control Administrator", "Microsoft.Authorization/roleAssignments/write", False, True),
        ("Role Based Access Control Administrator", "Microsoft.Authorization/roleDefinitions/write", False, False),
        ("Storage Blob Data Reader", f"{BLOBS}/read", True, True),
        ("Storage Blob Data Reader", f"{BLOBS}/write", True, False),
        ("Storage Blob Data Contributor", f"{BLOBS}/delete", True, True),
        ("AzureML Data Scientist", "Microsoft.MachineLearningServices/workspaces/jobs/write", False, True),
        ("AzureML Data Scientist", "Microsoft.MachineLearningServices/workspaces/write", False, False),
    ],
)
def test_built_in_roles(role: str, action: str, data: bool, expected: bool) -> None:
    definition = named(role)
    assert definition is not None
    assert definition.permits(action, data=data) is expected


def test_every_role_has_an_id_of_its_own() -> None:
    assert len({role.id for role in BUILT_IN}) == len(BUILT_IN)
    assert len({role.name for role in BUILT_IN}) == len(BUILT_IN)


@pytest.mark.parametrize(
    ("method", "path", "action", "scope"),
    [
        ("PUT", GROUP, "Microsoft.Resources/subscriptions/resourceGroups/write", GROUP),
        ("PUT", f"{ML}/workspaces/w", "Microsoft.MachineLearningServices/workspaces/write", f"{ML}/workspaces/w"),
        (
            "GET",
            f"{ML}/workspaces/w/jobs",
            "Microsoft.MachineLearningServices/workspaces/jobs/read",
            f"{ML}/workspaces/w",
        ),
        ("GET", f"{ML}/workspaces", "Microsoft.MachineLearningServices/workspaces/read", GROUP),
        (
            "POST",
            f"{ML}/workspaces/w/connections/c/listSecrets",
            "Microsoft.MachineLearningServices/workspaces/connections/listSecrets/action",
            f"{ML}/workspaces/w/connections/c",
        ),
        (
            "POST",
            "/subscriptions/s/providers/Microsoft.Storage/register",
            "Microsoft.Storage/register/action",
            "/subscriptions/s",
        ),
        (
            "PUT",
            f"{GROUP}//providers/Microsoft.Authorization/roleAssignments/a",
            "Microsoft.Authorization/roleAssignments/write",
            f"{GROUP}/providers/Microsoft.Authorization/roleAssignments/a",
        ),
        (
            "GET",
            "/subscriptions/s/providers/Microsoft.MachineLearningServices/locations/eastus/usages",
            "Microsoft.MachineLearningServices/locations/usages/read",
            "/subscriptions/s",
        ),
    ],
)
def test_what_a_request_needs(method: str, path: str, action: str, scope: str) -> None:
    assert action_and_scope(method, Target.parse(path, method)) == (action, scope)


def test_assignments(cloud: Cloud) -> None:
    assignments = cloud.authorization.role_assignments
    identity = cloud.identity("id-roles")
    made = cloud.assign("Reader", identity.principal_id, cloud.group_id)
    assert (made.scope, made.principal_type) == (cloud.group_id, "ServicePrincipal")
    refused("RoleAssignmentExists", lambda: cloud.assign("Reader", identity.principal_id, cloud.group_id))
    refused("PrincipalNotFound", lambda: cloud.assign("Reader", str(uuid.uuid4()), cloud.group_id))
    resource = cloud.id_of("Microsoft.ManagedIdentity/userAssignedIdentities", "id-roles")
    below = cloud.assign("Managed Identity Operator", identity.principal_id, resource)
    refused("ResourceNotFound", lambda: cloud.assign("Reader", identity.principal_id, resource + "x"))
    principal_filter = f"principalId eq '{identity.principal_id}'"
    assert {each.name for each in assignments.list_for_scope(cloud.group_id, filter=principal_filter)} == {
        made.name,
        below.name,
    }
    at = {each.name for each in assignments.list_for_scope(cloud.group_id, filter="atScope()")}
    assert made.name in at
    assert below.name not in at
    here = {each.name for each in assignments.list_for_scope(resource, filter=f"assignedTo('{identity.principal_id}')")}
    assert here == {made.name, below.name}
    assert assignments.get_by_id(below.id).role_definition_id.endswith("f1a07417-d97a-45cb-824c-7a7467783830")
    assert assignments.delete(cloud.group_id, made.name).name == made.name
    assert assignments.delete(cloud.group_id, made.name) is None
    refused("RoleAssignmentNotFound", lambda: assignments.get(cloud.group_id, made.name))


def test_who_has_no_role_does_nothing(cloud: Cloud) -> None:
    identity = cloud.identity("id-nothing")
    subject = "repo:acme/chat:environment:production"
    trust(cloud, "id-nothing", "production", subject)
    theirs = Cloud(cloud.local, job(subject, identity.client_id), cloud.subscription, cloud.group)
    error = refused("AuthorizationFailed", lambda: theirs.resources.resource_groups.get(cloud.group))
    assert error.status_code == 403
    assert f"The client '{identity.client_id}' with object id '{identity.principal_id}'" in error.message
    assert "'microsoft.resources/subscriptions/resourcegroups/read' over scope" in error.message.lower()
    assert [group.name for group in theirs.resources.resource_groups.list()] == []
    assert [entry.as_dict() for entry in theirs.authorization.permissions.list_for_resource_group(cloud.group)] == []

    cloud.assign("Contributor", identity.principal_id, cloud.group_id)
    assert theirs.resources.resource_groups.get(cloud.group).name == cloud.group
    assert [group.name for group in theirs.resources.resource_groups.list()] == [cloud.group]
    (permission,) = theirs.authorization.permissions.list_for_resource_group(cloud.group)
    assert "Microsoft.Authorization/*/Write" in permission.not_actions
    refused("AuthorizationFailed", lambda: theirs.assign("Reader", identity.principal_id, cloud.group_id))
    refused(
        "AuthorizationFailed", lambda: theirs.resources.resource_groups.create_or_update("g-x", {"location": "eastus"})
    )
    usages = f"/subscriptions/{cloud.subscription}/providers/Microsoft.MachineLearningServices/locations/eastus/usages"
    assert theirs.call("GET", usages)[0] == 403
    assert cloud.call("GET", usages)[0] == 200


def test_the_login_is_owner_until_somebody_takes_it_away(cloud: Cloud) -> None:
    (owner, _) = cloud.authorization.permissions.list_for_resource_group(cloud.group)
    assert owner.actions == ["*"]
    admin("role-assignments?role=Owner", "DELETE")
    try:
        refused("AuthorizationFailed", lambda: cloud.resources.resource_groups.get(cloud.group))
        admin("role-assignments", "POST", {"role": "Reader", "scope": cloud.group_id})
        assert cloud.resources.resource_groups.get(cloud.group).name == cloud.group
        refused("AuthorizationFailed", lambda: cloud.identity("id-forbidden"))
    finally:
        admin("role-assignments?role=Reader", "DELETE")
        admin("role-assignments", "POST", {"role": "Owner"})
    assert cloud.identity("id-allowed").principal_id


def test_a_new_principal_is_not_everywhere_at_once(tmp_path: Path, shared_cache: Path) -> None:
    from azure.core.exceptions import HttpResponseError
    from azure.identity import DefaultAzureCredential

    late = make_local(
        tmp_path / "home",
        shared_cache,
        MLOPS_LOCAL_PRINCIPAL_S="4",
        **QUICK,
        **STANDING,
        MLOPS_LOCAL_ROLES="Contributor, Role Based Access Control Administrator",
    )
    before = dict(os.environ)
    try:
        os.environ.update(late.env)
        with DefaultAzureCredential() as credential:
            own = Cloud(late, credential, os.environ["AZURE_SUBSCRIPTION_ID"], "local")
            identity = own.identity("id-new")
            error = refused("PrincipalNotFound", lambda: own.assign("AcrPull", identity.principal_id, own.group_id))
            assert "replication delay" in error.message

            def assigned() -> Any:
                try:
                    return own.assign("AcrPull", identity.principal_id, own.group_id)
                except HttpResponseError as error:
                    if "PrincipalNotFound" not in str(error):
                        raise
                    return None

            assert until(assigned, every_s=0.2).principal_id == identity.principal_id
    finally:
        os.environ.clear()
        os.environ.update(before)
        late.stop()
