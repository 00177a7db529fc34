"""What a scoring process answers, as it comes over the connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mlops.local.serving.streamed import Cut
from mlops.local.serving.upstream import Broken, Reply, exchange


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[int]:
    """A server that gives one answer, and hangs up; its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def ask(port: int) -> Reply:
    return await exchange(port, "POST", "/score", [], b"")


def chunked(kind: str, *chunks: str) -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n"
    return (head + "".join(chunks)).encode()


async def test_chunks_of_a_stream_come_without_their_sizes() -> None:
    async with answering(
        chunked("text/event-stream", "9\r\ndata: a\n\n\r\n", "A;x\r\ndata: ab\n\n\r\n", "0\r\n\r\n")
    ) as port:
        reply = await ask(port)
        assert reply.stream is not None
        assert [piece async for piece in reply.stream.pieces()] == [b"data: a\n\n", b"data: ab\n\n"]
        reply.stream.close()


async def test_a_whole_answer_in_chunks_is_put_together() -> None:
    async with answering(chunked("application/json", "3\r\n{}\n\r\n", "1\r\n\n\r\n", "0\r\n\r\n")) as port:
        assert (await ask(port)).body == b"{}\n\n"


@pytest.mark.parametrize("chunks", [("9\r\ndata:",), ("9\r\ndata: a\n\n\r\n",), ("what\r\n",)], ids=str)
async def test_half_an_answer_in_chunks_does_not_look_whole(chunks: tuple[str, ...]) -> None:
    async with answering(chunked("text/event-stream", *chunks)) as port:
        reply = await ask(port)
        assert reply.stream is not None
        with pytest.raises(Cut):
            [piece async for piece in reply.stream.pieces()]
        reply.stream.close()
    async with answering(chunked("application/json", *chunks)) as port:
        with pytest.raises(Broken):
            await ask(port)
