"""The endpoint in the shape that OpenAI-style clients know: ``/v1/models`` and ``/v1/chat/completions``.

The models are ``live`` (the endpoint's traffic) and each slot by its name. What would change the meaning of an answer
and is not there (tools, several choices, penalties) is refused; what only decorates a request is passed over.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlops.core.errors import MlopsError, PreconditionError
from mlops.data.payload import check_text
from mlops.scoring.client import Answer

if TYPE_CHECKING:
    from mlops.ui.ask import Asker

LIVE = "live"
NAMES = {
    "temperature": "temperature",
    "top_p": "top_p",
    "max_tokens": "max_new_tokens",
    "seed": "seed",
    "stop": "stop",
    "max_completion_tokens": "max_new_tokens",
    "max_new_tokens": "max_new_tokens",
    "top_k": "top_k",
    "repetition_penalty": "repetition_penalty",
    "do_sample": "do_sample",
}
"""Their names for parameters, and ours; the newer of theirs for one thing stands later and wins."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "tools": (None, []),
    "functions": (None, []),
    "tool_choice": (None, "none", "auto"),
    "logprobs": (None, False),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logit_bias": (None, {}),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "audio": (None,),
}
"""What is not there, with the values that ask for nothing."""


class Refused(Exception):
    """An error in OpenAI's shape."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclass(frozen=True, kw_only=True)
class ChatRequest:
    """A request that can be asked."""

    model: str
    messages: tuple[dict[str, str], ...]
    parameters: Mapping[str, Any]
    stream: bool
    counts: bool

    @property
    def slot(self) -> str | None:
        """The slot that is asked; None is live traffic."""
        return None if self.model == LIVE else self.model


def read(raw: bytes, models: Sequence[str]) -> ChatRequest:
    """A request to ``/v1/chat/completions``.

    Args:
        raw: its body.
        models: the models that there are.

    Raises:
        Refused: something in it is wrong, or not there.
    """
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise Refused(400, "the body must be an object")
    model = body.get("model")
    if model not in models:
        message = f"there is no model '{str(model)[:80]}'; there are: {', '.join(models)}"
        raise Refused(404, message, param="model", code="model_not_found")
    for name, nothing in NEUTRAL.items():
        if body.get(name) not in nothing:
            raise Refused(400, f"'{name}' is not supported by this server", param=name, code="unsupported_parameter")
    parameters = {ours: body[theirs] for theirs, ours in NAMES.items() if body.get(theirs) is not None}
    if isinstance(parameters.get("stop"), str):
        parameters["stop"] = [parameters["stop"]]
    messages = _messages(body.get("messages"))
    try:
        text = payload(messages, parameters)
    except ValueError:
        raise Refused(400, "messages has a character that is none", param="messages") from None
    _, problems = check_text(text, name="the request")
    if problems:
        field = problems[0].field.removeprefix("input_data.").replace("input_string", "messages")
        raise Refused(400, f"{field} {problems[0].message}".strip(), param=field or None)
    options = body.get("stream_options")
    return ChatRequest(
        model=str(model),
        messages=tuple(messages),
        parameters=parameters,
        stream=body.get("stream") is True,
        counts=isinstance(options, dict) and options.get("include_usage") is True,
    )


def payload(messages: Any, parameters: Any) -> bytes:
    """What is sent to the endpoint, as it is checked before.

    Raises:
        ValueError: a text holds half a character, which JSON can name and nobody can send.
    """
    document = {"input_data": {"input_string": messages, "parameters": parameters}}
    return json.dumps(document, ensure_ascii=False).encode()


def _messages(given: Any) -> list[dict[str, str]]:
    """Their messages as ours: roles and texts; a text may come in parts, a developer speaks as the system."""
    if not isinstance(given, list) or not given:
        raise Refused(400, "messages must be a list with at least one message", param="messages")
    messages = []
    for index, message in enumerate(given):
        field = f"messages[{index}]"
        if not isinstance(message, dict):
            raise Refused(400, f"{field} must be an object", param=field)
        content = message.get("content")
        if isinstance(content, list):
            texts = [part.get("text") if isinstance(part, dict) else None for part in content]
            if not all(isinstance(text, str) for text in texts):
                raise Refused(400, f"{field}.content has a part that is no text", param=f"{field}.content")
            content = "".join(str(text) for text in texts)
        if not isinstance(content, str):
            raise Refused(400, f"{field}.content must be a text", param=f"{field}.content")
        role = message.get("role")
        if not isinstance(role, str):
            raise Refused(400, f"{field}.role must be a text", param=f"{field}.role")
        messages.append({"role": "system" if role == "developer" else role, "content": content})
    return messages


def listed(models: Sequence[str]) -> dict[str, Any]:
    """The answer to ``GET /v1/models``."""
    return {"object": "list", "data": [described(name) for name in models]}


def described(name: str) -> dict[str, Any]:
    """One model."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "mlops"}


async def whole(asker: Asker, request: ChatRequest) -> tuple[dict[str, Any], dict[str, str]]:
    """An answer in one piece, and its headers.

    Raises:
        Refused: the endpoint did not answer.
    """
    answer = await _answered(asker, request)
    message = {"role": "assistant", "content": answer.texts[0], "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason or "stop"}
    body = {**_head("chat.completion", request), "choices": [choice]}
    counts = _usage(answer)
    return {**body, **({"usage": counts} if counts else {})}, _headers(answer)


async def _answered(asker: Asker, request: ChatRequest) -> Answer:
    async for event in _asked(asker, request):
        if isinstance(event, Answer):
            return event
    raise Refused(502, "the endpoint did not answer", kind="server_error")


async def _asked(asker: Asker, request: ChatRequest) -> AsyncIterator[str | Answer]:
    """Pieces and the good answer; a bad one is raised in OpenAI's shape."""
    try:
        async for event in asker.ask(request.messages, request.parameters, slot=request.slot):
            if isinstance(event, Answer) and not event.ok:
                raise refused(event)
            yield event
    except MlopsError as error:
        status = 404 if isinstance(error, PreconditionError) else 502
        text = f"{error.message} ({error.hint})" if error.hint else error.message
        raise Refused(status, text, kind="server_error") from error


async def streamed(asker: Asker, request: ChatRequest) -> AsyncIterator[str]:
    """An answer as server-sent events.

    The first event comes with the answer's first piece, so that what fails before that is an error with a status.

    Raises:
        Refused: the endpoint did not answer.
    """
    head = _head("chat.completion.chunk", request)
    started = False
    try:
        async for event in _asked(asker, request):
            if not started:
                yield _event(head, {"role": "assistant", "content": ""})
            if isinstance(event, str):
                yield _event(head, {"content": event})
            else:
                if not started:
                    yield _event(head, {"content": event.texts[0]})
                yield _event(head, {}, event.finish_reason or "stop")
                counts = _usage(event)
                if request.counts and counts:
                    yield f"data: {json.dumps({**head, 'choices': [], 'usage': counts})}\n\n"
            started = True
    except Refused as error:
        if not started:
            raise
        yield f"data: {json.dumps(error.body)}\n\n"
    yield "data: [DONE]\n\n"


def refused(answer: Answer) -> Refused:
    """Why the endpoint did not answer, with the status that their clients understand."""
    message = answer.error or "the endpoint did not answer"
    if '"BadRequest"' in answer.raw:  # our scoring script's word for what the sender has to change
        return Refused(400, message.removeprefix(f"HTTP {answer.status}: "))
    if answer.status == 429:
        return Refused(429, message, kind="rate_limit_error", code="rate_limit_exceeded")
    if answer.status == 408:
        return Refused(504, message, kind="server_error", code="timeout")
    return Refused(502, message, kind="server_error")


def _head(kind: str, request: ChatRequest) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": request.model,
    }


def _event(head: Mapping[str, Any], delta: Mapping[str, Any], reason: str | None = None) -> str:
    choice = {"index": 0, "delta": dict(delta), "logprobs": None, "finish_reason": reason}
    return f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"


def _usage(answer: Answer) -> dict[str, int] | None:
    """Their counts, where the server has counted."""
    if answer.prompt_tokens is None or answer.completion_tokens is None:
        return None
    both = answer.prompt_tokens + answer.completion_tokens
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "total_tokens": both,
    }


def _headers(answer: Answer) -> dict[str, str]:
    return {"azureml-model-deployment": answer.slot} if answer.slot else {}
