"""An answer that is told while it is written: server-sent events, read as they come.

Three shapes of an event's data are understood, each one a piece of the answer: OpenAI's
``{"choices": [{"delta": {"content": text}}]}``, the older ``{"choices": [{"text": text}]}``, and ``{"output": text}``,
as the whole answer would be. ``usage`` and ``finish_reason`` may stand in any of them, ``{"error": …}`` ends the answer
badly, and ``[DONE]`` or a finish reason ends it well.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

KIND = "text/event-stream"
DONE = "[DONE]"
LONGEST_EVENT = 4 * 2**20
"""Bytes of an event; a line that never ends must not fill the memory."""


@dataclass
class SseReader:
    """What has been told so far.

    Attributes:
        text: the answer up to here.
        usage: token counts, where the server sends them.
        finish_reason: why the answer ended: "stop", "length".
        error: what the server says went wrong.
        ended: whether the server has said that the text is whole.
        closed: whether it has said that nothing follows, not even counts.
    """

    text: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    finish_reason: str | None = None
    error: str | None = None
    ended: bool = False
    closed: bool = False
    _rest: bytes = b""
    _data: list[bytes] = field(default_factory=list)

    def feed(self, chunk: bytes) -> str:
        """Read on; the text that is new. Chunks may be cut anywhere, within a character too.

        Raises:
            ValueError: these are no events, or not of an answer.
        """
        before = len(self.text)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._line(line.removesuffix(b"\r"))
        if len(self._rest) > LONGEST_EVENT:
            raise ValueError(f"an event has more than {LONGEST_EVENT} bytes")
        return self.text[before:]

    def _line(self, line: bytes) -> None:
        """One line of the stream; an empty one ends an event. Only ``data`` matters here."""
        if line:
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
            return
        data, self._data = b"\n".join(self._data), []
        if data:
            self._event(data.decode("utf-8"))

    def _event(self, data: str) -> None:
        if data.strip() == DONE:
            self.ended = self.closed = True
            return
        event = json.loads(data)
        if not isinstance(event, dict):
            raise ValueError(f"no answer in {data[:120]!r}")
        if "error" in event:
            error = event["error"]
            self.error = str(error.get("message", error) if isinstance(error, dict) else error)[:500]
            return
        choices = event.get("choices") or [{}]
        choice: dict[str, Any] = choices[0] if isinstance(choices, list) and isinstance(choices[0], dict) else {}
        delta = choice.get("delta")
        content = delta.get("content") if isinstance(delta, dict) else None
        for piece in (content, choice.get("text"), event.get("output")):
            if isinstance(piece, str):
                self.text += piece
        usage = event.get("usage")
        if isinstance(usage, dict):
            self.usage = usage
        reason = choice.get("finish_reason") or event.get("finish_reason")
        if isinstance(reason, str):
            self.finish_reason, self.ended = reason, True
