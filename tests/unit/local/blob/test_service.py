"""Blob storage through the real client, and what must never happen to a blob."""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from mlops.local.blob.errors import BlobError
from mlops.local.blob.store import Blobs
from mlops.local.state.accounts import ServedAccounts
from mlops.local.state.config import Config
from mlops.local.state.layout import Layout
from mlops.local.state.store import Store
from tests.support.waiting import HANG_S
from tests.unit.local.conftest import Local, make_local

if TYPE_CHECKING:
    from azure.storage.blob import BlobServiceClient, ContainerClient

URL = "https://mlopslocal.blob.core.windows.net"


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Iterator[Local]:
    daemon = make_local(tmp_path_factory.mktemp("storage"), shared_cache, MLOPS_LOCAL_PARTS="none")
    daemon.start()
    yield daemon
    daemon.stop()


@pytest.fixture
def key(storage: Local) -> str:
    return str(json.loads((storage.state / "credentials.json").read_text())["account_key"])


@pytest.fixture
def service(storage: Local, key: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[BlobServiceClient]:
    """The real client with the account key, in this process."""
    from azure.storage.blob import BlobServiceClient

    for name, value in storage.start().items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    with BlobServiceClient(URL, credential={"account_name": "mlopslocal", "account_key": key}) as client:
        yield client


@pytest.fixture
def container(service: BlobServiceClient, request: pytest.FixtureRequest) -> ContainerClient:
    name = f"c-{abs(hash(request.node.nodeid)):x}"
    return service.create_container(name)


def code_of(error: Any) -> tuple[int, str]:
    return error.status_code, getattr(error.error_code, "value", error.error_code)


def refused(call: Any, *args: Any, **kwargs: Any) -> tuple[int, str]:
    from azure.core.exceptions import HttpResponseError

    with pytest.raises(HttpResponseError) as caught:
        call(*args, **kwargs)
    return code_of(caught.value)


# -- verbs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a.txt", "a b/ü&x+%.txt", "deep/er/and/deeper", "dots../..still", "q?x=1#f", "line'\"<>"]
)
def test_a_blob_comes_back_as_it_went(container: ContainerClient, name: str) -> None:
    from azure.storage.blob import ContentSettings

    blob = container.get_blob_client(name)
    settings = ContentSettings(content_type="text/plain", content_language="en", cache_control="no-store")
    blob.upload_blob(b"content", metadata={"k_a": "v"}, content_settings=settings)
    properties = blob.get_blob_properties()
    assert (properties.size, properties.metadata, properties.blob_type) == (7, {"k_a": "v"}, "BlockBlob")
    assert (properties.content_settings.content_type, properties.content_settings.cache_control) == (
        "text/plain",
        "no-store",
    )
    assert blob.download_blob().readall() == b"content"
    assert [each.name for each in container.list_blobs(name_starts_with=name)] == [name]
    blob.delete_blob()
    assert refused(blob.get_blob_properties)[0] == 404


def test_an_empty_blob(container: ContainerClient) -> None:
    blob = container.get_blob_client("empty")
    blob.upload_blob(b"")
    assert blob.download_blob().readall() == b""


def test_ranges(container: ContainerClient) -> None:
    blob = container.get_blob_client("range")
    blob.upload_blob(b"0123456789")
    assert blob.download_blob(offset=2, length=3).readall() == b"234"
    assert blob.download_blob(offset=8, length=100).readall() == b"89"
    assert refused(blob.download_blob, offset=10, length=1) == (416, "InvalidRange")


def test_a_large_blob_goes_in_blocks(container: ContainerClient) -> None:
    content = os.urandom(1 << 20) * 70
    blob = container.get_blob_client("large")
    blob.upload_blob(content, max_concurrency=4, metadata={"whole": "yes"})
    assert blob.download_blob(max_concurrency=4).readall() == content
    committed, uncommitted = blob.get_block_list("all")
    assert (len(committed), uncommitted) == (18, [])


def test_block_lists_take_old_and_new_blocks(container: ContainerClient) -> None:
    from azure.storage.blob import BlobBlock, BlockState

    blob = container.get_blob_client("blocks")
    blob.stage_block("a", b"one")
    blob.stage_block("b", b"two")
    assert refused(blob.get_blob_properties) == (404, "BlobNotFound")
    blob.commit_block_list([BlobBlock("b"), BlobBlock("a")])
    assert blob.download_blob().readall() == b"twoone"
    blob.stage_block("c", b"three")
    blob.commit_block_list([BlobBlock("a", state=BlockState.COMMITTED), BlobBlock("c"), BlobBlock("c")])
    assert blob.download_blob().readall() == b"onethreethree"
    assert refused(blob.commit_block_list, [BlobBlock("b")]) == (400, "InvalidBlockList")
    assert blob.download_blob().readall() == b"onethreethree"


def test_appending(container: ContainerClient) -> None:
    blob = container.get_blob_client("append")
    blob.create_append_blob(metadata={"kind": "log"})
    assert blob.append_block(b"one ")["blob_append_offset"] == "0"
    assert blob.append_block(b"two", appendpos_condition=4)["blob_append_offset"] == "4"
    assert refused(blob.append_block, b"x", appendpos_condition=4) == (412, "AppendPositionConditionNotMet")
    assert refused(blob.append_block, b"x" * 10, maxsize_condition=10) == (412, "MaxBlobSizeConditionNotMet")
    blob.upload_blob(b" three", blob_type="AppendBlob")
    assert blob.download_blob().readall() == b"one two three"
    properties = blob.get_blob_properties()
    assert (properties.append_blob_committed_block_count, properties.metadata) == (3, {"kind": "log"})
    container.upload_blob("block", b"")
    assert refused(container.get_blob_client("block").append_block, b"x") == (409, "InvalidBlobType")


def test_lists_are_ordered_paged_and_folded(container: ContainerClient) -> None:
    names = sorted(["a", "a-b", "a/1", "a/2", "a/b/3", "b/1", "ä", "z"])
    for name in names:
        container.upload_blob(name, b"", metadata={"n": "1"})
    assert [blob.name for blob in container.list_blobs()] == names
    pages = [[blob.name for blob in page] for page in container.list_blobs(results_per_page=3).by_page()]
    assert [len(page) for page in pages] == [3, 3, 2]
    assert [name for page in pages for name in page] == names
    assert [blob.name for blob in container.walk_blobs("a", delimiter="/")] == ["a/", "a", "a-b"]
    assert [blob.name for blob in container.list_blobs("a/")] == ["a/1", "a/2", "a/b/3"]
    assert [blob.name for blob in container.list_blobs("a/b")] == ["a/b/3"]
    assert next(iter(container.list_blobs("z", include=["metadata"]))).metadata == {"n": "1"}


def test_a_blob_may_be_called_like_a_folder(container: ContainerClient) -> None:
    container.upload_blob("x", b"file first")
    container.upload_blob("x/y", b"below")
    container.upload_blob("p/q", b"below")
    container.upload_blob("p", b"folder first")
    container.upload_blob("m/", b"marker")
    assert [blob.name for blob in container.list_blobs()] == ["m/", "p", "p/q", "x", "x/y"]
    assert [container.download_blob(name).readall() for name in ("x", "p", "m/")] == [
        b"file first",
        b"folder first",
        b"marker",
    ]
    container.delete_blob("x")
    assert container.download_blob("x/y").readall() == b"below"
    assert refused(container.get_blob_client("m").get_blob_properties)[0] == 404


def test_metadata_and_properties_change_the_etag(container: ContainerClient) -> None:
    from azure.storage.blob import ContentSettings

    blob = container.get_blob_client("b")
    blob.upload_blob(b"1")
    etags = [blob.get_blob_properties().etag]
    etags.append(blob.set_blob_metadata({"upload_status": "completed"})["etag"])
    etags.append(blob.set_http_headers(ContentSettings(content_type="text/x"))["etag"])
    properties = blob.get_blob_properties()
    assert (properties.metadata, properties.content_settings.content_type) == ({"upload_status": "completed"}, "text/x")
    assert len(set(etags)) == 3
    assert properties.etag == etags[-1]


def test_conditions(container: ContainerClient) -> None:
    from azure.core import MatchConditions
    from azure.core.exceptions import HttpResponseError

    blob = container.get_blob_client("b")
    first = blob.upload_blob(b"1")["etag"]
    assert refused(blob.upload_blob, b"2") == (409, "BlobAlreadyExists")
    same = {"match_condition": MatchConditions.IfNotModified, "overwrite": True}
    second = blob.upload_blob(b"2", etag=first, **same)["etag"]
    assert refused(blob.upload_blob, b"3", etag=first, **same) == (412, "ConditionNotMet")
    assert refused(blob.delete_blob, etag=first, match_condition=MatchConditions.IfNotModified) == (
        412,
        "ConditionNotMet",
    )
    with pytest.raises(HttpResponseError) as caught:
        blob.download_blob(etag=second, match_condition=MatchConditions.IfModified)
    assert caught.value.status_code == 304
    later = datetime.now(UTC) + timedelta(hours=1)
    assert refused(blob.set_blob_metadata, {}, if_modified_since=later) == (412, "ConditionNotMet")
    missing = container.get_blob_client("missing")
    assert refused(missing.upload_blob, b"", etag=first, **same) == (412, "ConditionNotMet")
    assert blob.download_blob().readall() == b"2"


def test_leases_fence_writers(container: ContainerClient) -> None:
    from azure.storage.blob import BlobLeaseClient

    blob = container.get_blob_client("lock")
    blob.upload_blob(b"0")
    mine, other = BlobLeaseClient(blob), BlobLeaseClient(blob)
    mine.acquire(lease_duration=15)
    lease_state = blob.get_blob_properties().lease
    assert (lease_state.status, lease_state.state, lease_state.duration) == ("locked", "leased", "fixed")
    assert refused(other.acquire) == (409, "LeaseAlreadyPresent")
    assert refused(blob.upload_blob, b"1", overwrite=True) == (412, "LeaseIdMissing")
    assert refused(blob.delete_blob) == (412, "LeaseIdMissing")
    blob.upload_blob(b"1", overwrite=True, lease=mine)
    assert other.break_lease(0) == 0
    assert refused(blob.upload_blob, b"2", overwrite=True, lease=mine) == (412, "LeaseNotPresentWithBlobOperation")
    other.acquire()
    assert refused(blob.set_blob_metadata, {}, lease=mine) == (412, "LeaseIdMismatchWithBlobOperation")
    assert refused(mine.renew) == (409, "LeaseIdMismatchWithLeaseOperation")
    other.release()
    blob.delete_blob()


def test_of_many_who_come_at_once_one_wins(container: ContainerClient) -> None:
    from azure.core.exceptions import ResourceExistsError
    from azure.storage.blob import BlobLeaseClient

    def first(number: int) -> bool:
        try:
            container.upload_blob("once", str(number).encode())
        except ResourceExistsError:
            return False
        return True

    def leased(_: int) -> bool:
        try:
            BlobLeaseClient(container.get_blob_client("once")).acquire(15)
        except ResourceExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(first, range(8)))
        assert won.count(True) == 1
        assert container.download_blob("once").readall() == str(won.index(True)).encode()
        assert list(pool.map(leased, range(8))).count(True) == 1


def test_copies_within_the_account_only(container: ContainerClient) -> None:
    source = container.get_blob_client("source")
    source.upload_blob(b"content", metadata={"from": "source"})
    target = container.get_blob_client("target")
    assert target.start_copy_from_url(source.url)["copy_status"] == "success"
    assert target.get_blob_properties().metadata == {"from": "source"}
    target.stage_block_from_url("b", source.url, source_offset=3, source_length=4)
    target.commit_block_list(["b"])
    assert target.download_blob().readall() == b"tent"
    assert refused(target.start_copy_from_url, "https://other.blob.core.windows.net/c/b") == (
        403,
        "CannotVerifyCopySource",
    )


def test_containers(service: BlobServiceClient, container: ContainerClient) -> None:
    assert container.exists()
    assert refused(service.create_container, container.container_name) == (409, "ContainerAlreadyExists")
    assert container.container_name in [each.name for each in service.list_containers()]
    missing = service.get_container_client("missing")
    assert not missing.exists()
    assert refused(missing.upload_blob, "b", b"") == (404, "ContainerNotFound")
    container.upload_blob("b", b"")
    container.delete_container()
    assert refused(container.get_container_properties) == (404, "ContainerNotFound")
    service.create_container(container.container_name)
    assert list(container.list_blobs()) == []
    assert refused(service.create_container, "Bad_Name")[0] == 400


# -- who may ---------------------------------------------------------------------------------------------------------


def test_signatures_open_what_they_say(service: BlobServiceClient, container: ContainerClient, key: str) -> None:
    from azure.storage.blob import (
        BlobClient,
        BlobServiceClient,
        ContainerClient,
        generate_account_sas,
        generate_blob_sas,
        generate_container_sas,
    )

    name, account = container.container_name, "mlopslocal"
    container.upload_blob("a b", b"1")
    container.upload_blob("c", b"2")
    soon, past = datetime.now(UTC) + timedelta(hours=1), datetime.now(UTC) - timedelta(minutes=1)
    for_a = generate_blob_sas(account, name, "a b", account_key=key, permission="r", expiry=soon, content_type="x/y")
    with BlobClient.from_blob_url(f"{URL}/{name}/a%20b?{for_a}") as blob:
        assert blob.download_blob().readall() == b"1"
        assert blob.get_blob_properties().content_settings.content_type == "x/y"
        assert refused(blob.upload_blob, b"", overwrite=True) == (403, "AuthorizationPermissionMismatch")
    for url in (f"{URL}/{name}/c?{for_a}", f"{URL}/{name}/a%20b?{for_a.replace('sp=r', 'sp=rw')}"):
        with BlobClient.from_blob_url(url) as blob:
            assert refused(blob.download_blob) == (403, "AuthenticationFailed")
    late = generate_blob_sas(account, name, "c", account_key=key, permission="r", expiry=past)
    with BlobClient.from_blob_url(f"{URL}/{name}/c?{late}") as blob:
        assert refused(blob.download_blob) == (403, "AuthenticationFailed")
    create = generate_container_sas(account, name, account_key=key, permission="cl", expiry=soon)
    with ContainerClient.from_container_url(f"{URL}/{name}?{create}") as limited:
        assert len(list(limited.list_blobs())) == 2
        limited.upload_blob("new", b"")
        assert refused(limited.upload_blob, "c", b"", overwrite=True) == (403, "UnauthorizedBlobOverwrite")
        assert refused(limited.delete_blob, "c") == (403, "AuthorizationPermissionMismatch")
        assert refused(limited.get_blob_client("copy").start_copy_from_url, f"{URL}/{name}/c") == (
            403,
            "CannotVerifyCopySource",
        )
    wide = generate_account_sas(account, key, "co", "rl", soon)
    with BlobServiceClient(URL, credential=wide) as limited_service:
        assert len(list(limited_service.get_container_client(name).list_blobs())) == 3
        assert refused(lambda: list(limited_service.list_containers())) == (403, "AuthorizationResourceTypeMismatch")


def test_tokens_and_delegated_signatures(storage: Local) -> None:
    out = storage.run_python("""
        import json
        from datetime import UTC, datetime, timedelta
        from azure.core.exceptions import HttpResponseError
        from azure.identity import DefaultAzureCredential
        from azure.storage.blob import BlobClient, BlobServiceClient, generate_blob_sas
        url = "https://mlopslocal.blob.core.windows.net"
        service = BlobServiceClient(url, credential=DefaultAzureCredential())
        service.get_container_client("azureml").upload_blob("t", b"by token", overwrite=True)
        until = datetime.now(UTC) + timedelta(hours=1)
        key = service.get_user_delegation_key(datetime.now(UTC), until)
        sas = generate_blob_sas("mlopslocal", "azureml", "t", user_delegation_key=key, permission="r", expiry=until)
        print(BlobClient.from_blob_url(f"{url}/azureml/t?{sas}").download_blob().readall().decode())
        wrong = {"account_name": "mlopslocal", "account_key": "d3Jvbmc="}
        try:
            next(iter(BlobServiceClient(url, credential=wrong).list_containers()))
        except HttpResponseError as error:
            print(error.status_code, error.error_code.value)
    """)
    assert out.splitlines() == ["by token", "403 AuthenticationFailed"]


def raw(storage: Local, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, str]:
    """A request that no client library would send, signed for the container ``azureml``."""
    context = ssl.create_default_context(cafile=str(storage.state / "tls" / "ca.pem"))
    connection = http.client.HTTPSConnection(
        "127.0.0.1", storage.record()["proxy_port"], context=context, timeout=HANG_S
    )
    connection.set_tunnel("mlopslocal.blob.core.windows.net", 443)
    key = json.loads((storage.state / "credentials.json").read_text())["account_key"]
    from mlops.local.blob import sas

    signature = sas.service_sas(key=key, account="mlopslocal", container="azureml", permissions="rwdlac", lifetime_s=60)
    try:
        sent = {"x-ms-blob-type": "BlockBlob", **{name.replace("_", "-"): value for name, value in headers.items()}}
        connection.request(method, f"{path}{'&' if '?' in path else '?'}{signature}", body, sent)
        response = connection.getresponse()
        response.read()
        return response.status, response.headers.get("x-ms-error-code", "")
    finally:
        connection.close()


@pytest.mark.parametrize(
    "name",
    ["../x", "..", "a/../../x", "%2e%2e/x", "..%2fx", "a/%2e%2e/%2e%2e/x", "/etc/x", "a//b", "a%00b", "./a", "a/."],
)
def test_names_cannot_lead_out_of_the_container(storage: Local, name: str) -> None:
    before = sorted(path for path in storage.home.rglob("*") if "logs" not in path.parts and "sqlite" not in path.name)
    status, code = raw(storage, "PUT", f"/azureml/{name}", b"evil")
    assert status == 400, (status, code)
    assert raw(storage, "GET", f"/azureml/{name}")[0] in (400, 404)
    after = sorted(path for path in storage.home.rglob("*") if "logs" not in path.parts and "sqlite" not in path.name)
    assert after == before


@pytest.mark.parametrize("container", ["..", "%2e%2e", ".staging", "UPPER", "a"])
def test_containers_cannot_lead_out_of_the_account(storage: Local, container: str) -> None:
    assert raw(storage, "PUT", f"/{container}/x", b"evil")[0] in (400, 403)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"content_length": str(6000 * 1024 * 1024)}, (413, "RequestBodyTooLarge")),
        ({"content_md5": "AAAAAAAAAAAAAAAAAAAAAA=="}, (400, "Md5Mismatch")),
        ({"x_ms_blob_type": "PageBlob"}, (400, "InvalidHeaderValue")),
        ({"x_ms_lease_id": "00000000-0000-0000-0000-000000000001"}, (412, "LeaseNotPresentWithBlobOperation")),
    ],
)
def test_requests_that_are_refused(storage: Local, headers: dict[str, str], expected: tuple[int, str]) -> None:
    assert raw(storage, "PUT", "/azureml/refused", b"body", **headers) == expected
    assert raw(storage, "HEAD", "/azureml/refused")[0] == 404


def test_what_is_not_supported_says_so(storage: Local) -> None:
    assert raw(storage, "PUT", "/azureml/x?comp=snapshot") == (400, "UnsupportedQueryParameter")
    assert raw(storage, "PUT", "/azureml/x?comp=blocklist", b"<BlockList><Latest>") == (400, "InvalidXmlDocument")
    entity = b'<!DOCTYPE x [<!ENTITY e "e">]><BlockList><Latest>&e;</Latest></BlockList>'
    assert raw(storage, "PUT", "/azureml/x?comp=blocklist", entity) == (400, "InvalidXmlDocument")
    assert raw(storage, "PATCH", "/azureml/x")[0] == 405


# -- what the parts see ------------------------------------------------------------------------------------------------


@pytest.fixture
def blobs(tmp_path: Path) -> Iterator[Blobs]:
    layout = Layout(root=tmp_path, cache=tmp_path)
    store = Store(layout.database)
    yield Blobs(layout, Config(), ServedAccounts("mlopslocal"), store, "a2V5")
    store.close()


def test_a_file_that_appears_is_a_blob(blobs: Blobs) -> None:
    path = blobs.path("mlopslocal", "azureml", "jobs/out/model.bin")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"written by a process")
    appeared = blobs.need("azureml", "jobs/out/model.bin")
    assert (appeared.size, appeared.kind) == (20, "BlockBlob")
    assert [blob.name for blob in blobs.list("azureml", "jobs/")] == ["jobs/out/model.bin"]
    path.write_bytes(b"longer than it was before")
    assert blobs.need("azureml", "jobs/out/model.bin").etag != appeared.etag


def test_a_file_that_changes_behind_its_row_loses_its_properties(blobs: Blobs) -> None:
    blobs.write_bytes("azureml", "x", b"1", content_type="text/plain")
    blobs.path("mlopslocal", "azureml", "x").write_bytes(b"22")
    assert blobs.need("azureml", "x").headers == {}
    assert blobs.read("azureml", "x") == b"22"


def test_an_append_that_was_not_acknowledged_is_not_seen(blobs: Blobs) -> None:
    aside = blobs.aside()
    aside.touch()
    blob = blobs.append(blobs.commit("azureml", "log", aside, kind="AppendBlob"), b"one ")
    with blob.path.open("ab") as file:
        file.write(b"half a rec")
    assert blobs.read("azureml", "log") == b"one "
    blobs.append(blobs.need("azureml", "log"), b"two")
    assert blobs.read("azureml", "log") == b"one two"


def test_parts_of_uploads_are_hidden_and_cleared(blobs: Blobs, tmp_path: Path) -> None:
    leftover = blobs.aside()
    leftover.write_bytes(b"half")
    folder = blobs.folder("azureml")
    (folder / ".model.bin.part").write_bytes(b"half")
    assert blobs.names("azureml") == []
    store = Store(tmp_path / "other.sqlite")
    Blobs(Layout(root=tmp_path, cache=tmp_path), Config(), ServedAccounts("mlopslocal"), store, "a2V5")
    store.close()
    assert not leftover.exists()


@pytest.mark.parametrize("name", ["a/../b", "../b", "/a", "", "a\0b", "x" * 1025, "\ud800"])
def test_bad_names_are_refused_to_the_parts_too(blobs: Blobs, name: str) -> None:
    with pytest.raises(BlobError):
        blobs.path("mlopslocal", "azureml", name)


def test_a_link_does_not_lead_writers_out(blobs: Blobs, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (blobs.folder("azureml") / "link").symlink_to(outside)
    with pytest.raises(BlobError):
        blobs.write_bytes("azureml", "link/x", b"1")
    assert list(outside.iterdir()) == []


# -- kill -9 -----------------------------------------------------------------------------------------------------------

WRITER = """
    import sys, threading
    from azure.core.exceptions import AzureError
    from azure.storage.blob import BlobServiceClient
    from azure.identity import DefaultAzureCredential
    container = BlobServiceClient("https://mlopslocal.blob.core.windows.net", credential=DefaultAzureCredential(),
        retry_total=0).get_container_client("azureml")
    log = container.get_blob_client(f"log-{sys.argv[1]}")
    log.create_append_blob()
    print("begun", flush=True)
    number = 0
    try:
        while True:
            number += 1
            name = f"run-{sys.argv[1]}/{number}"
            container.upload_blob(name, str(number).encode() * 5000, metadata={"n": str(number)})
            print("blob", number, flush=True)
            container.upload_blob("latest", str(number).encode() * 100, overwrite=True, metadata={"n": str(number)})
            log.append_block(f"{number}\\n".encode())
            print("log", number, flush=True)
    except AzureError:
        print("end")
"""


def test_kill_9_loses_no_acknowledged_blob(bare_local: Local) -> None:
    for attempt in range(3):
        command = [sys.executable, "-c", textwrap.dedent(WRITER), str(attempt)]
        with subprocess.Popen(command, env=bare_local.env, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "begun\n"
            lines = [writer.stdout.readline() for _ in range(40 + attempt * 7)]
            os.kill(bare_local.record()["pid"], signal.SIGKILL)
            lines += writer.stdout.read().splitlines()
        acknowledged = {
            kind: max([0, *(int(line.split()[1]) for line in lines if line.startswith(kind))])
            for kind in ("blob", "log")
        }
        bare_local.start()
        folder = bare_local.state / "blobs" / "mlopslocal" / "azureml"
        store = Store(bare_local.state / "workspace.sqlite")
        blobs = Blobs(
            Layout(root=bare_local.state, cache=bare_local.home), Config(), ServedAccounts("mlopslocal"), store, "a2V5"
        )
        for number in range(1, acknowledged["blob"] + 1):
            blob = blobs.need("azureml", f"run-{attempt}/{number}")
            assert (blobs.read("azureml", blob.name), blob.metadata) == (
                str(number).encode() * 5000,
                {"n": str(number)},
            )
        latest = blobs.need("azureml", "latest")
        content = blobs.read("azureml", "latest")
        assert content in {str(number).encode() * 100 for number in (acknowledged["log"], acknowledged["log"] + 1)}
        assert latest.metadata in ({}, {"n": content[: len(content) // 100].decode()}), "never another write's"
        records = blobs.read("azureml", f"log-{attempt}").decode().split("\n")[:-1]
        assert [int(record) for record in records][: acknowledged["log"]] == list(range(1, acknowledged["log"] + 1))
        assert len(records) <= acknowledged["log"] + 1
        assert not list(folder.rglob("*.part"))
        store.close()


def test_a_quoted_name_is_one_name(container: ContainerClient) -> None:
    """What the url quotes is the name; nothing is unquoted twice."""
    container.upload_blob("a%2Fb", b"1")
    assert [blob.name for blob in container.list_blobs()] == ["a%2Fb"]
    assert quote("a%2Fb") in container.get_blob_client("a%2Fb").url
