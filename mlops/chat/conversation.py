"""What was said so far, and the request that the next question makes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mlops.core.errors import DataInvalid, UsageError
from mlops.data.payload import PARAMETERS, check_text

NAMES = "temperature, top_p, top_k, do_sample, max_new_tokens, repetition_penalty, seed, stop"
SAME = ("max_new_tokens", "max_tokens", "max_gen_len")
"""Names of one parameter; a request may hold one of them."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One question with its answer; who gave it, and its figures where the server tells them."""

    question: str
    answer: str
    slot: str | None = None
    latency_ms: float | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """All that a request is made of.

    Attributes:
        left_out: so many of the oldest turns are no longer sent, since they do not fit.
    """

    system: str | None = None
    turns: tuple[Turn, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=lambda: dict(PARAMETERS))
    left_out: int = 0

    def messages(self, question: str) -> list[dict[str, str]]:
        """The messages that are sent for a question."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.turns[self.left_out :]:
            messages += [{"role": "user", "content": turn.question}, {"role": "assistant", "content": turn.answer}]
        return [*messages, {"role": "user", "content": question}]

    def payload(self, question: str) -> dict[str, Any]:
        """The request for a question."""
        return {
            "input_data": {"input_string": self.messages(question), "parameters": dict(self.parameters)},
            "params": {},
        }

    def characters(self, question: str) -> int:
        """The size of what is sent for a question."""
        return sum(len(message["content"]) for message in self.messages(question))

    def answered(self, turn: Turn) -> Conversation:
        """The conversation with one more turn."""
        return replace(self, turns=(*self.turns, turn))

    def without_last(self) -> Conversation:
        """The conversation before its last turn."""
        turns = self.turns[:-1]
        return replace(self, turns=turns, left_out=min(self.left_out, len(turns)))

    def with_parameters(self, given: Mapping[str, Any]) -> Conversation:
        """The conversation with other parameters; None takes one away.

        Raises:
            UsageError: no server takes them.
        """
        parameters = dict(self.parameters)
        for name, value in given.items():
            for same in SAME if name in SAME else (name,):
                parameters.pop(same, None)
            if value is not None:
                parameters[name] = value
        changed = replace(self, parameters=parameters)
        for problem in check_text(json.dumps(changed.payload("?")).encode(), name="the parameters")[1]:
            name = problem.field.removeprefix("input_data.parameters").removeprefix(".") or "the parameters"
            raise UsageError(f"{name} {problem.message}", hint=f"parameters are {NAMES}")
        return changed

    def checked(self, question: str) -> str:
        """A question that can be sent.

        Raises:
            DataInvalid: it is empty, or too long for any request.
        """
        if not question.strip():
            raise DataInvalid("the question is empty")
        try:
            question.encode()
        except UnicodeEncodeError:
            raise DataInvalid("the question is not UTF-8") from None
        raw = json.dumps({"input_data": {"input_string": [{"role": "user", "content": question}]}}).encode()
        for problem in check_text(raw, name="the question")[1]:
            raise DataInvalid(f"the question {problem.message}")
        return question


def whole(text: str) -> str:
    """A text of whole characters: halves that JSON let pass are joined, or replaced where the other is missing."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def parameter(text: str) -> tuple[str, Any]:
    """Read ``name=value``; the value is JSON where it can be, else a text; an empty one is None.

    Raises:
        UsageError: there is no name or no equals sign.
    """
    name, sign, value = text.partition("=")
    if not sign or not name.strip():
        raise UsageError(f"'{text}' is no parameter", hint="write name=value, as in temperature=0.2")
    if not value.strip():
        return name.strip(), None
    try:
        return name.strip(), json.loads(value)
    except ValueError:
        return name.strip(), value.strip()
