"""Reading chats, line by line, and deciding which split a row belongs to."""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chat_completion.common.refusal import Refusal

SPLIT_SEED = 42
"""The registry's component splits with this seed as well."""

BLOCK = 10
"""Splits are drawn inside blocks of this many rows: their shares are exact and nothing is held in memory."""

CHUNK_BYTES = 2_000_000
"""A chunk ends here at the latest, so that memory does not grow with the length of the rows."""


@dataclass(frozen=True)
class Chat:
    """One row: its place, for messages, and its turns."""

    location: str
    messages: list[dict[str, str]]


@dataclass(frozen=True)
class Chunk:
    """Some lines of a file that follow each other: what one process reads at a time.

    Attributes:
        path: the file.
        start: byte at which the first line begins.
        line: the first line's number.
        lines: how many there are.
        rows: how many of them hold a row; the others are blank.
    """

    path: Path
    start: int
    line: int
    lines: int
    rows: int


def check_messages(messages: Any, location: str) -> list[dict[str, str]]:
    """The turns of one row.

    Raises:
        Refusal: when they are not what a chat template takes, with the row's file and line.
    """
    if not isinstance(messages, list) or not messages:
        raise Refusal(f"{location}: 'messages' must be a list with at least one message")
    turns = []
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise Refusal(f"{location}: messages[{index}] is no object with 'role' and 'content'")
        role, content = message.get("role"), message.get("content")
        if role not in ("system", "user", "assistant"):
            raise Refusal(f"{location}: messages[{index}].role is {role!r}; expected 'system', 'user' or 'assistant'")
        if role == "system" and index:
            raise Refusal(f"{location}: messages[{index}] is a system message; only the first may be one")
        if not isinstance(content, str):
            raise Refusal(f"{location}: messages[{index}].content is no text")
        turns.append({"role": role, "content": content})
    return turns


def chunks(path: Path, *, rows: int) -> Iterator[Chunk]:
    """A jsonl file, cut into chunks of at most `rows` rows and about `CHUNK_BYTES` bytes."""
    if not path.is_file():
        raise Refusal(f"no file at '{path}'")
    start, first, rows_read, position = 0, 1, 0, 0
    number = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            position += len(line)
            rows_read += not line.isspace()
            if rows_read == rows or position - start >= CHUNK_BYTES:
                yield Chunk(path, start, first, number - first + 1, rows_read)
                start, first, rows_read = position, number + 1, 0
    if rows_read:
        yield Chunk(path, start, first, number - first + 1, rows_read)


def read_chunk(chunk: Chunk) -> Iterator[Chat]:
    """The rows of a chunk, one at a time.

    Raises:
        Refusal: with file and line, when a line is no JSON object or holds no proper conversation.
    """
    import orjson

    with chunk.path.open("rb") as lines:
        lines.seek(chunk.start)
        for number, line in enumerate(itertools.islice(lines, chunk.lines), start=chunk.line):
            if line.isspace():
                continue
            location = f"{chunk.path.name}:{number}"
            try:
                row = orjson.loads(line)
            except ValueError as error:
                raise Refusal(f"{location}: not JSON in UTF-8: {error}") from error
            if not isinstance(row, dict):
                raise Refusal(f"{location}: a row must be an object with 'messages'")
            yield Chat(location, check_messages(row.get("messages"), location))


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


def draw_splits(plan: tuple[str, ...]) -> Iterator[str]:
    """The splits of a file's rows, in order and without end. The same plan gives the same splits."""
    draw = random.Random(SPLIT_SEED)  # noqa: S311 - a sample, not a secret
    while True:
        yield from reversed(draw.sample(plan, len(plan)))
