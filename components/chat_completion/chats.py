"""Reading chats, line by line, and deciding which split a row belongs to."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chat_completion.refusal import Refusal

SPLIT_SEED = 42
"""The registry's component splits with this seed as well."""

BLOCK = 10
"""Splits are drawn inside blocks of this many rows: their shares are exact and nothing is held in memory."""


@dataclass(frozen=True)
class Chat:
    """One row: its place, for messages, and its turns."""

    place: str
    messages: list[dict[str, str]]


def check_messages(messages: Any, place: str) -> list[dict[str, str]]:
    """The turns of one row.

    Raises:
        Refusal: when they are not what a chat template takes, with the row's file and line.
    """
    if not isinstance(messages, list) or not messages:
        raise Refusal(f"{place}: 'messages' must be a list with at least one message")
    turns = []
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise Refusal(f"{place}: messages[{index}] is no object with 'role' and 'content'")
        role, content = message.get("role"), message.get("content")
        if role not in {"system", "user", "assistant"}:
            raise Refusal(f"{place}: messages[{index}].role is {role!r}; expected 'system', 'user' or 'assistant'")
        if role == "system" and index:
            raise Refusal(f"{place}: messages[{index}] is a system message; only the first may be one")
        if not isinstance(content, str):
            raise Refusal(f"{place}: messages[{index}].content is no text")
        turns.append({"role": role, "content": content})
    return turns


def read_chats(path: Path) -> Iterator[Chat]:
    """The rows of a jsonl file, one at a time.

    Raises:
        Refusal: with file and line, when a line is no JSON object or holds no proper conversation.
    """
    if not path.is_file():
        raise Refusal(f"no file at '{path}'")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            place = f"{path.name}:{number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise Refusal(f"{place}: not JSON in UTF-8: {error}") from error
            if not isinstance(row, dict):
                raise Refusal(f"{place}: a row must be an object with 'messages'")
            yield Chat(place, check_messages(row.get("messages"), place))


def split_plan(*, validation: bool, test: bool) -> tuple[str, ...]:
    """Which split each row of a block goes to, before the block is shuffled.

    With both files given, all rows are for training. With neither, 80 % are, 10 % validate and 10 % test. With
    one missing, 20 % take its place.
    """
    if validation and test:
        return ("train",) * BLOCK
    if not validation and not test:
        return ("train",) * 8 + ("validation", "test")
    return ("train",) * 8 + ("test" if validation else "validation",) * 2


def assign_splits(chats: Iterator[Chat], plan: tuple[str, ...]) -> Iterator[tuple[str, Chat]]:
    """Each row with its split. The same rows in the same order get the same splits."""
    draw = random.Random(SPLIT_SEED)  # noqa: S311 - a sample, not a secret
    block: list[str] = []
    for chat in chats:
        if not block:
            block = draw.sample(plan, len(plan))
        yield block.pop(), chat
