"""What clients that were not written for this workspace send: every list, and bodies that fit nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlops.local.arm.unsupported import KINDS
from mlops.local.state.config import Config
from tests.unit.local.conftest import Local, make_local
from tests.unit.local.daemon.test_app import Door

CONFIG = Config()
VERSION = "?api-version=2024-10-01"
ODD: list[Any] = [None, [], {}, "x", 5, True, 1e308, [None], ["a"], {"a": [1]}, {"a": None}, "\ud800"]
COMMAND = {
    "jobType": "Command",
    "command": "echo",
    "environmentId": "azureml:none:1",
    "computeId": "nowhere",
    "inputs": {"a": {"jobInputType": "literal", "value": "1"}},
    "outputs": {"o": {"jobOutputType": "uri_folder"}},
    "distribution": {"distributionType": "PyTorch"},
    "resources": {"instanceCount": 1},
    "limits": {"timeout": "PT1H"},
    "environmentVariables": {"A": "b"},
}
PIPELINE = {
    "jobType": "Pipeline",
    "inputs": {"a": {"jobInputType": "literal", "value": "1"}},
    "outputs": {"o": {"jobOutputType": "uri_folder"}},
    "settings": {"default_compute": "serverless"},
    "jobs": {"s": {"type": "command", "componentId": "azureml:none:1", "inputs": {"a": {"value": "1"}}, "outputs": {}}},
}
SPECIFICATION = {"componentSpec": {"type": "command", "command": "echo", "inputs": {"a": {"type": "string"}}}}
BLOBS = {
    "datastoreType": "AzureBlob",
    "accountName": "mlopslocal",
    "containerName": "azureml",
    "credentials": {"credentialsType": "None"},
}
BODIES = [
    ("PUT", "/jobs/odd-command-{}", COMMAND),
    ("PUT", "/jobs/odd-pipeline-{}", PIPELINE),
    ("PUT", "/components/odd-{}/versions/1", SPECIFICATION),
    ("PUT", "/components/azureml_anonymous/versions/{}", SPECIFICATION),
    ("PUT", "/datastores/odd_{}", BLOBS),
    ("PUT", "/models/odd-{}/versions/1", {"modelUri": "azureml://datastores/workspaceblobstore/paths/none"}),
    ("PATCH", "", {"description": None, "tags": {}}),
]


class Stranger(Door):
    """Speaks to the workspace's own id with a token."""

    def __init__(self, local: Local) -> None:
        super().__init__(local)
        self.authorization = f"Bearer {self.token()}"

    def call(self, method: str, path: str, body: Any = None, *, query: str = VERSION) -> tuple[int, Any]:
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        target = CONFIG.workspace_id + path + query
        status, answer = self.ask("management.azure.com", target, method, raw, Authorization=self.authorization)
        return status, json.loads(answer) if answer else None


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Iterator[Stranger]:
    """To a workspace of its own: what it leaves there is nothing that other tests should find."""
    local = make_local(tmp_path_factory.mktemp("strangers"), shared_cache)
    local.start()
    yield Stranger(local)
    local.stop()


def changed(value: Any, odd: Any) -> list[Any]:
    """The value with each of its parts replaced in turn."""
    variants = [odd]
    if isinstance(value, dict):
        variants += [{**value, key: one} for key, item in value.items() for one in changed(item, odd)]
    return variants


@pytest.mark.parametrize(("method", "path", "properties"), BODIES)
def test_no_body_is_a_bug(stranger: Stranger, method: str, path: str, properties: dict[str, Any]) -> None:
    sent = [one for odd in ODD for one in changed({"properties": properties}, odd)]
    for number, body in enumerate(sent):
        status, answer = stranger.call(method, path.format(f"{method.lower()}{number}"), body)
        assert status < 500, (body, answer)
    status, answer = stranger.call(method, path.format("last"), {"properties": properties, "tags": "none"})
    assert (status, answer["error"]["code"]) == (400, "BadRequest")
    assert "'tags' must be a JSON object" in answer["error"]["message"]


@pytest.mark.parametrize(
    "raw",
    [b"{", b"[]", b"\xff", b'{"a": NaN}', b'{"a": 1e999}', b'{"a":' * 900 + b"1" + b"}" * 900, b"[" * 200_000],
    ids=["broken", "list", "no text", "not a number", "infinite", "deep", "endless"],
)
def test_what_is_no_json_object_is_refused(stranger: Stranger, raw: bytes) -> None:
    status, answer = stranger.call("PUT", "/environments/odd/versions/1", raw)
    assert (status, answer["error"]["code"]) == (400, "BadRequest")


@pytest.mark.parametrize("kind", [kind.removeprefix("workspaces") for kind in KINDS if kind.startswith("workspaces/")])
def test_lists_of_what_is_not_offered_are_empty(stranger: Stranger, kind: str) -> None:
    assert stranger.call("GET", kind) == (200, {"value": []})
    assert stranger.call("GET", f"{kind}/none")[0] == 404
    assert stranger.call("PUT", f"{kind}/none", {"properties": {}})[0] == 400
    assert stranger.call("DELETE", f"{kind}/none")[0] == 204


@pytest.mark.parametrize("kind", ["computes", "datastores", "onlineEndpoints", "jobs", "models"])
def test_pages(stranger: Stranger, kind: str) -> None:
    assert stranger.call("GET", f"/{kind}", query=f"{VERSION}&$top=x")[0] == 400
    assert stranger.call("GET", f"/{kind}", query=f"{VERSION}&$skip=x")[0] == 400
    status, page = stranger.call("GET", f"/{kind}", query=f"{VERSION}&$maxpagesize=1&searchText=a%26b")
    assert status == 200
    status, page = stranger.call("GET", "/datastores", query=f"{VERSION}&count=1&searchText=work")
    assert len(page["value"]) == 1
    query = page["nextLink"].partition("datastores")[2]
    status, page = stranger.call("GET", "/datastores", query=query)
    assert status == 200
    assert len(page["value"]) == 1


def test_the_workspaces_keys(stranger: Stranger) -> None:
    status, keys = stranger.call("POST", "/listKeys")
    assert status == 200
    assert keys["userStorageKey"] == stranger.call("POST", "/listStorageAccountKeys")[1]["userStorageKey"]
    status, secrets = stranger.call("POST", "/datastores/workspaceblobstore/listSecrets")
    assert secrets["key"] == keys["userStorageKey"]


def test_a_datastores_name(stranger: Stranger) -> None:
    status, answer = stranger.call("PUT", "/datastores/%2e%2e", {"properties": BLOBS})
    assert status == 400
    assert "not a valid datastore name" in answer["error"]["message"]
