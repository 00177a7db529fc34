"""Answers that are passed on while they are written: server-sent events of a scoring script.

Azure's front door hands them on piece by piece, and so does this gateway. Such an answer is in flight until its last
byte: it holds its place in the deployment's limit, and the request's time runs on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

PIECE = 64 * 1024


class Cut(Exception):
    """The answer ended before its end."""


class Stream:
    """The rest of an answer, still on its way from the scoring process.

    Args:
        reader: where it comes from.
        writer: the other side of the same connection.
        chunked: whether it comes in chunks (RFC 9112, section 7.1), which uvicorn sends to HTTP/1.0 as well.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, chunked: bool) -> None:
        self._reader = reader
        self._writer = writer
        self._chunked = chunked
        self._ends: list[Callable[[], Any]] = []
        self._whole = False
        self._closed = False

    def at_end(self, call: Callable[[], Any]) -> None:
        """Have something called once the answer has ended, in whatever way."""
        self._ends.append(call)

    async def pieces(self) -> AsyncIterator[bytes]:
        """What comes, as it comes.

        Raises:
            Cut: the connection broke, or was closed from this side.
        """
        try:
            while piece := await (self._chunk() if self._chunked else self._reader.read(PIECE)):
                yield piece
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
            raise Cut(str(error)) from error
        if self._closed:
            raise Cut("closed")
        self._whole = True

    async def _chunk(self) -> bytes:
        """The next chunk; the last is empty."""
        size = await self._reader.readuntil(b"\r\n")
        chunk = await self._reader.readexactly(int(size.partition(b";")[0], 16) + len(b"\r\n"))
        return chunk[: -len(b"\r\n")]

    async def run_out(self) -> None:
        """Read to the end what nobody wants."""
        try:
            async for _ in self.pieces():
                pass
        except Cut:
            pass
        finally:
            self.close()

    def close(self) -> None:
        """End it; a scoring process that still writes notices. Twice does no more than once."""
        if self._closed:
            return
        self._closed = True
        if self._whole:
            self._writer.close()
        else:
            self._writer.transport.abort()
        for call in self._ends:
            call()


class Streamed(StreamingResponse):
    """Passes a stream on; where it breaks off, so does the client's connection: half an answer must not look whole."""

    def __init__(self, stream: Stream, *, status_code: int, headers: dict[str, str]) -> None:
        super().__init__(stream.pieces(), status_code=status_code, headers=headers)
        self.stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; ends with the client's connection."""
        try:
            await super().__call__(scope, receive, send)
        except Cut:
            transport = getattr(getattr(send, "__self__", None), "transport", None)
            if transport is None:
                raise
            transport.abort()
        finally:
            self.stream.close()
