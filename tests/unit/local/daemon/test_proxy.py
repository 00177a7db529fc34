"""The proxy: Azure's hosts end here, all others pass untouched by way of the proxy that was set before."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mlops.local.daemon import proxy
from mlops.local.daemon.environment import Outer
from mlops.local.daemon.hosts import is_azure
from mlops.local.daemon.proxy import Upstream
from tests.support.waiting import HANG_S
from tests.unit.local.conftest import Local, make_local

HOST = "service.example"


def serve(handle: Callable[[socket.socket], None]) -> tuple[socket.socket, int]:
    """Accept connections in threads until the socket is closed."""
    listening = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=guarded, args=(connection,), daemon=True).start()

    def guarded(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            handle(connection)

    threading.Thread(target=accept, daemon=True).start()
    return listening, listening.getsockname()[1]


def read_head(connection: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        chunk = connection.recv(65536)
        if not chunk:
            raise ConnectionError("ended early")
        head += chunk
    return head


@dataclass
class World:
    """An origin with TLS, one without, and the only proxy that knows the way to them by name."""

    folder: Path
    seen: list[bytes] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ca = self.folder / "origin.pem"
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
        now = datetime.now(UTC)
        names = x509.SubjectAlternativeName([x509.DNSName(HOST), x509.DNSName("localhost")])
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(now - timedelta(1))
            .not_valid_after(now + timedelta(1))
            .add_extension(names, critical=False)
            .sign(key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        raw = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        self.ca.write_bytes(made.public_bytes(pem))
        (self.folder / "origin.key").write_bytes(raw)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(self.ca, self.folder / "origin.key")
        self.tls, self.tls_port = serve(self.answer_tls)
        self.plain, self.plain_port = serve(self.answer)
        self.proxy, self.proxy_port = serve(self.forward)

    def close(self) -> None:
        for listening in (self.tls, self.plain, self.proxy):
            listening.close()

    def answer(self, connection: socket.socket) -> None:
        self.heads.append(read_head(connection))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nX-Origin: it\r\nConnection: close\r\n\r\norigin")

    def answer_tls(self, connection: socket.socket) -> None:
        with self.context.wrap_socket(connection, server_side=True) as secure:
            self.answer(secure)

    def forward(self, connection: socket.socket) -> None:
        head = read_head(connection)
        self.seen.append(head)
        method, target, _ = head.split(b"\r\n", 1)[0].split(b" ")
        if b"refused.example" in target:
            connection.sendall(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
            return
        port = self.tls_port if method == b"CONNECT" else self.plain_port
        with socket.create_connection(("127.0.0.1", port)) as other:
            if method == b"CONNECT":
                connection.sendall(b"HTTP/1.1 200 fine\r\n\r\n")
            else:
                other.sendall(head)
            back = threading.Thread(target=pump, args=(other, connection), daemon=True)
            back.start()
            if method == b"CONNECT":
                pump(connection, other)
            back.join(HANG_S)


def pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while chunk := source.recv(65536):
            target.sendall(chunk)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("world"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def behind(world: World, tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Iterator[Local]:
    """A workspace that was started in a shell with every variable set that could lead elsewhere."""
    outer = f"http://us%65r:p%40ss@127.0.0.1:{world.proxy_port}"
    daemon = make_local(
        tmp_path_factory.mktemp("behind"),
        shared_cache,
        MLOPS_LOCAL_PARTS="none",
        https_proxy=outer,
        HTTPS_PROXY="http://127.0.0.1:9",
        ALL_PROXY="socks5://127.0.0.1:9",
        NO_PROXY="localhost,.azure.com,.windows.net,*.azureml.ms,login.microsoftonline.com",
        no_proxy="localhost,.azure.com,.windows.net,*.azureml.ms,login.microsoftonline.com",
        REQUESTS_CA_BUNDLE=str(world.ca),
        SSL_CERT_FILE=str(world.ca),
        AZURE_AUTHORITY_HOST="https://login.elsewhere.example",
        AZURE_TOKEN_CREDENTIALS="ManagedIdentityCredential",
        IDENTITY_ENDPOINT="http://127.0.0.1:9/identity",
        MSI_ENDPOINT="http://127.0.0.1:9/msi",
        ARM_CLOUD_METADATA_URL="https://elsewhere.example/clouds",
    )
    daemon.start()
    yield daemon
    daemon.stop()


def ask(local: Local, host: str, port: int = 443, *, context: ssl.SSLContext | None = None) -> http.client.HTTPResponse:
    connection = http.client.HTTPSConnection("127.0.0.1", local.record()["proxy_port"], context=context, timeout=HANG_S)
    connection.set_tunnel(host, port)
    connection.request("GET", "/page?x=1")
    return connection.getresponse()


def test_a_foreign_host_passes_untouched_through_the_proxy_before(behind: Local, world: World) -> None:
    world.seen.clear()
    context = ssl.create_default_context(cafile=str(world.ca))  # the origin's own certificate, nobody between
    response = ask(behind, HOST, context=context)
    assert response.read() == b"origin"
    assert response.headers["X-Origin"] == "it"
    (head,) = world.seen
    assert head.startswith(f"CONNECT {HOST}:443 HTTP/1.1\r\n".encode())
    assert b"Proxy-Authorization: Basic " + base64.b64encode(b"user:p@ss") in head


def test_what_went_round_the_proxy_before_still_does(behind: Local, world: World) -> None:
    world.seen.clear()
    context = ssl.create_default_context(cafile=str(world.ca))
    assert ask(behind, "localhost", world.tls_port, context=context).read() == b"origin"
    assert world.seen == []


def test_plain_http_passes_too(behind: Local, world: World) -> None:
    world.seen.clear()
    connection = http.client.HTTPConnection("127.0.0.1", behind.record()["proxy_port"], timeout=HANG_S)
    connection.request("GET", f"http://{HOST}/page?x=1", headers={"X-Mine": "kept", "Proxy-Connection": "keep-alive"})
    assert connection.getresponse().read() == b"origin"
    connection.request("GET", f"http://localhost:{world.plain_port}/page?x=1")
    assert connection.getresponse().read() == b"origin"
    connection.close()
    (head,) = world.seen
    assert head.startswith(f"GET http://{HOST}/page?x=1 HTTP/1.1\r\n".encode())
    assert b"X-Mine: kept" in head
    assert b"Proxy-Connection" not in head
    assert world.heads[-1].startswith(b"GET /page?x=1 HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "host",
    [
        "portal.azure.com",
        "other.blob.core.windows.net",
        "myvault.vault.azure.net",
        "graph.microsoft.com",
        "westus.experiments.azureml.net",
        "mobile.events.data.microsoft.com",
        "169.254.169.254",
    ],
)
def test_azure_hosts_that_are_not_served_are_refused(behind: Local, world: World, host: str) -> None:
    world.seen.clear()
    with pytest.raises(OSError, match="403"):
        ask(behind, host)
    connection = http.client.HTTPConnection("127.0.0.1", behind.record()["proxy_port"], timeout=HANG_S)
    connection.request("GET", f"http://{host}/metadata")
    response = connection.getresponse()
    assert response.status == 403
    assert host in response.read().decode()
    assert world.seen == []


def test_the_refusal_of_the_proxy_before_is_passed_on(behind: Local) -> None:
    with pytest.raises(OSError, match="407 Who are you"):
        ask(behind, "refused.example")


def test_an_unreachable_host_is_a_bad_gateway(behind: Local) -> None:
    with pytest.raises(OSError, match="502"):
        ask(behind, "localhost", 9)


@pytest.mark.parametrize(
    "request_line",
    [b"GET / HTTP/1.1", b"nonsense", b"CONNECT :0 HTTP/1.1", b"CONNECT management.azure.com:22 HTTP/1.1"],
)
def test_what_is_no_proxy_request_is_refused(behind: Local, request_line: bytes) -> None:
    with socket.create_connection(("127.0.0.1", behind.record()["proxy_port"])) as connection:
        connection.sendall(request_line + b"\r\nHost: x\r\n\r\n")
        assert connection.recv(65536).split(b" ")[1] in (b"400", b"403")


def test_inherited_variables_lead_nowhere_else(behind: Local, world: World) -> None:
    """The whole dance of the SDK, in the environment of a shell that was set up for the real Azure."""
    world.seen.clear()
    out = behind.run_python("""
        import os
        from azure.ai.ml import MLClient
        from azure.core.exceptions import ResourceNotFoundError
        from azure.identity import DefaultAzureCredential
        from azure.storage.blob import BlobServiceClient
        names = ("AZURE_SUBSCRIPTION_ID", "AZURE_RESOURCE_GROUP", "AZUREML_WORKSPACE_NAME")
        client = MLClient(DefaultAzureCredential(), *(os.environ[name] for name in names))
        try:
            client.workspaces.get("local")
        except ResourceNotFoundError as error:
            print("asked", error.error.code)
        blobs = BlobServiceClient("https://mlopslocal.blob.core.windows.net", credential=DefaultAzureCredential())
        print(len(list(blobs.list_containers())))
    """)
    assert out.split() == ["asked", "InvalidResourceType", "2"]
    assert world.seen == []


def test_the_roots_that_were_trusted_before_still_are(behind: Local, world: World) -> None:
    out = behind.run_python(f"""
        import requests, urllib.request, ssl
        print(requests.get("https://{HOST}/").text, urllib.request.urlopen("https://{HOST}/").read().decode())
    """)
    assert out.split() == ["origin", "origin"]


def test_a_workspace_within_a_workspace_sees_the_way_out_of_the_first(behind: Local, world: World) -> None:
    outer = Outer.read(behind.env)
    assert outer.proxy is not None
    assert outer.proxy.endswith(f"@127.0.0.1:{world.proxy_port}")
    assert outer.bundle == str(world.ca)


def test_a_foreign_host_header_is_refused(behind: Local) -> None:
    context = ssl.create_default_context(cafile=str(behind.state / "tls" / "ca.pem"))
    connection = http.client.HTTPSConnection(
        "127.0.0.1", behind.record()["proxy_port"], context=context, timeout=HANG_S
    )
    connection.set_tunnel("management.azure.com", 443)
    for host, status in (("evil.example", 421), ("127.0.0.1", 421), ("management.azure.com:8443", 421), ("", 421)):
        connection.request("GET", "/subscriptions", headers={"Host": host})
        response = connection.getresponse()
        response.read()
        assert response.status == status
    connection.close()


@pytest.mark.parametrize(
    ("host", "no_proxy", "direct"),
    [
        ("a.example", "", False),
        ("a.example", "example", True),
        ("a.example", ".example", True),
        ("a.example", "*.example", True),
        ("a.example", "a.example:443", True),
        ("aexample", ".example", False),
        ("a.example", "*", True),
        ("a.example", "other, a.example", True),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("::1", "::1", True),
    ],
)
def test_no_proxy_is_read_as_others_read_it(host: str, no_proxy: str, direct: bool) -> None:
    assert (Upstream("http://proxy:1", no_proxy).for_host(host) is None) == direct


def test_githubs_own_storage_is_not_taken_for_a_workspace() -> None:
    assert not is_azure("productionresultssa7.blob.core.windows.net")
    assert is_azure("productionresultssa7.evil.blob.core.windows.net")
    assert not is_azure("example.org")
    assert not is_azure("notazure.com")


async def test_what_was_read_is_acknowledged_at_once() -> None:
    """A client that sends head and body apart would wait 40 ms for the kernel's own acknowledgement of the head.

    How long calls take: tests/benchmarks/control_plane.py.
    """
    client, source = socket.socketpair()
    target, server = socket.socketpair()
    acknowledged: list[tuple[int, int, int]] = []

    class Source:
        def setsockopt(self, level: int, name: int, value: int) -> None:
            acknowledged.append((level, name, value))

    with client, server:
        reader, incoming = await asyncio.open_connection(sock=source)
        _, writer = await asyncio.open_connection(sock=target)
        copying = asyncio.create_task(proxy._copy(reader, writer, Source()))
        loop = asyncio.get_running_loop()
        for sent, part in enumerate((b"head", b"body"), start=1):
            client.sendall(part)
            assert await loop.run_in_executor(None, server.recv, 4) == part
            assert acknowledged == sent * [(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)]
        client.shutdown(socket.SHUT_WR)
        await copying
        incoming.close()
        writer.close()
