"""Reading from the blob service: properties, content in ranges, lists."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from datetime import UTC, datetime
from email.utils import formatdate
from xml.sax.saxutils import escape, quoteattr

from starlette.responses import Response

from mlops.local.blob import sas
from mlops.local.blob.blocks import Blocks
from mlops.local.blob.call import MIB, BlobCall, flag
from mlops.local.blob.errors import BlobError
from mlops.local.blob.store import Blob

MAX_RESULTS = 5000
RANGE = re.compile(r"^bytes=(\d*)-(\d*)$")
XML = '<?xml version="1.0" encoding="utf-8"?>'
ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def blob_headers(call: BlobCall, blob: Blob) -> dict[str, str]:
    """The headers that describe a blob."""
    lease = call.blobs.leases.get(blob.container, blob.name)
    state = lease.state if lease else "available"
    headers = {
        "Content-Type": "application/octet-stream",
        **blob.headers,
        "ETag": blob.etag,
        "Last-Modified": formatdate(blob.modified, usegmt=True),
        "x-ms-creation-time": formatdate(blob.created, usegmt=True),
        "x-ms-blob-type": blob.kind,
        "x-ms-lease-status": "locked" if lease and lease.locks else "unlocked",
        "x-ms-lease-state": state,
        "x-ms-server-encrypted": "true",
        "Accept-Ranges": "bytes",
    }
    if lease and state == "leased":
        headers["x-ms-lease-duration"] = "infinite" if lease.expires is None else "fixed"
    if blob.kind == "AppendBlob":
        headers["x-ms-blob-committed-block-count"] = blob.blocks[0][0] if blob.blocks else "0"
    else:
        headers |= {"x-ms-access-tier": "Hot", "x-ms-access-tier-inferred": "true"}
    headers |= {f"x-ms-meta-{name}": value for name, value in blob.metadata.items()}
    for parameter, header in sas.OVERRIDES.items():
        if parameter in call.query and "sig" in call.query:
            headers[header] = call.query[parameter]
    return headers


async def head_blob(call: BlobCall) -> Response:
    """Get Blob Properties."""
    blob = call.blobs.need(call.container, call.name)
    if call.check_read(blob) == 304:
        return call.answer(304, {"ETag": blob.etag, "x-ms-error-code": "ConditionNotMet"})
    return call.answer(200, blob_headers(call, blob) | {"Content-Length": str(blob.size)})


async def get_blob(call: BlobCall) -> Response:
    """Get Blob, whole or a range."""
    blob = call.blobs.need(call.container, call.name)
    if call.check_read(blob) == 304:
        return call.answer(304, {"ETag": blob.etag, "x-ms-error-code": "ConditionNotMet"})
    headers = blob_headers(call, blob)
    byte_range = _range(call.header("x-ms-range") or call.header("range"), blob.size)
    if byte_range is None:
        return call.stream(blob, 0, blob.size, 200, headers)
    begin, size = byte_range
    md5 = headers.pop("Content-MD5", None)
    if md5:
        headers["x-ms-blob-content-md5"] = md5
    if call.header("x-ms-range-get-content-md5") == "true":
        if size > 4 * MIB:
            raise BlobError("InvalidHeaderValue", "A range may be 4 MiB at most where its MD5 is wanted.")
        with blob.path.open("rb") as file:
            file.seek(begin)
            digest = hashlib.md5(file.read(size), usedforsecurity=False).digest()
        headers["Content-MD5"] = base64.b64encode(digest).decode()
    headers["Content-Range"] = f"bytes {begin}-{begin + size - 1}/{blob.size}"
    return call.stream(blob, begin, size, 206, headers)


def _range(header: str | None, total: int) -> tuple[int, int] | None:
    """Begin and size; None for the whole blob (a header of another form is not honoured, as HTTP says)."""
    match = RANGE.match(header.strip()) if header else None
    if match is None or (not match[1] and not match[2]):
        return None
    if not match[1]:
        size = min(int(match[2]), total)
        begin = total - size
    else:
        begin = int(match[1])
        last = int(match[2]) if match[2] else total - 1
        if match[2] and last < begin:
            return None
        size = min(last, total - 1) - begin + 1
    if begin >= total or size <= 0:
        raise BlobError("InvalidRange")
    return begin, size


async def get_block_list(call: BlobCall) -> Response:
    """Get Block List."""
    which = call.query.get("blocklisttype", "committed").lower()
    blob = call.blobs.get(call.container, call.name)
    staged = Blocks(call.blobs).staged(call.container, call.name)
    if blob is None and not staged:
        call.blobs.need(call.container, call.name)
    xml = [XML, "<BlockList>"]
    if which in ("committed", "all"):
        xml.append(_blocks("CommittedBlocks", list(blob.blocks) if blob else []))
    if which in ("uncommitted", "all"):
        xml.append(_blocks("UncommittedBlocks", list(staged.items())))
    xml.append("</BlockList>")
    headers = {"x-ms-blob-content-length": str(blob.size if blob else 0)}
    if blob is not None:
        headers |= {"ETag": blob.etag, "Last-Modified": formatdate(blob.modified, usegmt=True)}
    return call.answer(200, headers, "".join(xml).encode())


def _blocks(tag: str, blocks: list[tuple[str, int]]) -> str:
    lines = [f"<Block><Name>{escape(block)}</Name><Size>{size}</Size></Block>" for block, size in blocks]
    return f"<{tag}>{''.join(lines)}</{tag}>"


# -- containers ----------------------------------------------------------------------------------------------------


def container_headers(call: BlobCall) -> dict[str, str]:
    """The headers that describe a container."""
    stat = call.blobs.need_container(call.container).stat()
    return {
        "ETag": f'"0x8D{stat.st_ino:X}"',
        "Last-Modified": formatdate(stat.st_mtime, usegmt=True),
        "x-ms-lease-status": "unlocked",
        "x-ms-lease-state": "available",
        "x-ms-has-immutability-policy": "false",
        "x-ms-has-legal-hold": "false",
        "x-ms-default-encryption-scope": "$account-encryption-key",
        "x-ms-deny-encryption-scope-override": "false",
    }


async def get_container(call: BlobCall) -> Response:
    """Get Container Properties."""
    return call.answer(200, container_headers(call))


async def get_container_acl(call: BlobCall) -> Response:
    """Get Container ACL: never public."""
    return call.answer(200, container_headers(call), f"{XML}<SignedIdentifiers/>".encode())


async def list_containers(call: BlobCall) -> Response:
    """List Containers."""
    prefix = call.query.get("prefix", "")
    xml = [f"{XML}<EnumerationResults ServiceEndpoint={quoteattr(call.blobs.url(''))}><Containers>"]
    for container in call.blobs.containers():
        if container.startswith(prefix):
            modified = formatdate(call.blobs.folder(container).stat().st_mtime, usegmt=True)
            xml.append(
                f"<Container><Name>{container}</Name><Properties><Last-Modified>{modified}</Last-Modified>"
                f'<Etag>"0x8D{call.blobs.folder(container).stat().st_ino:X}"</Etag><LeaseStatus>unlocked</LeaseStatus>'
                "<LeaseState>available</LeaseState></Properties></Container>"
            )
    xml.append("</Containers><NextMarker/></EnumerationResults>")
    return call.answer(200, body="".join(xml).encode())


async def list_blobs(call: BlobCall) -> Response:
    """List Blobs: by prefix, folded at a delimiter, in pages."""
    text = await asyncio.to_thread(_list_blobs, call)
    return call.answer(200, body=text.encode())


def _list_blobs(call: BlobCall) -> str:
    query = call.query
    prefix, delimiter, marker = query.get("prefix", ""), query.get("delimiter", ""), query.get("marker", "")
    try:
        limit = int(query.get("maxresults", MAX_RESULTS))
    except ValueError as error:
        raise BlobError("InvalidQueryParameterValue") from error
    if limit < 1:
        raise BlobError("InvalidQueryParameterValue", "maxresults must be at least 1.")
    limit = min(limit, MAX_RESULTS)
    with_metadata = "metadata" in query.get("include", "")
    entries: list[str] = []
    next_marker = last_folder = ""
    begin = _unmark(marker)
    for name in call.blobs.names(call.container, prefix):
        cut = name.find(delimiter, len(prefix)) if delimiter else -1
        key = name if cut < 0 else name[: cut + len(delimiter)]
        if key < begin or key == last_folder:
            continue
        if len(entries) == limit:
            next_marker = _mark(key)
            break
        if cut >= 0:
            last_folder = key
            entries.append(f"<BlobPrefix>{_name(key)}</BlobPrefix>")
            continue
        blob = call.blobs.get(call.container, name)
        if blob is not None:  # it may have gone since the folder was read
            entries.append(_entry(call, blob, with_metadata=with_metadata))
    shown = "".join(
        f"<{tag}>{escape(ILLEGAL.sub('', value))}</{tag}>"
        for tag, value in (("Prefix", prefix), ("Marker", marker), ("Delimiter", delimiter))
        if value
    )
    return (
        f"{XML}<EnumerationResults ServiceEndpoint={quoteattr(call.blobs.url(''))} "
        f"ContainerName={quoteattr(call.container)}>{shown}<MaxResults>{limit}</MaxResults>"
        f"<Blobs>{''.join(entries)}</Blobs><NextMarker>{next_marker}</NextMarker></EnumerationResults>"
    )


def _mark(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode()


def _unmark(marker: str) -> str:
    try:
        return base64.urlsafe_b64decode(marker.encode()).decode()
    except ValueError as error:
        raise BlobError("InvalidQueryParameterValue", f"'{marker}' is not a marker of an earlier page.") from error


def _name(name: str) -> str:
    return f"<Name>{escape(name)}</Name>"


def _entry(call: BlobCall, blob: Blob, *, with_metadata: bool) -> str:
    lease = call.blobs.leases.get(blob.container, blob.name)
    headers = {"Content-Type": "application/octet-stream", **blob.headers}
    properties = {
        "Creation-Time": formatdate(blob.created, usegmt=True),
        "Last-Modified": formatdate(blob.modified, usegmt=True),
        "Etag": blob.etag.strip('"'),
        "Content-Length": str(blob.size),
        **{
            name: headers.get(name, "")
            for name in (
                "Content-Type",
                "Content-Encoding",
                "Content-Language",
                "Content-MD5",
                "Cache-Control",
                "Content-Disposition",
            )
        },
        "BlobType": blob.kind,
        "LeaseStatus": "locked" if lease and lease.locks else "unlocked",
        "LeaseState": lease.state if lease else "available",
        "ServerEncrypted": flag(True),
    }
    if blob.kind == "BlockBlob":
        properties["AccessTier"] = "Hot"
    inner = "".join(f"<{tag}>{escape(value)}</{tag}>" for tag, value in properties.items())
    text = f"<Blob>{_name(blob.name)}<Properties>{inner}</Properties>"
    if with_metadata:
        pairs = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in blob.metadata.items())
        text += f"<Metadata>{pairs}</Metadata>"
    return text + "</Blob>"


# -- the account ---------------------------------------------------------------------------------------------------


async def get_account(call: BlobCall) -> Response:
    """Get Account Information."""
    headers = {"x-ms-sku-name": "Standard_LRS", "x-ms-account-kind": "StorageV2", "x-ms-is-hns-enabled": "false"}
    return call.answer(200, headers)


async def get_service(call: BlobCall) -> Response:
    """Get Blob Service Properties: nothing is switched on."""
    body = (
        f"{XML}<StorageServiceProperties><Logging><Version>1.0</Version><Read>false</Read><Write>false</Write>"
        "<Delete>false</Delete><RetentionPolicy><Enabled>false</Enabled></RetentionPolicy></Logging><Cors/>"
        "<DeleteRetentionPolicy><Enabled>false</Enabled></DeleteRetentionPolicy></StorageServiceProperties>"
    )
    return call.answer(200, body=body.encode())


async def delegation_key(call: BlobCall) -> Response:
    """Get User Delegation Key."""
    text = (await call.small_body(MIB)).decode("utf-8", "replace")
    times = {tag: re.search(rf"<{tag}>([^<]*)</{tag}>", text) for tag in ("Start", "Expiry")}
    if times["Expiry"] is None:
        raise BlobError("InvalidXmlDocument")
    start = times["Start"][1] if times["Start"] else datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    claims = call.request.scope["claims"]
    version = call.header("x-ms-version") or sas.VERSION
    fields = [claims["oid"], claims["tid"], start, times["Expiry"][1], "b", version]
    tags = ("SignedOid", "SignedTid", "SignedStart", "SignedExpiry", "SignedService", "SignedVersion")
    inner = "".join(f"<{tag}>{escape(value)}</{tag}>" for tag, value in zip(tags, fields, strict=True))
    value = sas.delegation_key(call.blobs.account_key, fields)
    body = f"{XML}<UserDelegationKey>{inner}<Value>{value}</Value></UserDelegationKey>"
    return call.answer(200, body=body.encode())
