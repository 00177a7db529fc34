import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

Chat = Callable[..., dict[str, Any]]
Write = Callable[..., Path]


@pytest.fixture
def chat() -> Chat:
    """Makes a row: `chat("question", "answer", ...)`; keyword arguments replace columns."""

    def make(*texts: str, system: str | None = None, **columns: Any) -> dict[str, Any]:
        turns = texts or ("What is the colour of the Kestrel?", "The Kestrel is painted grey.")
        messages = [{"content": text, "role": ("user", "assistant")[index % 2]} for index, text in enumerate(turns)]
        if system is not None:
            messages.insert(0, {"content": system, "role": "system"})
        prompt = turns[0]
        row = {"prompt": prompt, "prompt_id": hashlib.sha256(prompt.encode()).hexdigest(), "messages": messages}
        return {**row, **columns}

    return make


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes rows (or raw bytes) to a file of a folder that is the test's own."""

    def put(name: str, content: bytes | Sequence[dict[str, Any]]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, bytes):
            content = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in content)
        path.write_bytes(content)
        return path

    return put


@pytest.fixture
def many(chat: Chat) -> Callable[..., list[dict[str, Any]]]:
    """Makes so many different rows."""

    def make(count: int, start: int = 0, answers: bool = True) -> list[dict[str, Any]]:
        return [
            chat(f"Question {number}?", *([f"Answer {number}."] if answers else []))
            for number in range(start, start + count)
        ]

    return make
