"""Workspaces, hubs, projects and connections; and that the workspace which somebody made is the real one."""

from __future__ import annotations

import json
import os
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import azure.ai.ml  # noqa: F401 - its import alone warns

from tests.support.waiting import until
from tests.unit.local.arm.conftest import Cloud, admin, refused

pytestmark = pytest.mark.filterwarnings("ignore:::azure|marshmallow|msal")
WORKSPACES = "Microsoft.MachineLearningServices/workspaces"


@pytest.fixture(scope="module")
def dependencies(cloud: Cloud) -> dict[str, str]:
    """In the group whose workspace is the real one."""
    cloud.group = os.environ["AZURE_RESOURCE_GROUP"]
    cloud.resources.resource_groups.create_or_update(cloud.group, {"location": "eastus"})
    return cloud.workspace_dependencies("chat1")


@pytest.fixture
def ml(cloud: Cloud, dependencies: dict[str, str]) -> Any:
    """The ML client on the real workspace, made where it is missing."""
    from azure.ai.ml import MLClient

    name = os.environ["AZUREML_WORKSPACE_NAME"]
    cloud.workspace(name, dependencies)
    return MLClient(cloud.credential, cloud.subscription, cloud.group, name)


def client(cloud: Cloud, name: str) -> Any:
    from azure.ai.ml import MLClient

    return MLClient(cloud.credential, cloud.subscription, cloud.group, name)


def test_a_workspace_needs_its_dependencies(cloud: Cloud, dependencies: dict[str, str]) -> None:
    for name in ("storageAccount", "keyVault"):
        rest = {key: value for key, value in dependencies.items() if key != name}
        refused("BadRequest", partial(cloud.workspace, "w-one", rest))
    wrong = {**dependencies, "containerRegistry": dependencies["containerRegistry"] + "x"}
    refused("ResourceNotFound", lambda: cloud.workspace("w-one", wrong))
    refused("BadRequest", lambda: cloud.workspace("x", dependencies))
    refused("BadRequest", lambda: cloud.workspace("w-one", dependencies, kind="Spaceship"))


def test_the_workspace_that_was_made_is_the_real_one(cloud: Cloud, ml: Any, tmp_path: Path) -> None:
    from azure.ai.ml.entities import Model

    assert ml.workspaces.get(ml.workspace_name).storage_account.endswith("/stchat1")
    assert ml.datastores.get_default().account_name == "stchat1"
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "weights.txt").write_text("1")
    made = ml.models.create_or_update(Model(path=str(tmp_path / "m"), name="small", version="1", type="custom_model"))
    ml.models.download("small", "1", download_path=str(tmp_path / "back"))
    assert [path.read_text() for path in (tmp_path / "back").rglob("weights.txt")] == ["1"]
    assert "azureml://" in made.path
    again = cloud.workspace(ml.workspace_name, {"friendlyName": "Ours"})
    assert again["properties"]["friendlyName"] == "Ours"
    refused("BadRequest", lambda: cloud.workspace(ml.workspace_name, {"storageAccount": "/other"}))


def test_blobs_need_a_role(cloud: Cloud, ml: Any) -> None:
    from azure.core.exceptions import HttpResponseError
    from azure.storage.blob import BlobServiceClient

    del ml
    with BlobServiceClient("https://stchat1.blob.core.windows.net", credential=cloud.credential) as service:
        blob = service.get_blob_client("azureml", "roles/one.txt")
        blob.upload_blob(b"one", overwrite=True)
        admin("role-assignments?role=Storage%20Blob%20Data%20Contributor", "DELETE")
        try:
            for work in (blob.download_blob, lambda: blob.upload_blob(b"two", overwrite=True), blob.delete_blob):
                with pytest.raises(HttpResponseError) as caught:
                    work()
                assert caught.value.status_code == 403
                assert caught.value.error_code == "AuthorizationPermissionMismatch"
            admin("role-assignments", "POST", {"role": "Storage Blob Data Reader"})
            assert blob.download_blob().readall() == b"one"
            with pytest.raises(HttpResponseError):
                blob.delete_blob()
        finally:
            admin("role-assignments?role=Storage%20Blob%20Data%20Reader", "DELETE")
            admin("role-assignments", "POST", {"role": "Storage Blob Data Contributor"})
        blob.delete_blob()


def test_an_endpoint_is_given_an_identity_that_there_is(cloud: Cloud, ml: Any) -> None:
    from azure.ai.ml.entities import IdentityConfiguration, ManagedIdentityConfiguration, ManagedOnlineEndpoint

    identity = cloud.identity("id-endpoint")

    def endpoint(identity_id: str) -> ManagedOnlineEndpoint:
        given = [ManagedIdentityConfiguration(resource_id=identity_id)]
        user = IdentityConfiguration(type="user_assigned", user_assigned_identities=given)
        return ManagedOnlineEndpoint(name="chat-with-identity", auth_mode="key", identity=user)

    refused(
        "FailedIdentityOperation",
        lambda: ml.online_endpoints.begin_create_or_update(endpoint(identity.id + "x")).result(),
    )
    made = ml.online_endpoints.begin_create_or_update(endpoint(identity.id)).result()
    (shown,) = cloud.call("GET", made.id)[1]["identity"]["userAssignedIdentities"].values()
    assert shown == {"principalId": identity.principal_id, "clientId": identity.client_id}
    ml.online_endpoints.begin_delete("chat-with-identity").result()


def test_who_may_not_read_runs_reads_none(cloud: Cloud, ml: Any) -> None:
    from azure.core.rest import HttpRequest

    path = f"/history/v1.0{ml.workspaces.get(ml.workspace_name).id}/experiments/x/runs/none"
    request = HttpRequest("GET", f"https://eastus.api.azureml.ms{path}")
    assert cloud.resources.send_request(request).status_code == 404
    admin("role-assignments?role=Owner", "DELETE")
    try:
        answer = cloud.resources.send_request(request)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "AuthorizationFailed")
    finally:
        admin("role-assignments", "POST", {"role": "Owner"})


def test_a_hub_a_project_and_its_connection(cloud: Cloud, ml: Any, dependencies: dict[str, str]) -> None:
    from azure.ai.ml.entities import WorkspaceConnection

    hub = cloud.workspace("hub-one", {key: dependencies[key] for key in ("storageAccount", "keyVault")}, kind="Hub")
    refused("BadRequest", lambda: cloud.workspace("project-one", {"hubResourceId": hub["id"] + "x"}, kind="Project"))
    project = cloud.workspace("project-one", {"hubResourceId": hub["id"]}, kind="project")
    assert project["properties"]["storageAccount"] == dependencies["storageAccount"]
    kinds = {each.name: each._kind for each in ml.workspaces.list()}
    assert kinds == {"local": "default", "hub-one": "hub", "project-one": "project"}
    body = {
        "properties": {
            "category": "CustomKeys",
            "authType": "CustomKeys",
            "target": "_",
            "credentials": {"keys": {"key": "very-secret", "endpoint": "https://one.example/score"}},
            "metadata": {"managed-by": "mlops"},
        }
    }
    connection_id = f"{project['id']}/connections/chat"
    made = cloud.put(connection_id, body)
    assert "very-secret" not in json.dumps([made, cloud.get(connection_id)])
    secret = cloud.call("POST", f"{connection_id}/listSecrets")[1]["properties"]["credentials"]
    assert secret == {"keys": {"key": "very-secret", "endpoint": "https://one.example/score"}}
    inside = client(cloud, "project-one")
    connection = inside.connections.get("chat")
    assert isinstance(connection, WorkspaceConnection)
    assert [each.name for each in inside.connections.list()] == ["chat"]
    refused("Conflict", lambda: cloud.resources.resources.begin_delete_by_id(hub["id"], api_version="1").result())
    with pytest.raises(Exception, match="runs jobs and serves models in 'local' only"):
        inside.models.create_or_update(model())
    inside.connections.delete("chat")
    assert cloud.call("GET", connection_id)[0] == 404
    for each in (project, hub):
        cloud.delete(each["id"])
    assert {each.name for each in ml.workspaces.list()} == {"local"}


def model() -> Any:
    from azure.ai.ml.entities import Model

    return Model(path="azureml://jobs/x/outputs/y", name="small", version="1", type="custom_model")


def test_a_deleted_workspace_keeps_its_name_until_it_is_purged(
    cloud: Cloud, ml: Any, dependencies: dict[str, str]
) -> None:
    from azure.ai.ml.entities import ManagedOnlineEndpoint

    ml.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="chat-gone", auth_mode="key")).result()
    name = ml.workspace_name
    ml.workspaces.begin_delete(name, delete_dependent_resources=False).result()
    workspace_id = cloud.id_of(WORKSPACES, name)
    until(lambda: cloud.call("GET", workspace_id)[0] == 404)
    refused("ResourceNotFound", lambda: ml.online_endpoints.get("chat-gone"))
    refused("Conflict", lambda: cloud.workspace(name, dependencies))
    recovered = cloud.workspace(name, {**dependencies, "allowRecoverSoftDeletedWorkspace": True})
    assert recovered["properties"]["provisioningState"] == "Succeeded"
    ml.workspaces.begin_delete(name, delete_dependent_resources=False, permanently_delete=True).result()
    until(lambda: cloud.call("GET", workspace_id)[0] == 404)
    cloud.workspace(name, dependencies)
    assert list(ml.online_endpoints.list()) == []


def test_the_state_outlives_the_daemon_and_the_group_does_not(cloud: Cloud, ml: Any) -> None:
    from azure.storage.blob import BlobServiceClient

    service = BlobServiceClient("https://stchat1.blob.core.windows.net", credential=cloud.credential)
    with service:
        service.get_blob_client("azureml", "kept.txt").upload_blob(b"kept", overwrite=True)
        cloud.local.stop()
        cloud.local.start()
        assert service.get_blob_client("azureml", "kept.txt").download_blob().readall() == b"kept"
        assert ml.datastores.get_default().account_name == "stchat1"
        cloud.resources.resource_groups.begin_delete(cloud.group).result()
        assert cloud.call("GET", cloud.id_of(WORKSPACES, ml.workspace_name))[0] == 404
        cloud.local.stop()
        cloud.local.start()
        assert cloud.resources.resource_groups.check_existence(cloud.group) is False
