"""Answers that are told while they are written pass the gateway piece by piece, and end as they end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import uvicorn

from tests.support.waiting import HANG_S, until_async
from tests.unit.local.serving.bench import Bench

SCORE = """
import json, os, time
from azureml_inference_server_http.api.aml_response import AMLResponse

def init():
    pass

def events(data):
    try:
        for number in range(data["pieces"]):
            yield "data: " + json.dumps({"output": str(number)}) + "\\n\\n"
            time.sleep(data["pause"])
            while "until" in data and not os.path.exists(data["until"]):
                time.sleep(0.01)
        yield "data: [DONE]\\n\\n"
    finally:
        with open(os.environ["COUNT_FILE"], "a") as file:
            file.write("x")

def run(raw):
    data = json.loads(raw)
    return AMLResponse(events(data), data.get("status", 200), {"Content-Type": "text/event-stream"})
"""


@pytest.fixture
async def streaming(bench: Bench) -> Bench:
    (bench.assets.code / "score.py").write_text(SCORE, encoding="utf-8")
    return bench


@contextlib.asynccontextmanager
async def server(bench: Bench) -> AsyncIterator[str]:
    """The gateway behind a real server: only there do answers travel piece by piece."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    serving = uvicorn.Server(uvicorn.Config(bench._app, log_level="error", lifespan="off", interface="asgi3"))
    task = asyncio.create_task(serving.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/score"
    finally:
        serving.should_exit = True
        await task


async def standing(bench: Bench, count: Path, **settings: object) -> dict[str, str]:
    """An endpoint with one slot; the headers that ask it."""
    endpoint = await bench.endpoint()
    env = {"COUNT_FILE": str(count)}
    await bench.deployment(endpoint, "blue", env=env, **settings)
    await bench.route(endpoint, {"blue": 100})
    host = f"{endpoint}.eastus.inference.ml.azure.com"
    return {"Authorization": f"Bearer {await bench.key(endpoint)}", "Host": host}


def asking(headers: dict[str, str]) -> httpx.AsyncClient:
    return httpx.AsyncClient(headers=headers, timeout=HANG_S)


async def until_ended(bench: Bench, count: Path, times: int) -> None:
    """Until the scoring script has ended so many answers, and the gateway holds nobody's place any more."""
    await until_async(lambda: count.exists() and count.stat().st_size >= times, what="the end of the script's answer")
    running = bench.serving.fleet.running.values()
    await until_async(
        lambda: not any(each.in_flight or any(one.in_flight for one in each.instances) for each in running),
        what="the end of the answer's place",
    )


async def test_pieces_arrive_while_the_answer_is_written_and_hold_their_place(streaming: Bench, tmp_path: Path) -> None:
    one = {"requestSettings": {"maxConcurrentRequestsPerInstance": 1, "requestTimeout": "PT180S"}}
    headers = await standing(streaming, tmp_path / "count", **one)
    go = tmp_path / "go"
    async with server(streaming) as url, asking(headers) as client:
        async with client.stream("POST", url, json={"pieces": 4, "pause": 0, "until": str(go)}) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream"), (
                answer.status_code,
                await answer.aread(),
            )
            assert answer.headers["azureml-model-deployment"] == "blue"
            pieces = answer.aiter_bytes()
            first = await anext(pieces)
            assert b'"0"' in first
            assert b'"3"' not in first
            running = next(iter(streaming.serving.fleet.running.values()))
            assert running.in_flight == 1
            go.touch()
            rest = b"".join([piece async for piece in pieces])
        assert rest.endswith(b"data: [DONE]\n\n")
        await until_ended(streaming, tmp_path / "count", 1)


@pytest.mark.parametrize("bench", [{"request_timeout_s": 10 * HANG_S}], indirect=True)
async def test_a_client_that_leaves_ends_the_answer(streaming: Bench, tmp_path: Path) -> None:
    endless = {"requestSettings": {"requestTimeout": f"PT{10 * HANG_S:.0f}S"}}
    headers = await standing(streaming, tmp_path / "count", **endless)
    async with server(streaming) as url, asking(headers) as client:
        async with client.stream("POST", url, json={"pieces": 10**6, "pause": 0.05}) as answer:
            await anext(answer.aiter_bytes())
        await until_ended(streaming, tmp_path / "count", 1)


async def test_the_request_timeout_ends_the_answer_and_half_of_it_does_not_look_whole(
    streaming: Bench, tmp_path: Path
) -> None:
    short = {"requestSettings": {"requestTimeout": "PT2S"}}  # the first piece is there after 0.05
    headers = await standing(streaming, tmp_path / "count", **short)
    async with server(streaming) as url, asking(headers) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post(url, json={"pieces": 10**6, "pause": 0.05})
        await until_ended(streaming, tmp_path / "count", 1)


async def test_a_mirrored_stream_is_read_to_its_end(streaming: Bench, tmp_path: Path) -> None:
    count = tmp_path / "count"
    headers = await standing(streaming, count)
    endpoint = headers["Host"].partition(".")[0]
    await streaming.deployment(endpoint, "green", env={"COUNT_FILE": str(count)})
    await streaming.route(endpoint, {"blue": 100}, mirrorTraffic={"green": 50})
    async with server(streaming) as url, asking(headers) as client:
        for _ in range(2):
            assert (await client.post(url, json={"pieces": 2, "pause": 0.01})).status_code == 200
        await until_ended(streaming, count, 3)


async def test_a_stream_that_is_a_refusal_is_a_model_error(streaming: Bench, tmp_path: Path) -> None:
    headers = await standing(streaming, tmp_path / "count")
    async with server(streaming) as url, asking(headers) as client:
        answer = await client.post(url, json={"pieces": 1, "pause": 0, "status": 500})
    assert (answer.status_code, answer.headers["ms-azureml-model-error-statuscode"]) == (424, "500")
