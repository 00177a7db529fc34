"""vLLM's `/v1/completions`, asked inside its own process: the ASGI application that a middleware stands before."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, MutableMapping
from typing import Any

from contract import Answer, Refused

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Messages = AsyncGenerator[Message, None]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

PATH = "/v1/completions"
RUNNING: set[asyncio.Task[None]] = set()
"""Calls under way: the event loop itself keeps no task alive."""


class EngineError(Exception):
    """The engine did not answer as it should; the caller gets a 500, which Azure turns into 424."""


class Engine:
    """The application behind the middleware.

    Args:
        app: vLLM's.
        scope: of the request that is answered; its state and extensions go along.
        gone: set when nobody waits for the answer any more, which ends what is being generated.
    """

    def __init__(self, app: Application, scope: Scope, gone: asyncio.Event) -> None:
        self._app = app
        self._scope = scope
        self.gone = gone

    async def status(self) -> int:
        """The status of `GET /health`: 200 while the engine lives."""
        messages = [message async for message in self._call("GET", "/health")]
        return int(messages[0]["status"])

    async def model(self) -> dict[str, Any]:
        """What `/v1/models` says of the one model: `id`, `max_model_len`."""
        model: dict[str, Any] = (await self._json("GET", "/v1/models"))["data"][0]
        return model

    async def answer(self, request: dict[str, Any]) -> Answer:
        """One answer, whole."""
        response = await self._json("POST", PATH, request)
        if not response:  # so it ends a request that was given up
            raise EngineError("the engine gave no answer")
        choice = response["choices"][0]
        return Answer(choice["text"].strip(), counts(response["usage"]), reason(choice["finish_reason"]))

    async def tell(self, request: dict[str, Any]) -> AsyncGenerator[str | Answer, None]:
        """One answer, piece by piece; at last all of it. White space around it is left out of the pieces too.

        Raises:
            Refused: the engine does not take the request; before the first piece.
        """
        request = {**request, "stream": True, "stream_options": {"include_usage": True}}
        text, buffer, usage, ending = "", "", None, None
        async for event in self._events(request):
            if "error" in event:
                raise EngineError(str(event["error"]))
            if event.get("usage"):
                usage = counts(event["usage"])
            for choice in event["choices"]:
                ending = choice.get("finish_reason") or ending
                buffer += choice["text"]
                ready = buffer.rstrip() if text else buffer.strip()
                if ready:
                    buffer = buffer[buffer.index(ready) + len(ready) :] if not text else buffer[len(ready) :]
                    text += ready
                    yield ready
        if usage is None or ending is None:
            raise EngineError("the engine's answer broke off")
        yield Answer(text, usage, reason(ending))

    async def _json(self, method: str, path: str, request: dict[str, Any] | None = None) -> Any:
        start, *rest = [message async for message in self._call(method, path, request)]
        return json.loads(check_response(start["status"], b"".join(message.get("body", b"") for message in rest)))

    async def _events(self, request: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        async with contextlib.aclosing(self._call("POST", PATH, request)) as messages:
            status = int((await anext(messages))["status"])
            pending = b""
            async for message in messages:
                pending += message.get("body", b"")
                if status == 200:
                    *whole, pending = pending.split(b"\n\n")
                    for event in data(whole):
                        yield event
            if status != 200:
                check_response(status, pending)

    async def _call(self, method: str, path: str, request: dict[str, Any] | None = None) -> Messages:
        """The messages of the application's answer, as they come."""
        body = json.dumps(request).encode() if request is not None else b""
        authorization = [(name, value) for name, value in self._scope["headers"] if name == b"authorization"]
        headers = [*authorization, (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        request_scope = {
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": headers,
        }
        messages: asyncio.Queue[Message | None] = asyncio.Queue()

        async def hang_up() -> Message:
            await self.gone.wait()
            return {"type": "http.disconnect"}

        async def run() -> None:
            try:
                await self._app({**self._scope, **request_scope}, replay(body, hang_up), messages.put)
            finally:
                messages.put_nowait(None)

        # Never cancelled: vLLM stops generating when it hears that the caller has gone, not when its task is.
        task = asyncio.create_task(run())
        RUNNING.add(task)
        task.add_done_callback(RUNNING.discard)
        while (message := await messages.get()) is not None:
            yield message
        await task  # raises what the application has raised


def replay(body: bytes, rest: Receive) -> Receive:
    """Gives a body that has been read already, then what comes after it."""
    unread = [body]

    async def receive() -> Message:
        return {"type": "http.request", "body": unread.pop(), "more_body": False} if unread else await rest()

    return receive


def data(events: list[bytes]) -> Iterator[dict[str, Any]]:
    """The data of server-sent events, up to the mark of their end."""
    for event in events:
        text = event.strip().removeprefix(b"data:").strip()
        if text and text != b"[DONE]":
            yield json.loads(text)


def check_response(status: int, body: bytes) -> bytes:
    """The body of an answer that is a success.

    Raises:
        Refused: the engine says that the request is wrong.
        EngineError: it says anything else.
    """
    if status == 200:
        return body
    message = body.decode("utf-8", "replace")[:500]
    with contextlib.suppress(ValueError, KeyError, TypeError):
        message = str(json.loads(body)["error"]["message"])[:500]
    if status == 400:
        raise Refused(message)
    raise EngineError(f"the engine answered {status}: {message}")


def counts(usage: dict[str, Any]) -> dict[str, int]:
    """Its tokens, as this endpoint tells them."""
    return {name: int(usage[name]) for name in ("prompt_tokens", "completion_tokens")}


def reason(finish_reason: str) -> str:
    """Why an answer ended.

    Raises:
        EngineError: the engine gave it up.
    """
    if finish_reason not in {"stop", "length"}:
        raise EngineError(f"the engine ended an answer with '{finish_reason}'")
    return finish_reason
