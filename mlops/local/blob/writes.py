"""Writing to the blob service: blobs whole, by blocks and by appending; metadata, leases, copies, deletion."""

from __future__ import annotations

import asyncio
import uuid
from email.utils import formatdate
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.etree import ElementTree

from starlette.responses import Response

from mlops.local.blob import sas
from mlops.local.blob.blocks import Blocks
from mlops.local.blob.call import MAX_APPEND, MAX_BLOB, MAX_BLOCK, BlobCall, is_block_id
from mlops.local.blob.errors import BlobError
from mlops.local.blob.files import copy_part
from mlops.local.blob.leases import INFINITE, Lease
from mlops.local.blob.reads import RANGE, container_headers
from mlops.local.blob.store import Blob

MAX_BLOCKS = 50_000


async def create_container(call: BlobCall) -> Response:
    """Create Container."""
    call.blobs.create_container(call.container)
    return call.answer(201, container_headers(call))


async def delete_container(call: BlobCall) -> Response:
    """Delete Container."""
    await asyncio.to_thread(call.blobs.delete_container, call.container)
    return call.answer(202)


async def put_blob(call: BlobCall) -> Response:
    """Put Blob; with a copy source, Copy Blob or Put Blob From URL."""
    if call.header("x-ms-copy-source"):
        return await _copy_blob(call)
    kind = call.header("x-ms-blob-type") or ""
    if kind not in ("BlockBlob", "AppendBlob"):
        raise BlobError("InvalidHeaderValue", f"Blobs of the type '{kind}' are not supported here.")
    call.blobs.need_container(call.container)
    call.check_replace(call.blobs.get(call.container, call.name))  # early, before the body is read
    path, md5 = await call.receive(MAX_BLOB)
    headers = call.properties
    if not headers.get("Content-Type") and call.header("content-type"):
        headers["Content-Type"] = call.header("content-type") or ""
    if kind == "AppendBlob":
        if path.stat().st_size:
            path.unlink()
            raise BlobError("InvalidHeaderValue", "An append blob begins empty.")
    else:
        headers.setdefault("Content-MD5", md5)
    blob = call.blobs.commit(
        call.container, call.name, path, kind=kind, headers=headers, metadata=call.metadata, check=call.check_replace
    )
    Blocks(call.blobs).forget(call.container, call.name)
    return call.written(blob, Content_MD5=md5)


async def put_block(call: BlobCall) -> Response:
    """Put Block, from the body or from another blob of the account."""
    block = call.query.get("blockid", "")
    if not is_block_id(block):
        raise BlobError("InvalidBlockId")
    call.blobs.need_container(call.container)
    call.blobs.path(call.blobs.account, call.container, call.name)
    existing = call.blobs.get(call.container, call.name)
    if existing is not None:
        call.lease(writes=True)
        if existing.kind != "BlockBlob":
            raise BlobError("InvalidBlobType")
    if call.header("x-ms-copy-source"):
        (path, _), md5 = await _copy_source(call), ""
    else:
        path, md5 = await call.receive(MAX_BLOCK)
    Blocks(call.blobs).stage(call.container, call.name, block, path)
    headers = {"Content-MD5": md5} if md5 and call.header("content-md5") else {}
    return call.answer(201, headers, x_ms_request_server_encrypted="true")


async def put_block_list(call: BlobCall) -> Response:
    """Put Block List: the blob becomes exactly these blocks."""
    raw = await call.small_body()
    if b"<!DOCTYPE" in raw or b"<!ENTITY" in raw:
        raise BlobError("InvalidXmlDocument")
    try:
        root = ElementTree.fromstring(raw)  # noqa: S314 - entities are refused above
    except ElementTree.ParseError as error:
        raise BlobError("InvalidXmlDocument") from error
    block_list = [(entry.tag, (entry.text or "").strip()) for entry in root]
    if root.tag != "BlockList" or any(tag not in ("Latest", "Uncommitted", "Committed") for tag, _ in block_list):
        raise BlobError("InvalidXmlDocument")
    if len(block_list) > MAX_BLOCKS:
        raise BlobError("InvalidBlockList", "A blob has 50,000 blocks at most.")
    call.blobs.need_container(call.container)
    call.check_replace(call.blobs.get(call.container, call.name))
    path, blocks = await asyncio.to_thread(Blocks(call.blobs).assemble, call.container, call.name, block_list)
    blob = call.blobs.commit(
        call.container,
        call.name,
        path,
        headers=call.properties,
        metadata=call.metadata,
        blocks=blocks,
        check=call.check_replace,
    )
    Blocks(call.blobs).forget(call.container, call.name)
    return call.written(blob)


async def append_block(call: BlobCall) -> Response:
    """Append Block."""
    path, _ = await call.receive(MAX_APPEND)
    content = path.read_bytes()
    path.unlink()
    with call.blobs.lock:
        blob = call.blobs.need(call.container, call.name)
        call.check_write(blob)
        if blob.kind != "AppendBlob":
            raise BlobError("InvalidBlobType")
        position, most = call.number("x-ms-blob-condition-appendpos"), call.number("x-ms-blob-condition-maxsize")
        if position is not None and position != blob.size:
            raise BlobError("AppendPositionConditionNotMet")
        if most is not None and blob.size + len(content) > most:
            raise BlobError("MaxBlobSizeConditionNotMet")
        changed = call.blobs.append(blob, content)
    count = changed.blocks[0][0]
    return call.written(changed, x_ms_blob_append_offset=str(blob.size), x_ms_blob_committed_block_count=count)


async def set_metadata(call: BlobCall) -> Response:
    """Set Blob Metadata."""
    with call.blobs.lock:
        blob = _writable(call)
        return call.written(call.blobs.change(blob, metadata=call.metadata), 200)


async def set_properties(call: BlobCall) -> Response:
    """Set Blob Properties: all of them, those that are not given are cleared."""
    with call.blobs.lock:
        blob = _writable(call)
        return call.written(call.blobs.change(blob, headers=call.properties), 200)


async def set_tier(call: BlobCall) -> Response:
    """Set Blob Tier: accepted, there is one only."""
    call.blobs.need(call.container, call.name)
    return call.answer(200)


async def delete_blob(call: BlobCall) -> Response:
    """Delete Blob."""
    if call.header("x-ms-delete-snapshots") == "only":
        call.blobs.need(call.container, call.name)
        return call.answer(202)
    with call.blobs.lock:
        call.blobs.delete(_writable(call))
    return call.answer(202, x_ms_delete_type_permanent="true")


def _writable(call: BlobCall) -> Blob:
    blob = call.blobs.need(call.container, call.name)
    call.check_write(blob)
    return blob


# -- leases --------------------------------------------------------------------------------------------------------


async def lease_blob(call: BlobCall) -> Response:
    """Lease Blob: acquire, renew, change, release or break."""
    action = (call.header("x-ms-lease-action") or "").lower()
    where = (call.container, call.name)
    given, proposed = call.header("x-ms-lease-id"), call.header("x-ms-proposed-lease-id")
    leases = call.blobs.leases
    with call.blobs.lock:
        blob = call.blobs.need(*where)
        _check_conditions_only(call, blob)
        stamp = {"ETag": blob.etag, "Last-Modified": formatdate(blob.modified, usegmt=True)}
        if action == "release":
            leases.release(*where, given=given)
            return call.answer(200, stamp)
        if action == "break":
            remaining_s = leases.end(*where, period_s=call.number("x-ms-lease-break-period"))
            return call.answer(202, stamp, x_ms_lease_time=str(remaining_s))
        lease: Lease
        status = 200
        if action == "acquire":
            duration = call.number("x-ms-lease-duration")
            lease = leases.acquire(*where, duration_s=INFINITE if duration is None else duration, proposed=proposed)
            status = 201
        elif action == "renew":
            lease = leases.renew(*where, given=given)
        elif action == "change":
            lease = leases.change(*where, given=given, proposed=proposed)
        else:
            raise BlobError("InvalidHeaderValue", f"'{action}' is not an action on leases.")
    return call.answer(status, stamp, x_ms_lease_id=lease.id)


def _check_conditions_only(call: BlobCall, blob: Blob) -> None:
    for header in ("if-match", "if-none-match"):
        given = call.header(header)
        if given is not None:
            same = given.strip() == "*" or given.strip().strip('"') == blob.etag.strip('"')
            if same != (header == "if-match"):
                raise BlobError("ConditionNotMet")


# -- copies --------------------------------------------------------------------------------------------------------


def _source(call: BlobCall) -> Blob:
    """The blob that the copy source names; this account only, and readable by who asks."""
    source = urlsplit(call.header("x-ms-copy-source") or "")
    container, _, name = unquote(source.path.lstrip("/")).partition("/")
    account, _, suffix = (source.hostname or "").partition(".")
    if account not in call.blobs.accounts or suffix != "blob.core.windows.net" or not name:
        raise BlobError("CannotVerifyCopySource")
    query = dict(parse_qsl(source.query))
    if "sig" in query:
        access = sas.Access(account=account, container=container, name=name, permissions="r")
        try:
            sas.check_sas(query, access, key=call.blobs.account_key)
        except sas.Forbidden as refused:
            raise BlobError("CannotVerifyCopySource", str(refused)) from refused
    elif call.permissions:
        raise BlobError("CannotVerifyCopySource", "The copy source needs a signature of its own.")
    return call.blobs.need(container, name)


async def _copy_source(call: BlobCall) -> tuple[Path, Blob]:
    """The source's content (or the range of it) copied aside."""
    source = _source(call)
    byte_range = RANGE.match(call.header("x-ms-source-range") or "")
    begin = int(byte_range[1] or 0) if byte_range else 0
    end = min(int(byte_range[2]) + 1, source.size) if byte_range and byte_range[2] else source.size
    path = call.blobs.aside()
    await asyncio.to_thread(copy_part, source.path, path, begin, max(0, end - begin))
    return path, source


async def _copy_blob(call: BlobCall) -> Response:
    call.blobs.need_container(call.container)
    call.check_replace(call.blobs.get(call.container, call.name))
    path, source = await _copy_source(call)
    metadata = call.metadata or source.metadata
    headers = source.headers | call.properties
    blob = call.blobs.commit(
        call.container,
        call.name,
        path,
        kind=source.kind,
        headers=headers,
        metadata=metadata,
        blocks=source.blocks,
        check=call.check_replace,
    )
    whole = call.header("x-ms-blob-type") is not None  # Put Blob From URL
    return call.written(blob, 201 if whole else 202, x_ms_copy_id=str(uuid.uuid4()), x_ms_copy_status="success")
