"""Scoring: who may, where a request goes, and how it fails."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import jwt
import psutil
import pytest

from tests.support.waiting import HANG_S, until_async
from tests.unit.local.serving.bench import Bench

PATIENT = {"requestTimeout": "PT180S"}
"""For requests that wait for the test."""


async def test_keys_open_and_nothing_else_does(bench: Bench) -> None:
    endpoint = await bench.endpoint()
    await bench.deployment(endpoint, "blue")
    await bench.route(endpoint, {"blue": 100})
    for name in ("primaryKey", "secondaryKey"):
        assert (await bench.score(endpoint, key=await bench.key(endpoint, name))).status_code == 200
    url = f"https://{endpoint}.eastus.inference.ml.azure.com/score"
    good = await bench.key(endpoint)
    for headers in ({}, {"Authorization": good}, {"Authorization": "Basic x"}, {"Authorization": "Bearer wrong"}):
        refused = await bench.http.post(url, json={}, headers=headers)
        assert refused.status_code == 401
        assert "azureml-model-deployment" not in refused.headers
    await bench.done(await bench.arm("POST", f"onlineEndpoints/{endpoint}/regenerateKeys", {"keyType": "Primary"}))
    assert (await bench.score(endpoint, key=good)).status_code == 401
    assert (await bench.score("nobody", key=good)).status_code == 404


async def test_tokens_of_an_endpoint(bench: Bench) -> None:
    one, other = await bench.endpoint(authMode="AMLToken"), await bench.endpoint(authMode="AMLToken")
    token = (await bench.arm("POST", f"onlineEndpoints/{one}/token")).json()
    assert token["tokenType"] == "Bearer"
    assert token["expiryTimeUtc"] - token["refreshAfterTimeUtc"] == 43200
    claims = jwt.decode(token["accessToken"], options={"verify_signature": False})
    assert (claims["iss"], claims["aud"], claims["endpointName"]) == ("azureml", "azureml", one)
    assert (await bench.score(one, key=token["accessToken"])).status_code == 404  # let in; nothing has traffic
    assert (await bench.score(other, key=token["accessToken"])).status_code == 401
    forged = jwt.encode(claims, "x" * 32, algorithm="HS256")
    assert (await bench.score(one, key=forged)).status_code == 401
    secret = bench.workspace.store.private(f"{bench.ws}/onlineEndpoints/{one}")["tokenSecret"]
    stale = jwt.encode({**claims, "exp": 1}, secret, algorithm="HS256")
    assert (await bench.score(one, key=stale)).status_code == 401
    assert (await bench.arm("POST", f"onlineEndpoints/{one}/listKeys")).status_code == 400


async def test_the_answer_says_who_gave_it(bench: Bench) -> None:
    endpoint = await bench.endpoint()
    await bench.deployment(endpoint, "blue")
    answer = await bench.score(endpoint, {"n": 1}, to="BLUE")
    assert answer.headers["azureml-model-deployment"] == "blue"
    assert answer.headers["server"] == "azureml-frontdoor"
    assert answer.headers["x-ms-run-function-failed"] == "False"
    assert float(answer.headers["x-ms-run-fn-exec-ms"]) >= 0
    assert len(answer.headers["x-request-id"]) == 36
    url = f"https://{endpoint}.eastus.inference.ml.azure.com"
    headers = {"Authorization": f"Bearer {await bench.key(endpoint)}", "azureml-model-deployment": "blue"}
    own = await bench.http.post(f"{url}/score", json={}, headers={**headers, "x-request-id": "mine"})
    assert own.headers["x-request-id"] == "mine"
    assert (await bench.http.get(f"{url}/", headers=headers)).text == "Healthy"
    assert (await bench.http.head(f"{url}/", headers=headers)).status_code == 200
    swagger = await bench.http.get(f"{url}/swagger.json", headers=headers)
    assert swagger.json()["swagger"] == "2.0"


async def test_requests_split_by_weight_and_the_header_overrules(bench: Bench) -> None:
    endpoint = await bench.endpoint()
    await asyncio.gather(bench.deployment(endpoint, "blue"), bench.deployment(endpoint, "green"))
    await bench.route(endpoint, {"blue": 90, "green": 10})
    key = await bench.key(endpoint)
    slots = Counter([(await bench.score(endpoint, key=key)).json()["slot"] for _ in range(100)])
    assert slots == {"blue": 90, "green": 10}
    assert (await bench.score(endpoint, key=key, to="green")).json()["slot"] == "green"
    missing = await bench.score(endpoint, key=key, to="red")
    assert missing.status_code == 404
    assert "'red'" in missing.text
    answers = {row["deployment"]: row["answers"] for row in bench.serving.status()}
    assert answers == {"blue": {"200": 90}, "green": {"200": 11}}


async def test_mirrored_requests(bench: Bench, tmp_path: Path) -> None:
    endpoint = await bench.endpoint()
    count = tmp_path / "count"
    count.touch()
    env = {"COUNT_FILE": str(count)}
    wide = {"maxConcurrentRequestsPerInstance": 100}
    await asyncio.gather(
        bench.deployment(endpoint, "blue", env={"COUNT_FILE": os.devnull}),
        bench.deployment(endpoint, "green", env=env, requestSettings=wide),
    )
    await bench.route(endpoint, {"blue": 100}, mirrorTraffic={"green": 30})
    key = await bench.key(endpoint)
    for _ in range(40):
        assert (await bench.score(endpoint, {"count": 1}, key=key)).json()["slot"] == "blue"
    await until_async(lambda: count.stat().st_size == 12)
    for _ in range(10):
        await bench.score(endpoint, {"count": 1}, key=key, to="blue")  # never mirrored
    await until_async(lambda: not bench.serving._gateway._tasks, what="the copies' end")
    assert count.stat().st_size == 12
    refused = await bench.arm("DELETE", f"onlineEndpoints/{endpoint}/deployments/green")
    assert "30 % of mirrored traffic" in refused.text


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"raise": 1}, 424, "500"),
        ({"status": 400}, 424, "400"),
        ({"status": 503}, 424, "503"),
        ({"status": 201}, 201, None),
    ],
)
async def test_errors_of_the_model(bench: Bench, body: Any, status: Any, code: Any) -> None:
    endpoint = await bench.endpoint()
    await bench.deployment(endpoint, "blue")
    answer = await bench.score(endpoint, body, to="blue")
    assert answer.status_code == status
    assert answer.headers.get("ms-azureml-model-error-statuscode") == code
    if code:
        assert answer.headers["ms-azureml-model-error-reason"] == "model_error"
    if body.get("status") == 400:
        assert answer.json()["error"]["code"] == "BadRequest"  # the model's own words come through


async def test_time_runs_out(bench: Bench, tmp_path: Path) -> None:
    endpoint = await bench.endpoint()
    await bench.deployment(endpoint, "blue", requestSettings={"requestTimeout": "PT0.4S"})
    answer = await bench.score(endpoint, {"until": str(tmp_path / "never")}, to="blue")
    assert (answer.status_code, answer.text) == (408, "upstream request timeout")


async def test_too_many_at_a_time(bench: Bench, tmp_path: Path) -> None:
    endpoint = await bench.endpoint()
    await bench.deployment(endpoint, "blue", requestSettings=PATIENT)
    key = await bench.key(endpoint)
    go = tmp_path / "go"
    asked = [asyncio.create_task(bench.score(endpoint, {"until": str(go)}, to="blue", key=key)) for _ in range(5)]
    await until_async(lambda: sum(each.done() for each in asked) == 3, what="three refusals")
    go.touch()
    answers = await asyncio.gather(*asked)
    assert Counter(answer.status_code for answer in answers) == {200: 2, 429: 3}  # 2 × 1 concurrent × 1 instance


async def test_threaded_workers_and_more_concurrency(bench: Bench) -> None:
    endpoint = await bench.endpoint()
    env = {"GUNICORN_CMD_ARGS": "--worker-class gthread --threads 8"}
    settings = {"maxConcurrentRequestsPerInstance": 8, **PATIENT}
    await bench.deployment(endpoint, "blue", env=env, requestSettings=settings)
    key = await bench.key(endpoint)
    answers = await asyncio.gather(*(bench.score(endpoint, {"meet": 1}, to="blue", key=key) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {200}  # none returns before all are at work


async def test_instances_take_turns(bench: Bench, tmp_path: Path) -> None:
    endpoint = await bench.endpoint()
    await bench.deployment(endpoint, "blue", instances=2, requestSettings=PATIENT)
    key = await bench.key(endpoint)
    go = tmp_path / "go"
    asked = [asyncio.create_task(bench.score(endpoint, {"until": str(go)}, to="blue", key=key)) for _ in range(4)]
    await until_async(lambda: bench.serving.status()[0]["in_flight"] == 4)
    go.touch()
    answers = await asyncio.gather(*asked)
    assert len({answer.json()["pid"] for answer in answers}) == 2


@pytest.mark.parametrize("bench", [{"request_bytes": 10_000}], indirect=True)
async def test_oversized_requests(bench: Bench) -> None:
    endpoint = await bench.endpoint()
    await bench.deployment(endpoint, "blue")
    assert (await bench.score(endpoint, {"x": "y" * 9_000}, to="blue")).status_code == 200
    assert (await bench.score(endpoint, {"x": "y" * 11_000}, to="blue")).status_code == 413

    async def endless() -> Any:
        for _ in range(100):
            yield b"x" * 1000

    headers = {"Authorization": f"Bearer {await bench.key(endpoint)}", "azureml-model-deployment": "blue"}
    url = f"https://{endpoint}.eastus.inference.ml.azure.com/score"
    assert (await bench.http.post(url, content=endless(), headers=headers)).status_code == 413


@pytest.mark.parametrize("who", ["worker", "master"])
async def test_a_process_that_dies_is_replaced(bench: Bench, who: Any) -> None:
    endpoint = await bench.endpoint()
    await bench.deployment(endpoint, "blue")
    pid = bench.serving.status()[0]["pids"][0]
    broken = await bench.score(endpoint, {"die": who}, to="blue")
    assert broken.status_code in (502, 503, 424)
    key = await bench.key(endpoint)

    async def answers() -> bool:
        return (await bench.score(endpoint, to="blue", key=key)).status_code == 200

    await until_async(answers, what="an answer of the next one")
    status = bench.serving.status()[0]
    assert (status["pids"][0] == pid) == (who == "worker")
    assert status["restarts"] == (0 if who == "worker" else 1)


async def test_one_of_two_instances_dies_and_nobody_notices(bench: Bench) -> None:
    endpoint = await bench.endpoint()
    await bench.deployment(endpoint, "blue", instances=2)
    key = await bench.key(endpoint)
    instance = bench.serving.fleet.running[next(iter(bench.serving.fleet.running))].instances[0]
    port = instance.port
    os.killpg(instance.pid, signal.SIGKILL)
    await until_async(lambda: not listens(port))  # until then a dying worker still takes requests, which die with it
    for _ in range(50):
        assert (await bench.score(endpoint, to="blue", key=key)).status_code == 200
    await until_async(lambda: bench.serving.status()[0]["healthy"] == 2)


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


async def test_no_request_fails_while_slots_and_traffic_change(bench: Bench) -> None:
    endpoint = await bench.endpoint()
    wide = {"requestSettings": {"maxConcurrentRequestsPerInstance": 20, **PATIENT}}
    await bench.deployment(endpoint, "blue", **wide)
    await bench.route(endpoint, {"blue": 100})
    key = await bench.key(endpoint)
    statuses: list[int] = []
    over = asyncio.Event()

    async def user() -> None:
        while not over.is_set():
            statuses.append((await bench.score(endpoint, key=key)).status_code)
            await asyncio.sleep(0.03)

    users = [asyncio.create_task(user()) for _ in range(4)]
    await bench.deployment(endpoint, "green", **wide)
    for green in (10, 50, 100):
        await bench.route(endpoint, {"blue": 100 - green, "green": green})
        statuses.clear()
        await until_async(lambda: len(statuses) > 20, what="twenty answers")
        assert set(statuses) == {200}
    await bench.deployment(endpoint, "green", env={"NEW": "1"}, **wide)  # changed in place under full load
    await bench.done(await bench.arm("DELETE", f"onlineEndpoints/{endpoint}/deployments/blue"))
    over.set()
    await asyncio.gather(*users)
    assert set(statuses) == {200}


async def test_requests_in_flight_survive_the_deletion(bench: Bench, tmp_path: Path) -> None:
    endpoint = await bench.endpoint()
    await bench.deployment(endpoint, "blue", requestSettings=PATIENT)
    go = tmp_path / "go"
    waiting = asyncio.create_task(bench.score(endpoint, {"until": str(go)}, to="blue"))
    await until_async(lambda: bench.serving.status()[0]["in_flight"] == 1)
    gone = await bench.arm("DELETE", f"onlineEndpoints/{endpoint}/deployments/blue")
    await until_async(lambda: not bench.serving.status(), what="the removal")
    go.touch()
    await bench.done(gone)
    assert (await waiting).status_code == 200


async def test_nothing_listens_beyond_loopback_and_the_environment_is_clean(bench: Bench, monkeypatch: Any) -> None:
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "geheim")
    endpoint = await bench.endpoint()
    await bench.deployment(endpoint, "blue", env={"GUNICORN_CMD_ARGS": "--bind 0.0.0.0:0"})
    master = psutil.Process(bench.serving.status()[0]["pids"][0])
    family = {one.pid: one for one in (master, *master.children())}
    listening = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.pid in family]
    assert listening
    assert {str(connection.laddr).split("'")[1] for connection in listening} == {"127.0.0.1"}
    assert not any("AZURE_CLIENT_SECRET" in one.environ() for one in family.values())


def scorers() -> Any:
    """Scoring processes that this test process has started and that run."""
    pids = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and "launch.py" in " ".join(process.cmdline()):
                pids.append(process)
    return pids


async def test_a_stop_leaves_no_process(bench: Bench) -> None:
    endpoint = await bench.endpoint()
    await bench.deployment(endpoint, "blue", instances=2)
    slow = await bench.put(endpoint, "green", env={"SLOW_INIT": str(HANG_S)})
    assert slow.status_code == 201
    await until_async(lambda: len(list(bench.workspace.layout.deployments.glob("*/*/*/instance-*.json"))) == 3)
    mine = scorers()
    assert len(mine) >= 3
    await bench.serving.stop()
    assert not scorers()
