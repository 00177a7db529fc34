"""The contract before the engine: one set of payloads, asked through an application that answers as vLLM's does."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from chat_completion.chat_model import read_parameters
from chat_completion.data.template import PHI3_TEMPLATE
from standin.build import train_tokenizer
from tests.support.checkout import ROOT
from tests.support.waiting import HANG_S, until_async
from tests.unit.environments.serve.conftest import BAD_PAYLOADS, body

SERVE = ROOT / "environments" / "serve"
CONTEXT = 400
MODULES = ("front", "prompts", "completions", "contract", "payload", "engine")


@pytest.fixture(scope="module", autouse=True)
def imports() -> Iterator[None]:
    """The deployment's code, importable as it is where it runs."""
    sys.path.insert(0, str(SERVE))
    yield
    sys.path.remove(str(SERVE))
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["What does it weigh? It weighs nothing."], vocabulary=400).save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(PHI3_TEMPLATE)
    return folder


class Engine:
    """Answers with what it was asked, in capitals, a word a piece; remembers its requests and who hung up."""

    def __init__(self, tokenizer: Path) -> None:
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        self.requests: list[dict[str, Any]] = []
        self.concurrent = self.most = self.hung_up = 0
        self.together = 1
        """So many requests have to be under way before one is answered."""
        self.begun = False
        """Whether it generates what takes for ever."""
        self.healthy = True
        methods = {"/v1/completions": "POST", "/v1/chat/completions": "POST", "/v1/load_lora_adapter": "POST"}
        paths = ["/health", "/v1/models", "/docs", *methods]
        routes = [
            Route(path, getattr(self, path.rpartition("/")[2]), methods=[methods.get(path, "GET")]) for path in paths
        ]
        self.app = Starlette(routes=routes)

    async def health(self, request: Request) -> Response:
        return Response(status_code=200 if self.healthy else 503)

    async def models(self, request: Request) -> Response:
        return JSONResponse({"data": [{"id": "chat", "max_model_len": CONTEXT}]})

    async def docs(self, request: Request) -> Response:
        return PlainTextResponse("docs")

    async def load_lora_adapter(self, request: Request) -> Response:
        raise AssertionError("this must not be reached")

    async def completions(self, request: Request) -> Response:
        payload = await request.json()
        if "chat" in request.url.path:
            return JSONResponse({"choices": [{"message": {"content": "from the engine"}}]})
        self.requests.append(payload)
        text = self._tokenizer.decode(payload["prompt"], skip_special_tokens=True).strip()
        if text == "refuse":
            return JSONResponse({"error": {"message": "the engine refuses it"}}, status_code=400)
        if text == "break":
            return JSONResponse({"error": {"message": "the engine broke"}}, status_code=500)
        tokens = [f" {word}" for word in text.upper().split()] + [" \n"]
        ending = "abort" if text == "abort" else "length" if payload["max_tokens"] < len(tokens) else "stop"
        usage = {"prompt_tokens": len(payload["prompt"]), "completion_tokens": len(tokens), "total_tokens": 0}
        if payload.get("stream"):
            return StreamingResponse(self._told(tokens, ending, usage, text), media_type="text/event-stream")
        self.concurrent += 1
        self.most = max(self.most, self.concurrent)
        try:
            if text == "slow":
                self.begun = True
                while not await request.is_disconnected():
                    await asyncio.sleep(0.01)
                self.hung_up += 1
                return JSONResponse(None)
            await until_async(lambda: self.most >= self.together, what="the others")
        finally:
            self.concurrent -= 1
        return JSONResponse({"choices": [{"text": "".join(tokens), "finish_reason": ending}], "usage": usage})

    async def _told(self, tokens: list[str], ending: str, usage: dict[str, int], text: str) -> Any:
        def event(data: Any) -> str:
            return f"data: {json.dumps(data)}\n\n"

        try:
            for word in tokens:
                yield event({"choices": [{"text": word, "finish_reason": None}]})
                if text == "half":
                    yield event({"error": {"message": "the engine broke"}})
                    return
                while text == "slow":
                    self.begun = True
                    await asyncio.sleep(0.01)
            yield event({"choices": [{"text": "", "finish_reason": ending}]})
            yield event({"choices": [], "usage": usage})
            yield "data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.hung_up += 1
            raise


@pytest.fixture
def engine(tokenizer: Path) -> Engine:
    return Engine(tokenizer)


@pytest.fixture
def front(engine: Engine, tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MLOPS_ENGINE_TOKENIZER", str(tokenizer))
    from front import Front

    return Front(engine.app)


@pytest.fixture
def ask(front: Any) -> Callable[..., Any]:
    """Sends a request to the middleware."""

    async def send(method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        transport = httpx.ASGITransport(front, raise_app_exceptions=False)
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            return await client.request(method, path, content=content, headers=headers)

    return send


@pytest.mark.parametrize("path", ["/score", "/"])
async def test_flat_and_nested(ask: Any, path: str) -> None:
    one = (await ask("POST", path, body("what is it?"))).json()
    assert one["output"] == "WHAT IS IT?"
    assert one["finish_reason"] == "stop"
    assert one["usage"].keys() == {"prompt_tokens", "completion_tokens"}
    many = (await ask("POST", path, body("ä", "what is it?", nested=True))).json()
    assert many["output"] == ["Ä", "WHAT IS IT?"]
    assert many["finish_reason"] == ["stop", "stop"]
    assert many["usage"]["completion_tokens"] == 2 + one["usage"]["completion_tokens"]
    assert (await ask("POST", path, body("one", nested=True))).json()["output"] == ["ONE"]


async def test_the_conversations_of_a_request_are_generated_together(ask: Any, engine: Engine) -> None:
    texts = [f"question {index}" for index in range(20)]
    engine.together = 20
    document = (await ask("POST", "/score", body(*texts, nested=True))).json()
    assert document["output"] == [text.upper() for text in texts]
    assert engine.most == 20


async def test_an_answer_has_the_room_that_the_prompt_leaves(ask: Any, engine: Engine) -> None:
    long = body("it weighs " * 60, max_new_tokens=4000)
    assert (await ask("POST", "/score", long)).status_code == 200
    sent = engine.requests[0]
    assert len(sent["prompt"]) + sent["max_tokens"] == CONTEXT
    answer = await ask("POST", "/score", body("ok", "it weighs " * 300, nested=True))
    assert answer.status_code == 400
    assert "conversation 1 has" in answer.json()["error"]["message"]
    assert "leaves no room" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("payload", "status", "message"),
    [
        *BAD_PAYLOADS,
        (json.dumps(body("half a character: \ud83d")).encode(), 400, "surrogates not allowed"),
        (body("ok", "it weighs " * 90_000, nested=True), 400, "conversation 1 has 9000"),
    ],
)
async def test_bad_payloads(ask: Any, payload: Any, status: int, message: str) -> None:
    answer = await ask("POST", "/score", payload)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == "BadRequest"
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize("text", ["break", "abort"])
async def test_an_engine_that_fails_says_so(ask: Any, text: str) -> None:
    answer = await ask("POST", "/score", body("fine", text, nested=True))
    assert answer.status_code == 500
    assert "the engine" in answer.text
    assert (await ask("POST", "/score", body("fine"))).status_code == 200


async def test_what_is_open_and_what_is_not(ask: Any) -> None:
    assert (await ask("GET", "/v1/models")).json()["data"][0]["id"] == "chat"
    document = (await ask("POST", "/v1/chat/completions", {"messages": []})).json()
    assert document["choices"][0]["message"]["content"] == "from the engine"
    for method, path in [
        ("POST", "/v1/load_lora_adapter"),
        ("GET", "/docs"),
        ("POST", "/v1/models"),
        ("GET", "/health/"),
    ]:
        answer = await ask(method, path)
        assert answer.status_code == 404
        assert answer.json()["error"]["message"] == f"{method} {path} is not open here"
    for method, path in [("GET", "/score"), ("DELETE", "/")]:
        assert (await ask(method, path)).status_code == 405


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_no_route_takes_a_body_without_end(ask: Any, engine: Engine, path: str) -> None:
    answer = await ask("POST", path, b" " * (16 * 2**20 + 1))
    assert (answer.status_code, engine.requests) == (413, [])


async def test_a_long_request_lets_others_be_read(ask: Any, front: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import prompts

    ids = prompts.Prompts.ids
    read: list[str] = []
    go = threading.Event()

    def paused(self: Any, conversation: Any, **options: Any) -> Any:
        read.append(conversation[-1]["content"])
        assert go.wait(HANG_S)
        return ids(self, conversation, **options)

    monkeypatch.setattr(prompts.Prompts, "ids", paused)
    long = asyncio.ensure_future(ask("POST", "/score", body(*["many"] * 100, nested=True)))
    await until_async(lambda: read, what="the first conversation")
    other = asyncio.ensure_future(ask("POST", "/score", body("one")))
    await until_async(front._prompts._thread._work_queue.qsize, what="the other request")
    go.set()
    assert (await other).json()["output"] == "ONE"
    assert (await long).status_code == 200
    assert read == ["many", "one", *["many"] * 99]


async def test_it_is_well_when_the_engine_is(ask: Any, engine: Engine) -> None:
    assert (await ask("GET", "/")).status_code == 200
    engine.healthy = False
    assert (await ask("GET", "/")).status_code == 503


async def test_an_answer_is_told_while_it_is_written(ask: Any) -> None:
    from mlops.scoring.sse import SseReader

    question = body("what is it?")
    answer = await ask("POST", "/score", question, accept="text/event-stream, application/json")
    assert answer.headers["content-type"] == "text/event-stream"
    events = [event.removeprefix("data: ") for event in answer.text.split("\n\n")]
    assert [json.loads(event)["output"] for event in events[:4]] == ["WHAT", " IS", " IT?", ""]
    reader = SseReader()
    reader.feed(answer.content)
    whole = (await ask("POST", "/score", question)).json()
    assert (reader.text, reader.usage, reader.finish_reason) == (
        whole["output"],
        whole["usage"],
        whole["finish_reason"],
    )
    assert reader.closed


async def test_what_cannot_be_told_has_a_status_of_its_own(ask: Any) -> None:
    for payload, status in [(b"{", 400), (body("refuse"), 400), (body("break"), 500)]:
        assert (await ask("POST", "/score", payload, accept="text/event-stream")).status_code == status
    many = await ask("POST", "/score", body("a", "b", nested=True), accept="text/event-stream")
    assert many.json()["output"] == ["A", "B"]


async def test_an_answer_that_breaks_off_says_so(ask: Any) -> None:
    answer = await ask("POST", "/score", body("half"), accept="text/event-stream")
    assert answer.status_code == 200
    *_, last, end = answer.text.split("\n\n")
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "ModelError"
    assert end == ""


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
async def test_who_hangs_up_is_not_generated_for(front: Any, engine: Engine, accept: str) -> None:
    content = json.dumps(body("slow")).encode()
    messages = [{"type": "http.request", "body": content, "more_body": False}]
    question_asked = asyncio.Event()

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await until_async(lambda: engine.begun)
        question_asked.set()
        return {"type": "http.disconnect"}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/score", "headers": [(b"accept", accept.encode())]}
    async with asyncio.timeout(HANG_S):
        await front({**scope, "asgi": {"version": "3.0"}, "query_string": b"", "root_path": ""}, receive, send)
        await until_async(lambda: engine.hung_up)
    assert question_asked.is_set()
    assert b"500" not in b"".join(message.get("body", b"") for message in sent)


names = st.sampled_from(["max_new_tokens", "max_tokens", "max_gen_len"])
some_parameters = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0, 0.0, 0.5, 1, 2.0]),
        "do_sample": st.booleans(),
        "top_p": st.floats(1e-6, 1),
        "top_k": st.integers(0, 100),
        "repetition_penalty": st.floats(1e-3, 10),
        "seed": st.integers(0, 2**32 - 1),
        "stop": st.lists(st.text(min_size=1, max_size=3), max_size=3),
    },
)


@given(some_parameters, st.dictionaries(names, st.integers(1, 4096), max_size=2))
def test_parameters_mean_what_they_mean_to_the_model(parameters: dict[str, Any], limits: dict[str, int]) -> None:
    from prompts import generation

    fields = generation({**limits, **parameters})
    meant = read_parameters({**limits, **parameters})
    arguments = meant.arguments()
    assert (fields["temperature"] > 0) == arguments.pop("do_sample")
    assert fields["max_tokens"] == meant.max_new_tokens
    assert {name: fields.get(name) for name in arguments} == arguments
    assert (fields.get("seed"), tuple(fields.get("stop", ()))) == (meant.seed, meant.stop)


def test_a_prompt_has_the_tokens_that_the_model_would_give_it(tokenizer: Path) -> None:
    from prompts import Prompts
    from transformers import AutoTokenizer

    from chat_completion.chat_model import Answerer

    answerer = Answerer.__new__(Answerer)
    answerer.tokenizer = AutoTokenizer.from_pretrained(tokenizer)
    chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": " What? <|end|>"}]
    assert Prompts(tokenizer).ids(chat, context=CONTEXT) == answerer.prompt(chat)
