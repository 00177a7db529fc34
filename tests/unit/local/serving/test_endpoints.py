"""Endpoints and deployments on the wire: states, headers, refusals."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from mlops.local.state.operations import OperationFailed
from tests.support.waiting import HANG_S, until_async
from tests.unit.local.serving.bench import Bench

LOCATIONS = "/providers/Microsoft.MachineLearningServices/locations/eastus/"


def problem(answer: Any) -> Any:
    """The inferencing service's own error inside the detail."""
    error = answer.json()["error"]
    assert error["code"] == "BadRequest"
    assert {item["type"] for item in error["additionalInfo"]} >= {"ComponentName", "Correlation", "Time"}
    text = error["details"][0]["message"]
    return json.loads(text[text.index("{") :])["errors"]


async def test_an_endpoint_is_made_and_deleted(bench: Bench) -> None:
    body = {"location": "eastus", "properties": {"authMode": "Key", "traffic": {}, "mirrorTraffic": {}}}
    made = await bench.arm("PUT", "onlineEndpoints/chat", body)
    assert made.status_code == 201
    assert LOCATIONS + "mfeOperationsStatus/oe:" in made.headers["Azure-AsyncOperation"]
    assert made.headers["x-ms-async-operation-timeout"] == "PT30M"
    assert made.headers["Location"].split("?")[0].endswith("/onlineEndpoints/chat")
    shown = made.json()
    assert shown["properties"]["provisioningState"] == "Creating"
    assert shown["properties"]["scoringUri"] is None
    assert (await bench.arm("PUT", "onlineEndpoints/chat", body)).status_code == 409
    await bench.done(made)
    document = (await bench.arm("GET", "OnlineEndpoints/CHAT")).json()
    assert document["properties"]["scoringUri"] == "https://chat.eastus.inference.ml.azure.com/score"
    assert document["properties"]["provisioningState"] == "Succeeded"
    assert document["properties"]["properties"]["azureml.onlineendpointid"] == document["id"].lower()
    assert document["identity"]["principalId"]
    gone = await bench.arm("DELETE", "onlineEndpoints/chat")
    assert (gone.status_code, gone.json()) == (202, None)
    assert "mfeOperationResults" in gone.headers["Location"]
    assert (await bench.arm("GET", "onlineEndpoints/chat")).json()["properties"]["provisioningState"] == "Deleting"
    await bench.done(gone)
    assert (await bench.arm("DELETE", "onlineEndpoints/chat")).status_code == 204
    assert (await bench.arm("GET", "onlineEndpoints/chat")).json()["error"]["code"] == "NotFound"
    await bench.endpoint("chat")  # the name is free again


@pytest.mark.parametrize("name", ["ab", "1abc", "abc-", "a_b_c", "a" * 33, "abc.def"])
async def test_illegal_names(bench: Bench, name: Any) -> None:
    refused = await bench.arm("PUT", f"onlineEndpoints/{name}", {"properties": {"authMode": "Key"}})
    assert "not valid" in problem(refused)["Name"][0]


@pytest.mark.parametrize("bench", [{"taken_names": frozenset({"taken-by-others"}), "endpoints": 2}], indirect=True)
async def test_names_of_others_and_the_number_of_endpoints(bench: Bench) -> None:
    refused = await bench.arm("PUT", "onlineEndpoints/Taken-by-Others", {"properties": {"authMode": "Key"}})
    assert refused.status_code == 400
    assert "There is already an endpoint with this name" in problem(refused)[""][0]
    await bench.endpoint("one")
    await bench.endpoint("two")
    refused = await bench.arm("PUT", "onlineEndpoints/three", {"properties": {"authMode": "Key"}})
    assert "Endpoint Quota reached" in refused.text
    assert "2/2" in refused.text


async def test_traffic_at_creation_and_an_unknown_mode_are_refused(bench: Bench) -> None:
    body = {"properties": {"authMode": "Key", "traffic": {"blue": 100}}}
    assert "does not exist" in problem(await bench.arm("PUT", "onlineEndpoints/chat", body))["Traffic"][0]
    body = {"properties": {"authMode": "Password"}}
    assert "Password" in problem(await bench.arm("PUT", "onlineEndpoints/chat", body))["AuthMode"][0]


async def test_a_workspace_that_is_another(bench: Bench) -> None:
    other = bench.ws.replace("/workspaces/local", "/workspaces/other")
    body = {"properties": {"authMode": "Key"}}
    assert (await bench.arm("PUT", f"{other}/onlineEndpoints/chat", body)).status_code == 404


async def test_a_deployment_lives_and_dies(bench: Bench) -> None:
    endpoint = await bench.endpoint()
    path = f"onlineEndpoints/{endpoint}/deployments/blue"
    made = await bench.put(endpoint, "blue")
    assert made.status_code == 201
    assert "mfeOperationsStatus/od:" in made.headers["Azure-AsyncOperation"]
    shown = made.json()["properties"]
    assert shown["provisioningState"] == "Creating"
    assert shown["scaleSettings"] == {"scaleType": "Default"}
    assert shown["requestSettings"]["requestTimeout"] == "PT5S"
    assert shown["livenessProbe"]["failureThreshold"] == 30
    assert (await bench.put(endpoint, "blue")).status_code == 409
    await bench.done(made)
    assert (await bench.arm("GET", path)).json()["properties"]["provisioningState"] == "Succeeded"
    assert (await bench.score(endpoint, {})).status_code == 404
    answer = await bench.score(endpoint, {"hi": 1}, to="blue")
    assert answer.status_code == 200
    assert answer.json()["slot"] == "blue"

    model_dir = Path(answer.json()["model"])  # laid out as on Azure, and linked, not copied
    assert model_dir.parts[-3:] == ("azureml-models", "m", "1")
    assert (model_dir / "weights" / "weights.bin").stat().st_ino == (
        bench.assets.models["m"] / "weights.bin"
    ).stat().st_ino

    before = await bench.traffic(endpoint, {"blue": 100})
    assert before.json()["properties"]["traffic"] == {}  # the old traffic until the operation has succeeded
    assert (await bench.arm("GET", f"onlineEndpoints/{endpoint}")).json()["properties"]["traffic"] == {}
    await bench.done(before)
    assert (await bench.score(endpoint, {})).status_code == 200
    refused = await bench.arm("DELETE", path)
    assert refused.status_code == 409
    assert "100 % of live traffic" in refused.text

    await bench.route(endpoint, {})  # what a freshly built endpoint sends: it really clears the traffic
    assert (await bench.score(endpoint, {})).status_code == 404
    gone = await bench.arm("DELETE", path)
    assert gone.status_code == 202
    await bench.done(gone)
    assert (await bench.arm("DELETE", path)).status_code == 204
    assert (await bench.score(endpoint, {}, to="blue")).status_code == 404
    assert not list(bench.workspace.layout.deployments.glob("*/blue/*/*"))


async def test_a_deleted_deployment_leaves_the_traffic_map(bench: Bench) -> None:
    endpoint = await bench.endpoint()
    await asyncio.gather(bench.deployment(endpoint, "blue"), bench.deployment(endpoint, "green"))
    await bench.route(endpoint, {"blue": 0, "green": 100})
    await bench.done(await bench.arm("DELETE", f"onlineEndpoints/{endpoint}/deployments/blue"))
    assert (await bench.arm("GET", f"onlineEndpoints/{endpoint}")).json()["properties"]["traffic"] == {"green": 100}
    assert (await bench.score(endpoint)).json()["slot"] == "green"


async def test_deleting_the_endpoint_deletes_its_deployments(bench: Bench) -> None:
    endpoint = await bench.endpoint()
    await asyncio.gather(bench.deployment(endpoint, "blue"), bench.deployment(endpoint, "green"))
    await bench.route(endpoint, {"blue": 90, "green": 10})
    await bench.done(await bench.arm("DELETE", f"onlineEndpoints/{endpoint}"))
    assert not bench.serving.fleet.running
    assert (await bench.arm("GET", f"onlineEndpoints/{endpoint}/deployments")).status_code == 404


async def test_refused_traffic(bench: Bench) -> None:
    endpoint = await bench.endpoint()
    await bench.deployment(endpoint, "Blue")
    for traffic, mirror, said in [
        ({"blue": 50}, {}, "0 or 100"),
        ({"green": 100}, {}, "does not exist"),
        ({"blue": 100}, {"blue": 20}, "live traffic"),
        ({"blue": 0}, {"blue": 60}, "at most 50 %"),
    ]:
        refused = await bench.traffic(endpoint, traffic, mirrorTraffic=mirror)
        assert refused.status_code == 400
        assert said in problem(refused)["Traffic"][0]
    await bench.route(endpoint, {"blue": 100})
    shown = (await bench.arm("GET", f"onlineEndpoints/{endpoint}")).json()["properties"]
    assert shown["traffic"] == {"Blue": 100}  # by the deployment's own name
    assert shown["provisioningState"] == "Succeeded"


@pytest.mark.parametrize(
    ("change", "field", "said"),
    [
        ({"instanceType": "Standard_NC6s_v3"}, "VmSize", "retired on 2025-09-30"),
        ({"instanceType": "Standard_Huge"}, "VmSize", "Not supported VM Size"),
        ({"instanceType": None}, "VmSize", "missing"),
        ({"instanceType": "Standard_D2_v2"}, "VmSize", "cannot serve"),
        ({"requestSettings": {"requestTimeout": "PT4M"}}, "RequestSettings.RequestTimeout", "at most 180"),
        ({"requestSettings": {"requestTimeout": "soon"}}, "RequestSettings", "ISO 8601"),
        ({"codeConfiguration": {"codeId": "azureml:x:1"}}, "CodeConfiguration", "scoring script"),
        ({"codeConfiguration": None}, "CodeConfiguration", "custom_model"),
        ({"endpointComputeType": "Kubernetes"}, "EndpointComputeType", "Managed"),
    ],
)
async def test_refused_deployments(bench: Bench, change: Any, field: Any, said: Any) -> None:
    endpoint = await bench.endpoint()
    refused = await bench.put(endpoint, "blue", **change)
    assert refused.status_code == 400, refused.text
    assert said in problem(refused)[field][0]
    assert (await bench.arm("GET", f"onlineEndpoints/{endpoint}/deployments/blue")).status_code == 404


async def test_missing_things(bench: Bench) -> None:
    assert (await bench.put("nobody", "blue")).status_code == 404
    endpoint = await bench.endpoint()
    refused = await bench.put(endpoint, "blue", model=f"{bench.ws}/models/other/versions/1")
    assert "The model" in refused.text
    assert "was not found" in refused.text
    assert "not valid" in problem(await bench.put(endpoint, "b"))["Name"][0]
    assert "from 1 to 50" in problem(await bench.put(endpoint, "blue", instances=51))["Sku.Capacity"][0]


@pytest.mark.parametrize(
    "bench", [{"quotas": {"standardDSv2Family": 12}, "deployments_per_endpoint": 2}], indirect=True
)
async def test_quota(bench: Bench) -> None:
    endpoint = await bench.endpoint()
    refused = await bench.put(endpoint, "blue", instances=3)
    error = refused.json()["error"]["details"][0]
    assert error["code"] == "InferencingClientCreateDeploymentFailed"
    assert "Not enough quota available for Standard_DS3_v2" in error["message"]
    assert "Current usage/limit: 0/12. Additional needed: 16" in error["message"]
    await bench.deployment(endpoint, "blue", instances=1)
    assert "Current usage/limit: 8/12. Additional needed: 8" in (await bench.put(endpoint, "green")).text
    await bench.deployment(endpoint, "blue", instances=2)  # its own use does not count against it
    await bench.deployment(endpoint, "green", instanceType="Standard_F2s_v2")
    assert "2 deployments at most" in (await bench.put(endpoint, "red", instanceType="Standard_F2s_v2")).text


async def test_no_change_while_another_is_under_way(bench: Bench) -> None:
    endpoint = await bench.endpoint()
    await bench.deployment(endpoint, "blue")
    running = await bench.traffic(endpoint, {"blue": 100})
    for refused in (
        await bench.put(endpoint, "green"),
        await bench.traffic(endpoint, {}),
        await bench.arm("DELETE", f"onlineEndpoints/{endpoint}/deployments/blue"),
        await bench.arm("DELETE", f"onlineEndpoints/{endpoint}"),
    ):
        assert refused.status_code == 409
        assert "'Updating'" in refused.text
    await bench.done(running)


async def test_a_script_that_fails_ends_the_deployment_as_failed_and_keeps_the_logs(bench: Bench) -> None:
    endpoint = await bench.endpoint()
    made = await bench.put(endpoint, "blue", env={"FAIL_INIT": "1"})
    ended = await bench.done(made, "Failed")
    assert ended["error"]["code"] == "ResourceNotReady"
    assert "User container has crashed or terminated" in ended["error"]["message"]
    path = f"onlineEndpoints/{endpoint}/deployments/blue"
    assert (await bench.arm("GET", path)).json()["properties"]["provisioningState"] == "Failed"
    logs = (await bench.arm("POST", f"{path}/getLogs", {"tail": 500})).json()["content"]
    assert "no model today" in logs
    assert "UserContainerStart: Failed" in logs
    assert "Back-off restarting failed container" in logs
    assert (await bench.score(endpoint, {}, to="blue")).status_code == 404
    refused = await bench.traffic(endpoint, {"blue": 100})
    assert "provisioning state is 'Failed'" in problem(refused)["Traffic"][0]
    await bench.deployment(endpoint, "blue")  # mended
    assert (await bench.score(endpoint, {}, to="blue")).status_code == 200


async def test_probes_too_short_for_a_slow_model(bench: Bench) -> None:
    endpoint = await bench.endpoint()
    probe = {"initialDelay": "PT0.5S", "period": "PT0.5S", "failureThreshold": 1}
    made = await bench.put(endpoint, "blue", env={"SLOW_INIT": "20"}, readinessProbe=probe)
    ended = await bench.done(made, "Failed")
    assert "readiness probe" in ended["error"]["message"]
    assert not bench.serving.fleet.running


async def test_logs_of_both_containers(bench: Bench) -> None:
    endpoint = await bench.endpoint()
    await bench.deployment(endpoint, "blue")
    path = f"onlineEndpoints/{endpoint}/deployments/blue/getLogs"
    server = (await bench.arm("POST", path, {"containerType": "InferenceServer", "tail": 3})).json()["content"]
    assert server.startswith("Instance status:\nSystemSetup: Succeeded\nUserContainerImagePull: Succeeded\n")
    assert "\n\nContainer events:\nKind: Pod, Name: Pulling, Type: Normal, Time: " in server
    assert len(server.split("Container logs:\n")[1].strip().splitlines()) == 3
    storage = (await bench.arm("POST", path, {"containerType": "StorageInitializer", "tail": 50})).json()["content"]
    assert "Downloaded 1 files, 1000 bytes" in storage


async def test_patch(bench: Bench) -> None:
    endpoint = await bench.endpoint()
    await bench.deployment(endpoint, "blue")
    await bench.route(endpoint, {"blue": 100})
    pid = bench.serving.status()[0]["pids"]
    path = f"onlineEndpoints/{endpoint}"
    patched = await bench.arm("PATCH", path, {"tags": {"team": "chat"}})
    assert (patched.status_code, patched.json()) == (202, None)
    assert "Azure-AsyncOperation" not in patched.headers
    await bench.done(patched)
    document = (await bench.arm("GET", path)).json()
    assert (document["tags"], document["properties"]["traffic"]) == ({"team": "chat"}, {"blue": 100})
    await bench.done(await bench.arm("PATCH", f"{path}/deployments/blue", {"tags": {"a": "b"}}))
    assert bench.serving.status()[0]["pids"] == pid  # tags restart nothing
    await bench.done(await bench.arm("PATCH", f"{path}/deployments/blue", {"sku": {"capacity": 2}}))
    assert len(bench.serving.status()[0]["pids"]) == 2
    document = (await bench.arm("GET", f"{path}/deployments/blue")).json()
    assert (document["sku"]["capacity"], document["tags"]) == (2, {"a": "b"})
    assert (await bench.arm("PATCH", path, {"properties": {"traffic": {}}})).status_code == 400


async def test_keys(bench: Bench) -> None:
    endpoint = await bench.endpoint()
    first, second = await bench.key(endpoint), await bench.key(endpoint, "secondaryKey")
    assert len(first) == 32
    path = f"onlineEndpoints/{endpoint}/regenerateKeys"
    begun = await bench.arm("POST", path, {"keyType": "Primary"})
    assert (begun.status_code, begun.json()) == (202, None)
    assert "mfeOperationResults/oe:" in begun.headers["Location"]
    await bench.done(begun)
    assert await bench.key(endpoint) != first
    assert await bench.key(endpoint, "secondaryKey") == second
    assert (await bench.arm("POST", path, {"keyType": "Tertiary"})).status_code == 400
    assert (await bench.arm("POST", f"onlineEndpoints/{endpoint}/token")).status_code == 400


async def test_operations_of_nobody(bench: Bench) -> None:
    answer = await bench.arm("GET", f"/subscriptions/s{LOCATIONS}mfeOperationResults/oe:w:deadbeef")
    assert answer.status_code == 404
    assert "There is no operation with id deadbeef" in answer.text


@pytest.mark.parametrize("bench", [{"lazy": True}], indirect=True)
async def test_deployments_that_sleep_until_they_are_asked(bench: Bench) -> None:
    endpoint = await bench.endpoint()
    await bench.deployment(endpoint, "blue", requestSettings={"requestTimeout": "PT2M"})  # the process starts meanwhile
    assert bench.serving.status()[0]["pids"] == [0]
    assert (await bench.score(endpoint, to="blue")).json()["slot"] == "blue"
    assert bench.serving.status()[0]["healthy"] == 1


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("endpoint.write", lambda bench, name: bench.traffic(name, {"blue": 0, "green": 100})),
        ("endpoint.delete", lambda bench, name: bench.arm("DELETE", f"onlineEndpoints/{name}")),
        ("deployment.write", lambda bench, name: bench.put(name, "blue", env={"NEW": "1"})),
        ("deployment.delete", lambda bench, name: bench.arm("DELETE", f"onlineEndpoints/{name}/deployments/green")),
    ],
)
async def test_an_operation_that_fails_changes_no_traffic_and_can_be_repeated(
    bench: Bench, kind: Any, change: Any
) -> None:
    endpoint = await bench.endpoint()
    await asyncio.gather(bench.deployment(endpoint, "blue"), bench.deployment(endpoint, "green"))
    await bench.route(endpoint, {"blue": 100})
    strikes = [kind]

    async def strike(which: str, resource: str) -> None:
        if which in strikes:
            strikes.remove(which)
            raise OperationFailed("InternalServerError", "as the test wished")

    bench.workspace.operations.before = strike
    ended = await bench.done(await change(bench, endpoint), "Failed")
    assert ended["error"]["message"] == "as the test wished"
    for _ in range(3):
        assert (await bench.score(endpoint)).json()["slot"] == "blue"
    await bench.done(await change(bench, endpoint))


async def test_an_endpoint_deleted_while_a_deployment_starts(bench: Bench) -> None:
    endpoint = await bench.endpoint()
    starting = await bench.put(endpoint, "blue", env={"SLOW_INIT": str(HANG_S)})
    await until_async(lambda: list(bench.workspace.layout.deployments.glob("*/*/*/instance-*.json")))
    await bench.done(await bench.arm("DELETE", f"onlineEndpoints/{endpoint}"))
    ended = await bench.done(starting, "Failed")
    assert ended["error"]["code"] in ("ResourceNotFound", "OperationCanceled")
    assert not bench.serving.fleet.running
    assert not list(bench.workspace.layout.deployments.glob("*/*/*/*"))


@pytest.mark.parametrize("body", [{"tail": "many"}, {"tail": [1]}])
async def test_logs_with_a_wrong_number_of_lines(bench: Bench, body: Any) -> None:
    bench.workspace.store.put(f"{bench.ws}/onlineEndpoints/e1/deployments/blue", {"id": "x", "properties": {}})
    refused = await bench.arm("POST", "onlineEndpoints/e1/deployments/blue/getLogs", body)
    assert refused.status_code == 400


@pytest.mark.parametrize(
    "change",
    [
        {"requestSettings": [1]},
        {"livenessProbe": "often"},
        {"environmentVariables": "A=1"},
        {"environmentVariables": {"A": 1}},
        {"environmentVariables": {"A=B": "1"}},
        {"environmentVariables": {"A": "\0"}},
        {"codeConfiguration": {"codeId": "azureml:c:1", "scoringScript": {"a": "b"}}},
        {"requestSettings": {"maxConcurrentRequestsPerInstance": "many"}},
        {"scaleSettings": 3},
        {"codeConfiguration": {"codeId": "c", "scoringScript": "../../evil.py"}},
        {"codeConfiguration": {"codeId": "c", "scoringScript": "/etc/evil.py"}},
        {"model": 7},
    ],
)
async def test_shapes_that_nobody_sends(bench: Bench, change: Any) -> None:
    endpoint = await bench.endpoint()
    assert (await bench.put(endpoint, "blue", **change)).status_code == 400


async def test_an_update_that_fails_leaves_what_served_in_service(bench: Bench) -> None:
    endpoint = await bench.endpoint()
    await bench.deployment(endpoint, "blue", env={"COUNT_FILE": "/dev/null"})
    await bench.route(endpoint, {"blue": 100})
    first = (await bench.score(endpoint)).json()["pid"]
    await bench.done(await bench.put(endpoint, "blue", env={"FAIL_INIT": "1"}), "Failed")
    assert (await bench.score(endpoint)).json()["pid"] == first
    path = f"onlineEndpoints/{endpoint}/deployments/blue"
    logs = (await bench.arm("POST", f"{path}/getLogs", {"tail": 0})).json()["content"]
    assert "no model today" in logs  # of the attempt that failed
    served = bench.workspace.store.private(f"{bench.ws}/{path}")["served"]["properties"]["environmentVariables"]
    assert served == {"SLOT": "blue", "COUNT_FILE": "/dev/null"}  # for a daemon that must start it again
    await bench.deployment(endpoint, "blue")
    assert (await bench.score(endpoint)).json()["pid"] != first


@pytest.mark.parametrize(
    "change",
    [
        {"tags": [1]},
        {"tags": {"a": {"b": 1}}},
        {"identity": 7},
        {"identity": {"type": []}},
        {"location": {}},
        {"properties": []},
        {"properties": {"authMode": "Key", "traffic": [1]}},
        {"properties": {"authMode": "Key", "properties": "x"}},
    ],
)
async def test_endpoints_of_shapes_that_nobody_sends(bench: Bench, change: Any) -> None:
    body = {"location": "eastus", "properties": {"authMode": "Key"}, **change}
    assert (await bench.arm("PUT", "onlineEndpoints/chat", body)).status_code == 400
