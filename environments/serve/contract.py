"""What the endpoint takes and gives, apart from the server that answers: score.py and front.py share it."""

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

from payload import complaint

MAX_BODY_BYTES = 16 * 2**20


class Refused(Exception):
    """A request that its sender has to change."""

    def __init__(self, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.status = status

    @property
    def body(self) -> str:
        """The answer's body."""
        return json.dumps({"error": {"code": "BadRequest", "message": str(self)}})


@dataclass(frozen=True)
class Payload:
    """A payload that is right.

    Attributes:
        conversations: each a list of messages, the last one the user's.
        single: whether there was one conversation outside any list.
        parameters: how to generate; of a name in both places `parameters` wins over `params`.
    """

    conversations: list[list[dict[str, str]]]
    single: bool
    parameters: dict[str, Any]


class Answer(NamedTuple):
    """The answer to one conversation; what a model does not tell is None."""

    text: str
    usage: dict[str, int] | None
    finish_reason: str | None


def check_method(method: str) -> None:
    """Raises Refused for what is no POST."""
    if method != "POST":
        raise Refused(f"{method} is not answered here; POST a payload", status=405)


def check_size(size: int) -> None:
    """Raises Refused for a body of too many bytes."""
    if size > MAX_BODY_BYTES:
        raise Refused(f"the payload has {size} bytes; at most {MAX_BODY_BYTES} are taken", status=413)


def read(body: bytes) -> Payload:
    """Takes a payload apart.

    Raises:
        Refused: it is no JSON, or not what the schema describes.
    """
    try:
        payload = json.loads(body)
        if b"\\ud" in body.lower():  # half of a surrogate pair is no text, which no tokenizer takes
            json.dumps(payload, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise Refused(f"the payload is not JSON in UTF-8: {error}") from error
    wrong = complaint(payload)
    if wrong is not None:
        raise Refused(wrong)
    data = payload["input_data"]
    conversations = data["input_string"]
    single = isinstance(conversations[0], dict)
    parameters = {**payload.get("params", {}), **data.get("parameters", {})}
    return Payload([conversations] if single else conversations, single, parameters)


def body_of(answers: list[Answer], *, single: bool) -> str:
    """What a caller gets for the answers to one request."""
    body: dict[str, Any] = {"output": answers[0].text if single else [answer.text for answer in answers]}
    usages = [answer.usage for answer in answers if answer.usage is not None]
    if len(usages) == len(answers):
        body["usage"] = {name: sum(usage[name] for usage in usages) for name in usages[0]}
    reasons = [answer.finish_reason for answer in answers]
    if None not in reasons:
        body["finish_reason"] = reasons[0] if single else reasons
    return json.dumps(body, ensure_ascii=False)
