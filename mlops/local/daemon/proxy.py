"""The forward proxy: Azure's hosts are answered here, all others pass through untouched.

A client says ``CONNECT host:443``. For a host that this workspace serves the bytes go to its TLS server; another of
Azure's hosts is refused, so that nothing under this workspace reaches the real Azure; the rest is tunnelled to where it
wants to go, by way of the proxy that was in force before.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import logging
import socket
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from mlops.local.daemon import hosts
from mlops.local.state.accounts import ServedAccounts

log = logging.getLogger(__name__)

HEAD_LIMIT = 64 * 1024
HEAD_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 30.0
CHUNK = 256 * 1024

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True)
class Upstream:
    """The way out that was set before this workspace's own: a proxy, and hosts that go round it."""

    proxy: str | None = None
    no_proxy: str = ""

    def for_host(self, host: str) -> str | None:
        """The proxy for a host, None for a direct connection (the rules of NO_PROXY as curl and requests read them)."""
        if self.proxy is None:
            return None
        for entry in (part.strip().lower() for part in self.no_proxy.replace(" ", ",").split(",")):
            if not entry:
                continue
            if entry == "*" or _matches(host, entry):
                return None
        return self.proxy


def _matches(host: str, entry: str) -> bool:
    entry = entry.rsplit(":", 1)[0] if entry.count(":") == 1 else entry
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    bare = entry.lstrip("*").lstrip(".")
    return host == bare or host.endswith(f".{bare}")


class Refused(Exception):
    """The proxy answers with a status of its own."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


class Proxy:
    """One listening socket on loopback."""

    def __init__(self, accounts: ServedAccounts, upstream: Upstream, tls_port: int) -> None:
        self._accounts = accounts
        self._upstream = upstream
        self._tls_port = tls_port
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self.port = 0

    async def start(self, port: int = 0) -> None:
        """Listen on a free port of 127.0.0.1, or on the given one."""
        self._server = await asyncio.start_server(self._client, "127.0.0.1", port, limit=HEAD_LIMIT)
        self.port = self._server.sockets[0].getsockname()[1]
        before = urlsplit(self._upstream.proxy or "")
        if before.hostname in ("127.0.0.1", "localhost") and before.port == self.port:
            self._upstream = Upstream()  # a shell that holds half of this workspace's variables: no going in circles

    async def stop(self) -> None:
        """Close the socket and every tunnel."""
        if self._server is not None:
            self._server.close()
        for task in list(self._clients):
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            await self._serve(reader, writer)
        except Refused as refused:
            body = f"{refused}\n".encode()
            head = f"HTTP/1.1 {refused.status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
            with contextlib.suppress(OSError):
                writer.write(head.encode() + b"Connection: close\r\n\r\n" + body)
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client or the other side went away
        except asyncio.CancelledError:
            pass  # the daemon stops
        except Exception:
            log.exception("proxy")
        finally:
            self._clients.discard(task)
            await _close(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEAD_TIMEOUT_S)
        line, _, rest = head.partition(b"\r\n")
        try:
            method, target, _version = line.decode("latin-1").split(" ")
        except ValueError as error:
            raise Refused("400 Bad Request", "This is an HTTP proxy.") from error
        if method == "CONNECT":
            other = await self._tunnel(target)
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            other = await self._plain(method, target, rest)
        try:
            await _splice((reader, writer), other)
        finally:
            await _close(other[1])

    async def _tunnel(self, target: str) -> Streams:
        host, port = _split(target, 443)
        if hosts.service(host, self._accounts) is not None:
            if port != 443:
                raise Refused("403 Forbidden", f"'{host}' is served on port 443 only.")
            return await asyncio.open_connection("127.0.0.1", self._tls_port, limit=CHUNK)
        _refuse_azure(host)
        proxy = self._upstream.for_host(host)
        if proxy is None:
            return await _connect(host, port)
        streams = await _connect_proxy(proxy)
        shown = f"[{host}]" if ":" in host else host
        request = f"CONNECT {shown}:{port} HTTP/1.1\r\nHost: {shown}:{port}\r\n{_authorization(proxy)}\r\n"
        streams[1].write(request.encode("latin-1"))
        answer = await asyncio.wait_for(streams[0].readuntil(b"\r\n\r\n"), CONNECT_TIMEOUT_S)
        status = answer.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 1)[1]
        if not status.startswith("2"):
            await _close(streams[1])
            raise Refused(status, f"The proxy before this one answered '{status}' for '{host}'.")
        return streams

    async def _plain(self, method: str, target: str, rest: bytes) -> Streams:
        """A request in absolute form, ``GET http://host/path``; one per connection, so that headers stay untouched."""
        url = urlsplit(target)
        if url.scheme != "http" or not url.hostname:
            raise Refused("400 Bad Request", "This is an HTTP proxy: CONNECT host:port, or an absolute http:// url.")
        host = url.hostname.lower().rstrip(".")
        _refuse_azure(host)
        kept = [header for header in rest.split(b"\r\n") if header and not header.lower().startswith(_HOP_BY_HOP)]
        headers = b"".join(header + b"\r\n" for header in kept) + b"Connection: close\r\n"
        proxy = self._upstream.for_host(host)
        if proxy is None:
            streams = await _connect(host, url.port or 80)
            path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        else:
            streams = await _connect_proxy(proxy)
            path = target
            headers += _authorization(proxy).encode("latin-1")
        streams[1].write(f"{method} {path} HTTP/1.1\r\n".encode("latin-1") + headers + b"\r\n")
        return streams


_HOP_BY_HOP = (b"proxy-connection:", b"connection:", b"keep-alive:", b"proxy-authorization:")


def _split(target: str, default: int) -> tuple[str, int]:
    host, separator, port = target.rpartition(":")
    if not separator or (host.count(":") and not host.startswith("[")):
        host, port = target, str(default)
    host = host.strip("[]").lower().rstrip(".")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise Refused("400 Bad Request", f"'{target}' is not a host and port.")
    return host, int(port)


def _refuse_azure(host: str) -> None:
    if hosts.is_azure(host):
        log.warning("refused '%s': Azure's, and not served by the local workspace", host)
        raise Refused(
            "403 Forbidden", f"'{host}' is Azure's; the local workspace does not serve it and lets nothing out."
        )


async def _connect(host: str, port: int, context: ssl.SSLContext | None = None) -> Streams:
    try:
        return await asyncio.wait_for(asyncio.open_connection(host, port, limit=CHUNK, ssl=context), CONNECT_TIMEOUT_S)
    except TimeoutError as error:
        raise Refused("504 Gateway Timeout", f"'{host}:{port}' did not answer in time.") from error
    except OSError as error:
        raise Refused("502 Bad Gateway", f"'{host}:{port}' cannot be reached: {error.strerror or error}.") from error


async def _connect_proxy(proxy: str) -> Streams:
    url = urlsplit(proxy)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise Refused("502 Bad Gateway", f"A '{url.scheme}' proxy is not supported; set one that speaks http.")
    context = ssl.create_default_context() if url.scheme == "https" else None
    return await _connect(url.hostname, url.port or (443 if context else 80), context)


def _authorization(proxy: str) -> str:
    url = urlsplit(proxy)
    if url.username is None:
        return ""
    pair = f"{unquote(url.username)}:{unquote(url.password or '')}"
    return f"Proxy-Authorization: Basic {base64.b64encode(pair.encode()).decode()}\r\n"


async def _splice(left: Streams, right: Streams) -> None:
    """Copy both ways until both sides are done, or either breaks."""
    client = left[1].get_extra_info("socket")
    tasks = [asyncio.create_task(_copy(left[0], right[1], client)), asyncio.create_task(_copy(right[0], left[1]))]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[1] not in done:  # the client is done sending; the answer may still come
            await asyncio.wait([tasks[1]])
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, source: Any = None) -> None:
    while chunk := await reader.read(CHUNK):
        if source is not None:
            _acknowledge(source)
        writer.write(chunk)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


def _acknowledge(source: Any) -> None:
    """Acknowledge at once what was read.

    urllib3 turns Nagle's algorithm on for proxies and sends a request's head and body apart: the body would wait the
    40 ms after which the kernel acknowledges the head by itself.
    """
    if hasattr(socket, "TCP_QUICKACK"):
        with contextlib.suppress(OSError):
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, ssl.SSLError, asyncio.CancelledError):
        await writer.wait_closed()
