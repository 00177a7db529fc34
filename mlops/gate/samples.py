"""The conversations that a gate asks, drawn from a prepared split."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlops.core.errors import PreconditionError


@dataclass(frozen=True)
class Sample:
    """One conversation: the messages up to the last answer, and that answer as the reference."""

    messages: tuple[Mapping[str, str], ...]
    reference: str

    @property
    def prompt(self) -> str:
        """The message that is answered."""
        return self.messages[-1]["content"]


def draw(rows: Sequence[Mapping[str, Any]], *, count: int, seed: int) -> list[Sample]:
    """Draw conversations that have a reference answer.

    The same seed draws the same ones in the same order, and a smaller count draws the first of them: whoever takes
    more samples keeps those that were asked before.

    Raises:
        PreconditionError: no row ends with an answer.
    """
    usable = [
        row["messages"] for row in rows if len(row["messages"]) > 1 and row["messages"][-1]["role"] == "assistant"
    ]
    if not usable:
        raise PreconditionError("the gate's split has no conversation with a reference answer", hint="see gate.split")
    order = list(range(len(usable)))
    random.Random(seed).shuffle(order)  # noqa: S311 - a sample, no secret
    return [Sample(tuple(usable[at][:-1]), usable[at][-1]["content"]) for at in order[:count]]


def load_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a prepared split."""
    import orjson

    if not file.is_file():
        raise PreconditionError(f"the gate's split '{file.name}' is not in '{file.parent}'", hint="mlops data prepare")
    with file.open("rb") as lines:
        return [orjson.loads(line) for line in lines if line.strip()]


def payload(sample: Sample, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The request for one conversation."""
    messages = [{"role": message["role"], "content": message["content"]} for message in sample.messages]
    return {"input_data": {"input_string": messages, "parameters": dict(parameters)}, "params": {}}
