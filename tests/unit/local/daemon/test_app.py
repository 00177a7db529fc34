"""The door behind the proxy: sizes, hosts, speed, and what is written down of each request."""

from __future__ import annotations

import http.client
import json
import ssl
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mlops.local.state.config import Config
from tests.support.waiting import HANG_S
from tests.unit.local.conftest import Local


class Door:
    """A connection to one of the hosts, through the proxy, with a token where one is wanted."""

    def __init__(self, local: Local) -> None:
        self.local = local
        self.context = ssl.create_default_context(cafile=str(local.state / "tls" / "ca.pem"))

    def connect(self, host: str) -> http.client.HTTPSConnection:
        port = self.local.record()["proxy_port"]
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=self.context, timeout=HANG_S)
        connection.set_tunnel(host, 443)
        return connection

    def ask(self, host: str, path: str, method: str = "GET", body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        connection = self.connect(host)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def token(self) -> str:
        credentials = json.loads((self.local.state / "credentials.json").read_text())
        scope = "https%3A%2F%2Fmanagement.azure.com%2F.default"
        form = f"grant_type=client_credentials&client_id={credentials['client_id']}&scope={scope}"
        form += f"&client_secret={credentials['client_secret']}"
        path = f"/{credentials['tenant']}/oauth2/v2.0/token"
        status, raw = self.ask("login.microsoftonline.com", path, "POST", form.encode())
        assert status == 200
        return str(json.loads(raw)["access_token"])


@pytest.fixture
def door(local: Local) -> Door:
    local.start()
    return Door(local)


@pytest.mark.parametrize("host", ["management.azure.com", "eastus.api.azureml.ms", "login.microsoftonline.com"])
def test_oversized_bodies_are_refused(door: Door, host: str) -> None:
    token = door.token()
    size = str(200 * 1024 * 1024)
    path = "/00000000-0000-0000-0000-00000000000a/oauth2/v2.0/token"
    status, _ = door.ask(host, path, "POST", b"begin", Content_Length=size, Authorization=f"Bearer {token}")
    assert status == 413


def test_a_body_without_a_length_has_an_end_too(door: Door) -> None:
    token = door.token()
    connection = door.connect("management.azure.com")
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    chunk = b" " * 1024 * 1024
    path = "/subscriptions/s/resourceGroups/r/providers/Microsoft.MachineLearningServices/workspaces/w/jobs/j"
    try:
        connection.request("PUT", path, iter([chunk] * 6), headers, encode_chunked=True)
        assert connection.getresponse().status == 413
    except (BrokenPipeError, ConnectionResetError):
        pass  # refused while it was still sending
    finally:
        connection.close()


def test_azures_clouds_are_described(door: Door) -> None:
    status, raw = door.ask("management.azure.com", "/metadata/endpoints?api-version=2019-05-01")
    (cloud,) = json.loads(raw)
    assert status == 200
    assert cloud["name"] == "AzureCloud"
    assert cloud["suffixes"]["storage"] == "core.windows.net"


def test_what_stands_around_the_workspace(door: Door) -> None:
    token = door.token()

    def arm(path: str, method: str = "GET") -> tuple[int, dict[str, Any]]:
        url = f"{path}?api-version=2022-12-01"
        status, raw = door.ask("management.azure.com", url, method, Authorization=f"Bearer {token}")
        return status, json.loads(raw or b"{}")

    config = Config()
    subscription = f"/subscriptions/{config.subscription}"
    assert arm("/subscriptions")[1]["value"][0]["subscriptionId"] == config.subscription
    assert arm(subscription)[1]["tenantId"] == config.tenant
    assert arm("/tenants")[0] == 200
    assert arm(f"{subscription}/locations")[1]["value"][0]["name"] == config.region
    assert arm(f"{subscription}/resourcegroups/LOCAL")[1]["location"] == config.region
    assert arm(f"{subscription}/resourceGroups/local", "HEAD")[0] == 204
    assert arm(f"{subscription}/resourceGroups/other")[1]["error"]["code"] == "ResourceGroupNotFound"
    assert arm("/subscriptions/11111111-1111-1111-1111-111111111111")[1]["error"]["code"] == "SubscriptionNotFound"
    provider = arm(f"{subscription}/providers/Microsoft.MachineLearningServices")[1]
    assert provider["registrationState"] == "Registered"
    account = f"{config.group_id}/providers/Microsoft.Storage/storageAccounts/{config.account}"
    assert (
        arm(account)[1]["properties"]["primaryEndpoints"]["blob"] == f"https://{config.account}.blob.core.windows.net/"
    )
    key, _ = arm(f"{account}/listKeys", "POST")[1]["keys"]
    assert key["value"] == json.loads((door.local.state / "credentials.json").read_text())["account_key"]
    assert arm(config.workspace_id)[0] == 200


def test_telemetry_ends_here(door: Door) -> None:
    for host in ("dc.services.visualstudio.com", "eastus-0.in.applicationinsights.azure.com"):
        status, raw = door.ask(host, "/v2.1/track", "POST", b"[]")
        assert (status, json.loads(raw)["errors"]) == (200, [])


def test_requests_are_written_down_without_their_secrets(door: Door) -> None:
    door.ask("mlopslocal.blob.core.windows.net", "/azureml/some%20name%0Aline?sig=SECRET&se=2020")
    lines = (door.local.state / "logs" / "requests.log").read_text().splitlines()
    (line,) = [line for line in lines if "some%20name" in line]
    assert "GET mlopslocal.blob.core.windows.net /azureml/some%20name%0Aline 403" in line
    assert not any("SECRET" in line for line in lines)


def test_many_at_once(door: Door) -> None:
    with ThreadPoolExecutor(32) as pool:
        asked = pool.map(lambda _: door.ask("management.azure.com", "/metadata/endpoints")[0], range(200))
        assert set(asked) == {200}
