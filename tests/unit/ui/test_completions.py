"""OpenAI's shape: requests read, answers and errors told, whole and as a stream."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mlops.core.errors import PreconditionError
from mlops.scoring.client import Scorer
from mlops.ui.ask import Asker
from mlops.ui.completions import ChatRequest, Refused, listed, read, streamed, whole
from mlops.ui.ttl_cache import TtlCache
from tests.support.answering import Answering, Asked, Reply, answering
from tests.support.waiting import HANG_S

MODELS = ["live", "blue", "green"]
USAGE = {"prompt_tokens": 3, "completion_tokens": 2}


def request(**changes: Any) -> bytes:
    body = {"model": "live", "messages": [{"role": "user", "content": "hi"}], **changes}
    return json.dumps({name: value for name, value in body.items() if value != "left out"}).encode()


def refused(raw: bytes) -> dict[str, Any]:
    with pytest.raises(Refused) as caught:
        read(raw, MODELS)
    error: dict[str, Any] = caught.value.body["error"]
    return {**error, "status": caught.value.status}


def test_their_names_become_ours() -> None:
    request_read = read(
        request(
            temperature=0.5,
            top_p=0.9,
            max_tokens=10,
            max_completion_tokens=20,
            stop="\n",
            seed=7,
            n=1,
            user="ada",
            frequency_penalty=0,
            tools=[],
            metadata={},
            stream=True,
            stream_options={"include_usage": True},
        ),
        MODELS,
    )

    assert request_read.parameters == {
        "temperature": 0.5,
        "top_p": 0.9,
        "max_new_tokens": 20,
        "stop": ["\n"],
        "seed": 7,
    }
    assert (request_read.model, request_read.slot, request_read.stream, request_read.counts) == (
        "live",
        None,
        True,
        True,
    )


def test_messages_may_come_in_parts_and_from_a_developer() -> None:
    content = [{"type": "text", "text": "what "}, {"type": "text", "text": "now"}]
    chat_request = read(
        request(
            model="blue", messages=[{"role": "developer", "content": "be kind"}, {"role": "user", "content": content}]
        ),
        MODELS,
    )

    assert chat_request.messages == ({"role": "system", "content": "be kind"}, {"role": "user", "content": "what now"})
    assert chat_request.slot == "blue"


@pytest.mark.parametrize(
    ("changes", "status", "param"),
    [
        ({"model": "gpt-9"}, 404, "model"),
        ({"model": "left out"}, 404, "model"),
        ({"model": ["live"]}, 404, "model"),
        ({"messages": []}, 400, "messages"),
        ({"messages": "hi"}, 400, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages[0].content"),
        ({"messages": [{"role": "user", "content": None}]}, 400, "messages[0].content"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, 400, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "hi"}]}, 400, "messages[0].role"),
        ({"messages": [{"content": "hi"}]}, 400, "messages[0].role"),
        ({"messages": ["hi"]}, 400, "messages[0]"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, "messages"),
        ({"n": 2}, 400, "n"),
        ({"tools": [{}]}, 400, "tools"),
        ({"presence_penalty": 0.1}, 400, "presence_penalty"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format"),
        ({"temperature": 9}, 400, "parameters.temperature"),
        ({"temperature": "warm"}, 400, "parameters.temperature"),
        ({"max_tokens": 0}, 400, "parameters.max_new_tokens"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(changes: dict[str, Any], status: int, param: str) -> None:
    error = refused(request(**changes))

    assert (error["status"], error["param"]) == (status, param)
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_object_is_refused(raw: bytes) -> None:
    assert refused(raw)["status"] == 400


def test_the_models_are_listed_as_they_are_there() -> None:
    assert [model["id"] for model in listed(["live", "blue"])["data"]] == ["live", "blue"]


async def asked(reply: Answering, **changes: Any) -> tuple[Any, list[str | None]]:
    """The whole answer to a request, and which slots were asked."""
    with answering(reply) as endpoint:
        asker = Asker(lambda: endpoint.scorer, TtlCache())
        try:
            return await whole(asker, read(request(**changes), MODELS)), [one.slot for one in endpoint.asked]
        finally:
            await asker.close()


async def events(chat_request: ChatRequest, reply: Answering) -> list[Any]:
    with answering(reply) as endpoint:
        asker = Asker(lambda: endpoint.scorer, TtlCache())
        try:
            items = [event async for event in streamed(asker, chat_request)]
        finally:
            await asker.close()
    assert all(event.startswith("data: ") and event.endswith("\n\n") for event in items)
    return [event if "[DONE]" in event else json.loads(event[6:]) for event in items]


async def test_an_answer_has_its_text_its_counts_and_its_slot() -> None:
    (body, headers), slots = await asked(
        lambda _: Reply({"output": "a <b>", "usage": USAGE, "finish_reason": "length"}), model="green"
    )

    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "a <b>", "refusal": None},
            "logprobs": None,
            "finish_reason": "length",
        }
    ]
    assert body["usage"] == {**USAGE, "total_tokens": 5}
    assert (body["object"], body["model"]) == ("chat.completion", "green")
    assert headers == {"azureml-model-deployment": "green"}
    assert slots == ["green"]


async def test_live_traffic_names_no_slot_and_what_is_not_counted_is_left_out() -> None:
    (body, headers), slots = await asked(lambda _: Reply({"output": "a"}))

    assert slots == [None]
    assert "usage" not in body
    assert headers == {}


@pytest.mark.parametrize(
    ("reply", "status", "kind"),
    [
        (Reply({"error": {"code": "BadRequest", "message": "too long"}}, 424), 400, "invalid_request_error"),
        (Reply("boom", 424), 502, "server_error"),
        (Reply("", 429, {"Retry-After": "0"}), 429, "rate_limit_error"),
        (Reply("", 408), 504, "server_error"),
        (Reply("", 500), 502, "server_error"),
        (Reply({"wrong": "shape"}), 502, "server_error"),
    ],
)
async def test_what_the_endpoint_refuses_is_told_with_a_status_that_clients_know(
    reply: Reply, status: int, kind: str
) -> None:
    with pytest.raises(Refused) as caught:
        await asked(lambda _: reply)

    assert (caught.value.status, caught.value.body["error"]["type"]) == (status, kind)
    assert "s3cret" not in json.dumps(caught.value.body)


async def test_an_answer_that_comes_whole_is_one_piece_of_a_stream() -> None:
    chat_request = read(request(stream=True, stream_options={"include_usage": True}), MODELS)
    items = await events(chat_request, lambda _: Reply({"output": "a b", "usage": USAGE}))

    deltas = [event["choices"][0]["delta"] for event in items[:-2]]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "a b"}, {}]
    assert items[2]["choices"][0]["finish_reason"] == "stop"
    assert items[3]["usage"]["total_tokens"] == 5
    assert items[3]["choices"] == []
    assert items[-1] == "data: [DONE]\n\n"
    assert len({event["id"] for event in items[:-1]}) == 1


async def test_a_stream_is_passed_on_piece_by_piece() -> None:
    lines: list[Any] = [{"choices": [{"delta": {"content": piece}}]} for piece in ("a", " ", "b")]
    lines.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    body = "".join(f"data: {json.dumps(line)}\n\n" for line in lines) + "data: [DONE]\n\n"
    reply = Reply(body, headers={"Content-Type": "text/event-stream"})
    items = await events(read(request(stream=True), MODELS), lambda _: reply)

    text = "".join(event["choices"][0]["delta"].get("content", "") for event in items[:-1])
    assert text == "a b"
    assert items[-2]["choices"][0]["finish_reason"] == "stop"


async def test_a_stream_that_cannot_begin_is_an_error_with_a_status() -> None:
    with pytest.raises(Refused):
        await events(read(request(stream=True), MODELS), lambda _: Reply("", 500))


async def test_a_stream_that_breaks_off_says_so() -> None:
    body = 'data: {"choices": [{"delta": {"content": "a"}}]}\n\ndata: {"error": {"message": "out of memory"}}\n\n'
    reply = Reply(body, headers={"Content-Type": "text/event-stream"})
    items = await events(read(request(stream=True), MODELS), lambda _: reply)

    assert items[-2]["error"]["message"] == "out of memory"
    assert items[-1] == "data: [DONE]\n\n"


async def test_a_key_that_is_no_longer_taken_is_fetched_once_more() -> None:
    fetched: list[int] = []
    with answering(lambda one: Reply({"output": "a"}, 200 if "new" in str(one.headers) else 401)) as endpoint:

        def find() -> Scorer:
            fetched.append(1)
            key = "old-key" if len(fetched) == 1 else "new-key"
            return Scorer(url=endpoint.scorer.url, key=key)

        asker = Asker(find, TtlCache())
        for _ in range(2):
            body, _headers = await whole(asker, read(request(), MODELS))
            assert body["choices"][0]["message"]["content"] == "a"
        await asker.close()

    assert len(fetched) == 2


async def test_without_an_endpoint_there_is_no_such_model() -> None:
    def find() -> Scorer:
        raise PreconditionError("there is no endpoint 'x'", hint="mlops deploy makes it")

    with pytest.raises(Refused) as caught:
        await whole(Asker(find, TtlCache()), read(request(), MODELS))
    assert caught.value.status == 404
    assert "mlops deploy makes it" in str(caught.value.body["error"]["message"])


async def test_who_stops_listening_stops_the_question() -> None:
    go = threading.Event()

    def late(_: Asked) -> Reply:
        go.wait(HANG_S)
        return Reply({"output": "late"})

    with answering(late) as endpoint:
        asker = Asker(lambda: endpoint.scorer, TtlCache())
        stream: AsyncIterator[Any] = asker.ask([{"role": "user", "content": "hi"}], {}, slot=None)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await anext(stream)
        go.set()
        await asker.close()
