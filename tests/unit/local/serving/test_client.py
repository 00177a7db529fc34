"""The endpoint's life through the real client, against a daemon of the tests' own."""

from __future__ import annotations

import json
import os
import signal
import uuid
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.checkout import ROOT
from tests.support.waiting import until
from tests.unit.local.serving.bench import SCORE

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # what the client uses is not ours
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with a scoring script and a model beside it."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "score.py").write_text(SCORE)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.bin").write_bytes(os.urandom(256))
    return tmp_path


def begin(client: Any, source: Path, endpoint: str, slot: str, *, slow_s: float = 0, **more: Any) -> Any:
    """Begin to make a deployment of the script."""
    from azure.ai.ml.entities import CodeConfiguration, Environment, ManagedOnlineDeployment, Model

    return client.online_deployments.begin_create_or_update(
        ManagedOnlineDeployment(
            name=slot,
            endpoint_name=endpoint,
            model=Model(path=str(source / "model"), name=f"weights-{source.name}", version="1"),
            code_configuration=CodeConfiguration(code=str(source / "code"), scoring_script="score.py"),
            environment=Environment(name="serve", version="1", image="mcr.microsoft.com/azureml/minimal:latest"),
            environment_variables={"SLOT": slot, **({"SLOW_INIT": str(slow_s)} if slow_s else {})},
            instance_type="Standard_DS3_v2",
            instance_count=1,
            **more,
        )
    )


def make(client: Any, source: Path, endpoint: str, slot: str, **more: Any) -> Any:
    """Make a deployment of the script and wait for it."""
    return begin(client, source, endpoint, slot, **more).result()


def test_blue_and_green_through_the_client(ml_client: Any, source: Path) -> None:
    from azure.ai.ml.entities import ManagedOnlineEndpoint
    from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError

    name = f"chat-{uuid.uuid4().hex[:10]}"
    with pytest.raises(ResourceNotFoundError):
        ml_client.online_endpoints.get(name)
    endpoint = ml_client.online_endpoints.begin_create_or_update(
        ManagedOnlineEndpoint(name=name, auth_mode="key", tags={"team": "chat"})
    ).result()
    assert endpoint.scoring_uri == f"https://{name}.eastus.inference.ml.azure.com/score"
    assert name in [one.name for one in ml_client.online_endpoints.list()]

    made = make(ml_client, source, name, "blue")
    assert made.provisioning_state == "Succeeded"
    endpoint.traffic = {"blue": 100}
    ml_client.online_endpoints.begin_create_or_update(endpoint).result()
    request = source / "request.json"
    request.write_text(json.dumps({"hello": 1}))
    answer = json.loads(ml_client.online_endpoints.invoke(endpoint_name=name, request_file=str(request)))
    assert answer["slot"] == "blue"
    assert answer["echo"] == {"hello": 1}

    make(ml_client, source, name, "green")
    assert ml_client.online_endpoints.get(name).traffic == {"blue": 100, "green": 0}
    named = ml_client.online_endpoints.invoke(endpoint_name=name, deployment_name="green", request_file=str(request))
    assert json.loads(named)["slot"] == "green"
    logs = ml_client.online_deployments.get_logs(name="green", endpoint_name=name, lines=50)
    assert "init of green" in logs
    storage = ml_client.online_deployments.get_logs(
        name="green", endpoint_name=name, lines=50, container_type="storage-initializer"
    )
    assert "Storage initialized" in storage
    with pytest.raises(ResourceExistsError, match="live traffic"):
        ml_client.online_deployments.begin_delete(name="blue", endpoint_name=name).result()

    keys = ml_client.online_endpoints.get_keys(name)
    ml_client.online_endpoints.begin_regenerate_keys(name, key_type="secondary").result()
    after = ml_client.online_endpoints.get_keys(name)
    assert (after.primary_key == keys.primary_key, after.secondary_key == keys.secondary_key) == (True, False)

    endpoint = ml_client.online_endpoints.get(name)
    endpoint.traffic = {"blue": 60, "green": 60}
    with pytest.raises(HttpResponseError, match="0 or 100"):
        ml_client.online_endpoints.begin_create_or_update(endpoint).result()
    fresh = ManagedOnlineEndpoint(name=name, auth_mode="key")  # the trap: its PUT clears the traffic
    ml_client.online_endpoints.begin_create_or_update(fresh).result()
    assert ml_client.online_endpoints.get(name).traffic == {"blue": 0, "green": 0}
    ml_client.online_deployments.begin_delete(name="blue", endpoint_name=name).result()
    assert [one.name for one in ml_client.online_deployments.list(name)] == ["green"]
    ml_client.online_endpoints.begin_delete(name).result()
    with pytest.raises(ResourceNotFoundError):
        ml_client.online_endpoints.get(name)


def test_endpoints_with_tokens(ml_client: Any, source: Path) -> None:
    from azure.ai.ml.entities import ManagedOnlineEndpoint

    request = source / "request.json"
    request.write_text("{}")
    for mode in ("aml_token", "aad_token"):
        name = f"tok-{uuid.uuid4().hex[:10]}"
        ml_client.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name=name, auth_mode=mode)).result()
        make(ml_client, source, name, "blue")
        answer = ml_client.online_endpoints.invoke(
            endpoint_name=name, deployment_name="blue", request_file=str(request)
        )
        assert json.loads(answer)["slot"] == "blue"
        ml_client.online_endpoints.begin_delete(name).result()


def test_clusters(ml_client: Any) -> None:
    from azure.ai.ml.entities import AmlCompute
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    with pytest.raises(ResourceNotFoundError):
        ml_client.compute.get("gpu-cluster-big")
    cluster = AmlCompute(name="gpu-cluster-big", size="Standard_NC24ads_A100_v4", max_instances=2, tier="Dedicated")
    ml_client.compute.begin_create_or_update(cluster).wait()
    created = ml_client.compute.get("gpu-cluster-big")
    assert created.size == "STANDARD_NC24ADS_A100_V4"
    assert created.provisioning_state == "Succeeded"
    gpus = {size.name.lower(): size.gpus for size in ml_client.compute.list_sizes()}
    assert gpus[created.size.lower()] == 1
    assert len(list(ml_client.compute.list_usage())) > 10
    with pytest.raises(HttpResponseError, match="retired"):
        ml_client.compute.begin_create_or_update(AmlCompute(name="old", size="Standard_NC6s_v3")).wait()
    ml_client.compute.begin_delete("gpu-cluster-big").wait()


@pytest.mark.slow
def test_scoring_processes_outlive_the_daemon(own_local: Any, source: Path) -> None:
    """Killed, the daemon comes back and takes them over; stopped, it takes them along."""
    make_all = f"""
        import json, sys
        from pathlib import Path
        from azure.ai.ml import MLClient
        from azure.ai.ml.entities import ManagedOnlineEndpoint
        from azure.identity import DefaultAzureCredential
        import os
        sys.path.insert(0, {str(ROOT)!r})
        from tests.unit.local.serving.test_client import make
        client = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"],
            os.environ["AZURE_RESOURCE_GROUP"], os.environ["AZUREML_WORKSPACE_NAME"])
        endpoint = ManagedOnlineEndpoint(name="lasting", auth_mode="key")
        client.online_endpoints.begin_create_or_update(endpoint).result()
        make(client, Path({str(source)!r}), "lasting", "blue")
        endpoint.traffic = {{"blue": 100}}
        client.online_endpoints.begin_create_or_update(endpoint).result()
    """
    own_local.run_python(make_all)
    request = source / "request.json"
    request.write_text("{}")
    score = f"""
        import os, json
        from azure.ai.ml import MLClient
        from azure.identity import DefaultAzureCredential
        client = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"],
            os.environ["AZURE_RESOURCE_GROUP"], os.environ["AZUREML_WORKSPACE_NAME"])
        print(client.online_endpoints.invoke(endpoint_name="lasting", request_file={str(request)!r}))
    """

    def answering() -> int:
        def pid() -> int:
            try:
                return int(json.loads(own_local.run_python(score).splitlines()[-1])["pid"])
            except AssertionError:
                return 0  # the daemon that comes next needs a moment to find it again

        return until(pid, what="an answer", every_s=0.2)

    records = list((own_local.state / "deployments").glob("*/*/*/instance-*.json"))
    scorer = psutil.Process(json.loads(records[0].read_text())["pid"])
    first = answering()

    os.kill(own_local.record()["pid"], signal.SIGKILL)
    assert scorer.is_running()
    assert answering() == first

    os.kill(own_local.record()["pid"], signal.SIGKILL)
    os.killpg(scorer.pid, signal.SIGKILL)
    own_local.start()
    third = answering()
    assert third != first
    own_local.stop()
    assert not psutil.pid_exists(third) or psutil.Process(third).status() == psutil.STATUS_ZOMBIE
    assert answering() not in (first, third)  # started again with the daemon


@pytest.mark.slow
def test_a_deployment_survives_the_death_of_the_daemon_in_its_midst(own_local: Any, source: Path) -> None:
    """The next daemon takes the operation up again and ends what the first attempt had started."""
    begin = f"""
        import os, sys
        from pathlib import Path
        sys.path.insert(0, {str(ROOT)!r})
        from azure.ai.ml import MLClient
        from azure.ai.ml.entities import ManagedOnlineEndpoint
        from azure.identity import DefaultAzureCredential
        from tests.unit.local.serving.test_client import begin
        client = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"],
            os.environ["AZURE_RESOURCE_GROUP"], os.environ["AZUREML_WORKSPACE_NAME"])
        client.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="lasting", auth_mode="key")).result()
        begin(client, Path({str(source)!r}), "lasting", "blue", slow_s=2)
        os.kill(int({own_local.start() and own_local.record()["pid"]!r}), 9)
    """
    own_local.run_python(begin)
    attempts = [
        json.loads(path.read_text())["pid"] for path in own_local.state.glob("deployments/*/*/*/instance-*.json")
    ]
    wait = """
        import os, time
        from azure.ai.ml import MLClient
        from azure.identity import DefaultAzureCredential
        client = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"],
            os.environ["AZURE_RESOURCE_GROUP"], os.environ["AZUREML_WORKSPACE_NAME"])
        while client.online_deployments.get("blue", "lasting").provisioning_state != "Succeeded":
            time.sleep(0.1)
    """
    own_local.run_python(wait)
    records = own_local.state.glob("deployments/*/*/*/instance-*.json")
    assert [psutil.pid_exists(json.loads(path.read_text())["pid"]) for path in records] == [True]
    assert not [pid for pid in attempts if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
