from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import certifi
import httpx
import pytest

from mlops.scoring import client
from mlops.scoring.client import Scorer, read, texts_of, tokens
from tests.support.answering import Asked, Reply, answering
from tests.support.waiting import HANG_S, until

PAYLOAD = {"input_data": {"input_string": [{"role": "user", "content": "hi"}]}}
FINE = Reply({"output": "a"})


@pytest.mark.parametrize(
    ("status", "body", "headers", "says"),
    [
        (424, {"error": {"code": "BadRequest", "message": "temperature is 9"}}, {}, "HTTP 424: temperature is 9"),
        (424, "boom", {"ms-azureml-model-error-reason": "model raised"}, "HTTP 424: model raised"),
        (401, "", {}, "HTTP 401: Unauthorized"),
        (500, ["no object"], {}, 'HTTP 500: ["no object"]'),
    ],
)
def test_a_refusal_is_told_in_the_servers_own_words(
    status: int, body: object, headers: dict[str, str], says: str
) -> None:
    content = {"text": body} if isinstance(body, str) else {"json": body}
    answer = read(httpx.Response(status, headers=headers, **content), 1.0)

    assert answer.ok is False
    assert answer.error == says
    assert answer.texts == ()


def test_an_answer_that_is_no_json_is_not_of_the_agreed_shape() -> None:
    assert "agreed shape" in (read(httpx.Response(200, text="<html>"), 1.0).error or "")


def test_the_slot_that_answered_is_told() -> None:
    answer = read(httpx.Response(200, json={"output": "a"}, headers={"azureml-model-deployment": "blue"}), 1.0)

    assert (answer.ok, answer.slot, answer.texts) == (True, "blue", ("a",))


@pytest.mark.parametrize(
    ("body", "texts"),
    [
        ({"output": "a"}, ("a",)),
        ({"output": ["a", "b"]}, ("a", "b")),
        ([{"0": "a"}, {"0": "b"}], ("a", "b")),
        (["a"], ("a",)),
    ],
)
def test_answers_of_both_scoring_paths_are_read(body: Any, texts: tuple[str, ...]) -> None:
    assert texts_of(body) == texts


@pytest.mark.parametrize("body", [{}, {"output": None}, {"output": []}, [], [1], "text", {"error": "x"}])
def test_anything_else_is_no_answer(body: Any) -> None:
    with pytest.raises(ValueError, match="no text"):
        texts_of(body)


@pytest.mark.parametrize(
    ("usage", "count"),
    [
        ({"completion_tokens": 7}, 7),
        ({"completion_tokens": 0}, 0),
        ({"completion_tokens": -1}, None),
        ({"completion_tokens": True}, None),
        ({"completion_tokens": "7"}, None),
        ({}, None),
        ([7], None),
        (None, None),
    ],
)
def test_tokens_are_counted_where_the_server_counts_them(usage: Any, count: int | None) -> None:
    answer = read(httpx.Response(200, json={"output": "a", "usage": usage}), 1.0)

    assert (answer.ok, answer.completion_tokens) == (True, count)
    assert tokens(["a"], "completion_tokens") is None


@pytest.mark.parametrize("status", [429, 503])
def test_not_now_is_asked_again_after_what_the_server_says(status: int) -> None:
    replies = iter([Reply("", status, {"Retry-After": "0"}), Reply("", status, {"Retry-After": "0"}), FINE])
    with answering(lambda _: next(replies)) as endpoint:
        answer = endpoint.scorer.ask(PAYLOAD)

    assert (answer.ok, answer.attempts, len(endpoint.asked)) == (True, 3, 3)


@pytest.mark.parametrize("status", [400, 401, 404, 408, 424, 500, 502, 504])
def test_every_other_answer_is_final(status: int) -> None:
    with answering(lambda _: Reply("", status, {"Retry-After": "0"})) as endpoint:
        answer = endpoint.scorer.ask(PAYLOAD)

    assert (answer.status, answer.attempts, len(endpoint.asked)) == (status, 1, 1)


def test_asking_again_ends_and_can_be_left_out() -> None:
    with answering(lambda _: Reply("", 503, {"Retry-After": "0"})) as endpoint:
        assert endpoint.scorer.ask(PAYLOAD).attempts == client.ATTEMPTS
        assert len(endpoint.asked) == client.ATTEMPTS
        once = dataclasses.replace(endpoint.scorer, attempts=1).ask(PAYLOAD)

    assert (once.status, once.attempts, len(endpoint.asked)) == (503, 1, client.ATTEMPTS + 1)


def test_a_slot_is_named_for_one_request_alone() -> None:
    with answering(lambda _: FINE) as endpoint:
        answers = endpoint.scorer.ask_all([PAYLOAD] * 3, slots=["blue", None, "green"], concurrency=1)

    assert [request.slot for request in endpoint.asked] == ["blue", None, "green"]
    assert [answer.slot for answer in answers] == ["blue", None, "green"]


def test_an_answer_of_another_slot_says_nothing_of_the_one_asked() -> None:
    with answering(lambda _: Reply({"output": "a"}, headers={"azureml-model-deployment": "Blue"})) as endpoint:
        live, named, other = endpoint.scorer.ask_all([PAYLOAD] * 3, slots=[None, "blue", "green"], concurrency=1)

    assert (live.ok, named.ok, named.slot) == (True, True, "Blue")
    assert (other.status, other.texts, other.error) == (0, (), "'Blue' answered instead of 'green'")


def test_answers_come_in_the_order_of_the_payloads() -> None:
    events = [threading.Event() for _ in range(7)]
    events[6].set()

    def reply(request: Asked) -> Reply:  # the last one first
        number = int(request.question)
        assert events[number + 1].wait(HANG_S)
        events[number].set()
        return Reply({"output": request.question})

    payloads = [{"input_data": {"input_string": [{"content": str(number)}]}} for number in range(6)]
    with answering(reply) as endpoint:
        answers = endpoint.scorer.ask_all(payloads, slots=[None] * 6, concurrency=6)

    assert [answer.texts[0] for answer in answers] == list("012345")


def test_who_does_not_answer_in_time_is_left() -> None:
    go = threading.Event()

    def late(_: Asked) -> Reply:
        go.wait(HANG_S)
        return Reply({"output": "late"})

    with answering(late, timeout_s=0.3) as endpoint:
        answer = endpoint.scorer.ask(PAYLOAD)
        until(lambda: endpoint.asked, what="the request")
        go.set()

    assert (answer.status, answer.error) == (408, "no answer within 0.3 s")
    assert len(endpoint.asked) == 1


@contextlib.contextmanager
def dribbling() -> Iterator[str]:
    """A server that sends a byte now and then, and never ends."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                while not stop.wait(0.02):
                    connection.sendall(b" ")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            stop.set()
            thread.join()


def test_a_server_that_dribbles_is_left_too() -> None:
    with dribbling() as url:
        answer = Scorer(url=url, key="k", timeout_s=0.2).ask(PAYLOAD)

    assert answer.status == 408


def test_nobody_there_is_status_0() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    answer = Scorer(url=f"http://127.0.0.1:{port}/score", key="k").ask(PAYLOAD)

    assert (answer.status, answer.ok) == (0, False)
    assert "ConnectError" in (answer.error or "")


def test_the_key_is_sent_and_never_shown() -> None:
    with answering(lambda _: Reply("", 500)) as endpoint:
        answer = endpoint.scorer.ask(PAYLOAD)

    assert endpoint.asked[0].headers["Authorization"] == "Bearer s3cret-key"
    assert "s3cret" not in repr(endpoint.scorer) + str(endpoint.scorer) + repr(answer)


def test_certificates_are_read_once_and_anew_when_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(Path(certifi.where()).read_bytes())
    before = client.trust()
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    named = client.trust()
    assert named is not before
    assert client.trust() is named
    os.utime(bundle, (1, 1))
    assert client.trust() is not named


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("https://e.inference/score", "https://e.inference/score"),
        ("https://e.inference/", "https://e.inference/score"),
        ("https://e.inference", "https://e.inference/score"),
        ("https://e.inference/v1/own", "https://e.inference/v1/own"),
        (None, None),
    ],
)
def test_payloads_go_to_score_where_all_paths_are_open(url: str | None, path: str | None) -> None:
    from mlops.azure.endpoints import scoring_url

    assert scoring_url(url) == path
