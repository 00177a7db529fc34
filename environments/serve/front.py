"""What stands before vLLM's server: the contract of score.py, and a list of the routes that are open.

vLLM loads it by its name (`--middleware front.Front`). `POST /score` and `POST /` take and give what score.py does, but
for one thing that only this server can: with `Accept: text/event-stream` the answer to one conversation is told while
it is written, as events `{"output": piece}`, the last with `usage` and `finish_reason`, then `[DONE]`. Each
conversation is a request of its own to the engine, which answers all that are there at once.

The routes in OPEN pass through, with bodies no larger than the contract's: with them the endpoint is one that OpenAI's
clients know. All others are closed, since a key to ask the model must not be one to change it.
"""

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from completions import (
    Application,
    Engine,
    EngineError,
    Message,
    Receive,
    Scope,
    Send,
    replay,
)
from contract import MAX_BODY_BYTES, Answer, Refused, body_of, check_method, check_size
from prompts import Prompts

logger = logging.getLogger("vllm.front")

OPEN = {
    ("GET", "/health"),
    ("GET", "/metrics"),
    ("GET", "/version"),
    ("GET", "/v1/models"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
}
EVENTS = "text/event-stream"
JSON = "application/json"


class Front:
    """The middleware. `MLOPS_ENGINE_TOKENIZER` names the folder of the model's tokenizer."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self._prompts = Prompts(Path(os.environ["MLOPS_ENGINE_TOKENIZER"]))
        self._context: int | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or lets it through."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] != "http":
            await self._app(scope, receive, send)
        elif (scope["method"], scope["path"]) in OPEN:
            await self._through(scope, receive, send)
        elif scope["path"] == "/" and scope["method"] in {"GET", "HEAD"}:
            status = await Engine(self._app, scope, asyncio.Event()).status()
            await respond(send, status, "Healthy" if status == 200 else "Not healthy", kind="text/plain")
        elif scope["path"] in {"/", "/score"}:
            await self._score(scope, receive, send)
        else:
            message = f"{scope['method']} {scope['path'][:200]} is not open here"
            await respond(send, 404, json.dumps({"error": {"code": "NotFound", "message": message}}))

    async def _through(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await read_body(receive)
        except Refused as refused:
            await respond(send, refused.status, refused.body)
        else:
            await self._app(scope, replay(body, receive), send)

    async def _score(self, scope: Scope, receive: Receive, send: Send) -> None:
        engine = Engine(self._app, scope, asyncio.Event())
        try:
            check_method(scope["method"])
            body = await read_body(receive)
            with watching(receive, engine.gone):
                await self._answer(engine, body, send, streams=wants_events(scope))
        except Refused as refused:
            await respond(send, refused.status, refused.body)
        except EngineError as error:
            if not engine.gone.is_set():
                logger.error("%s", error)
                await respond(send, 500, str(error), kind="text/plain")
        finally:
            engine.gone.set()  # what is still being generated for this request is wanted by nobody

    async def _answer(self, engine: Engine, body: bytes, send: Send, *, streams: bool) -> None:
        if self._context is None:
            self._context = int((await engine.model())["max_model_len"])
        payload, requests = await self._prompts.requests(body, context=self._context)
        if streams and payload.single:
            await tell(engine, requests[0], send)
            return
        tasks = [asyncio.ensure_future(engine.answer(request)) for request in requests]
        try:
            answers = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        await respond(send, 200, body_of(answers, single=payload.single))


async def tell(engine: Engine, request: dict[str, Any], send: Send) -> None:
    """Sends an answer as it comes; what goes wrong after its beginning ends it with an event `{"error": …}`."""
    async with contextlib.aclosing(engine.tell(request)) as pieces:
        piece: str | Answer = await anext(pieces)  # what the engine refuses still gets a status of its own
        await send(head(200, EVENTS))
        try:
            while isinstance(piece, str):
                await send(event({"output": piece}))
                piece = await anext(pieces)
            await send(event({"output": "", "usage": piece.usage, "finish_reason": piece.finish_reason}))
            await send(chunk(b"data: [DONE]\n\n"))
        except EngineError as error:
            if not engine.gone.is_set():
                logger.error("an answer broke off: %s", error)
            await send(event({"error": {"code": "ModelError", "message": str(error)}}))
    await send({"type": "http.response.body", "body": b""})


@contextlib.contextmanager
def watching(receive: Receive, gone: asyncio.Event) -> Iterator[None]:
    """Notices that the caller hangs up."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    task = asyncio.ensure_future(watch())
    try:
        yield
    finally:
        task.cancel()


async def read_body(receive: Receive) -> bytes:
    """A request's body.

    Raises:
        Refused: it is too large.
    """
    chunks: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused("the request broke off")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size <= MAX_BODY_BYTES:
            chunks.append(chunk)
        more = message.get("more_body", False)
    check_size(size)
    return b"".join(chunks)


def wants_events(scope: Scope) -> bool:
    """Whether the caller asks for a stream."""
    accepted = b",".join(value for name, value in scope["headers"] if name == b"accept")
    return EVENTS in accepted.decode("latin-1").lower()


async def respond(send: Send, status: int, body: str, *, kind: str = JSON) -> None:
    """Sends an answer whole."""
    content = body.encode()
    await send(head(status, kind, length=len(content)))
    await send({"type": "http.response.body", "body": content})


def head(status: int, kind: str, *, length: int | None = None) -> Message:
    """The message that begins an answer."""
    headers = [(b"content-type", kind.encode())]
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    return {"type": "http.response.start", "status": status, "headers": headers}


def chunk(body: bytes) -> Message:
    """A part of an answer, with more to come."""
    return {"type": "http.response.body", "body": body, "more_body": True}


def event(data: dict[str, Any]) -> Message:
    """A server-sent event."""
    return chunk(b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n")
