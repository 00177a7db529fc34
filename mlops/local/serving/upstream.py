"""One HTTP exchange with a scoring process: a connection per request, on loopback, with asyncio alone.

HTTP/1.0 on purpose, as Azure's own proxy in front of the container does it: the answer ends with the connection, so
that no request can meet a kept connection that the other side is about to close. An answer is read whole, unless it is
a stream of events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from mlops.local.serving.streamed import Cut, Stream

READ_LIMIT = 256 * 1024


class Unreachable(Exception):
    """Nothing listens: the request was not seen by anybody and may go elsewhere."""


class Broken(Exception):
    """The connection ended before a whole answer had come."""


@dataclass(frozen=True)
class Reply:
    """What the scoring process answered: its body, or the stream that it will be."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    stream: Stream | None = None


async def exchange(port: int, method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes) -> Reply:
    """Send a request to 127.0.0.1 and read the answer; whoever gets a stream closes it."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=READ_LIMIT)
    except OSError as error:
        raise Unreachable(str(error)) from error
    stream: Stream | None = None
    try:
        lines = [f"{method} {target} HTTP/1.0", f"Host: 127.0.0.1:{port}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers]
        try:
            writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
            status, parsed = parse(head)
            length = next((value for name, value in parsed if name == "content-length"), None)
            chunked = any(name == "transfer-encoding" and value.lower() == "chunked" for name, value in parsed)
            coming = Stream(reader, writer, chunked=chunked)
            if method == "HEAD" or status in (204, 304):
                content = b""
            elif length is None and is_stream(parsed):
                content, stream = b"", coming
            elif length is None:
                content = b"".join([piece async for piece in coming.pieces()])
            else:
                content = await reader.readexactly(int(length))
        except (Cut, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
            raise Broken(str(error)) from error
        return Reply(status, parsed, content, stream)
    finally:
        if stream is None:
            writer.close()


def is_stream(headers: Iterable[tuple[str, str]]) -> bool:
    """Whether an answer is made of server-sent events."""
    kinds = [value.partition(";")[0].strip().lower() for name, value in headers if name == "content-type"]
    return kinds == ["text/event-stream"]


def parse(head: bytes) -> tuple[int, list[tuple[str, str]]]:
    """Status and headers (names in lower case) of an answer's head."""
    first, *rest = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    headers = []
    for line in rest:
        name, _, value = line.partition(":")
        headers.append((name.strip().lower(), value.strip()))
    return int(first.split(" ", 2)[1]), headers
