"""One request to the blob service: what it names, its conditions, its body, and how it is answered."""

from __future__ import annotations

import base64
import binascii
import hashlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from mlops.local.blob.errors import BlobError
from mlops.local.blob.store import Blob, Blobs

MIB = 1024 * 1024
MAX_BLOB = 5000 * MIB
MAX_BLOCK = 4000 * MIB
MAX_APPEND = 100 * MIB
MAX_XML = 16 * MIB
CHUNK = MIB

KEPT_HEADERS = {
    "content-type": "Content-Type",
    "content-encoding": "Content-Encoding",
    "content-language": "Content-Language",
    "content-md5": "Content-MD5",
    "cache-control": "Cache-Control",
    "content-disposition": "Content-Disposition",
}


@dataclass
class BlobCall:
    """A request that has passed authentication."""

    blobs: Blobs
    request: Request
    container: str
    name: str
    query: dict[str, str]
    permissions: str = ""
    """Letters of the shared access signature; empty where the caller may do anything."""

    def header(self, name: str) -> str | None:
        """A header's value."""
        return self.request.headers.get(name)

    def number(self, name: str) -> int | None:
        """A header that holds a number."""
        text = self.header(name)
        if text is None:
            return None
        try:
            return int(text)
        except ValueError as error:
            raise BlobError("InvalidHeaderValue", f"{name} is '{text}', not a number.") from error

    @property
    def metadata(self) -> dict[str, str]:
        """The ``x-ms-meta-…`` headers."""
        mark = "x-ms-meta-"
        metadata = {name[len(mark) :]: value for name, value in self.request.headers.items() if name.startswith(mark)}
        if sum(len(name) + len(value) for name, value in metadata.items()) > 8192:
            raise BlobError("InvalidHeaderValue", "The metadata is larger than 8 KiB.")
        return metadata

    @property
    def properties(self) -> dict[str, str]:
        """The ``x-ms-blob-content-…`` headers as the headers that a GET shows."""
        headers = {}
        for name, shown in KEPT_HEADERS.items():
            value = self.header(f"x-ms-blob-{name}")
            if value:
                headers[shown] = value
        return headers

    # -- conditions ------------------------------------------------------------------------------------------------

    def lease(self, *, writes: bool) -> None:
        """Check the lease that the request names against the blob's."""
        self.blobs.leases.check(self.container, self.name, self.header("x-ms-lease-id"), writes=writes)

    def check_write(self, existing: Blob | None) -> None:
        """Lease and conditional headers, before a blob is written."""
        if existing is not None:
            self.lease(writes=True)
        elif self.header("x-ms-lease-id"):
            raise BlobError("LeaseNotPresentWithBlobOperation")
        match, none = self.header("if-match"), self.header("if-none-match")
        if match is not None and (existing is None or not _matches(match, existing)):
            raise BlobError("ConditionNotMet")
        if none is not None and existing is not None and _matches(none, existing):
            raise BlobError("BlobAlreadyExists" if none.strip() == "*" else "ConditionNotMet")
        if existing is not None and self._unmodified(existing) is not None:
            raise BlobError("ConditionNotMet")

    def check_replace(self, existing: Blob | None) -> None:
        """The same before a blob is written whole, where a signature may allow to create but not to overwrite."""
        if existing is not None and self.permissions and "w" not in self.permissions:
            message = "This request is not authorized to perform blob overwrites."
            raise BlobError("UnauthorizedBlobOverwrite", message, status=403)
        self.check_write(existing)

    def check_read(self, blob: Blob) -> int:
        """Lease and conditional headers, before a blob is read: 200 or 304."""
        self.lease(writes=False)
        match, none = self.header("if-match"), self.header("if-none-match")
        if match is not None and not _matches(match, blob):
            raise BlobError("ConditionNotMet")
        if none is not None:
            return 304 if _matches(none, blob) else 200
        outcome = self._unmodified(blob)
        if outcome == "if-unmodified-since":
            raise BlobError("ConditionNotMet")
        return 304 if outcome else 200

    def _unmodified(self, blob: Blob) -> str | None:
        """The header about times whose condition does not hold."""
        modified = int(blob.modified)
        since, until = self._date("if-modified-since"), self._date("if-unmodified-since")
        if since is not None and modified <= since.timestamp():
            return "if-modified-since"
        if until is not None and modified > until.timestamp():
            return "if-unmodified-since"
        return None

    def _date(self, name: str) -> datetime | None:
        text = self.header(name)
        if text is None:
            return None
        try:
            return parsedate_to_datetime(text)
        except ValueError as error:
            raise BlobError("InvalidHeaderValue", f"{name} is '{text}', not a date.") from error

    # -- body ------------------------------------------------------------------------------------------------------

    async def receive(self, limit: int) -> tuple[Path, str]:
        """Write the body aside; its place and its MD5 in base64. The caller moves or deletes the file."""
        length = self.number("content-length")
        if length is None and self.header("transfer-encoding") is None:
            raise BlobError("MissingContentLengthHeader")
        if length is not None and not 0 <= length <= limit:
            raise BlobError("RequestBodyTooLarge")
        if self.header("x-ms-structured-body"):
            raise BlobError("UnsupportedHeader", "Structured bodies (x-ms-structured-body) are not supported here.")
        digest = hashlib.md5(usedforsecurity=False)
        size = 0
        path = self.blobs.aside()
        try:
            with path.open("wb") as file:
                async for chunk in self.request.stream():
                    size += len(chunk)
                    if size > limit:
                        raise BlobError("RequestBodyTooLarge")
                    digest.update(chunk)
                    file.write(chunk)
            if length is not None and size != length:
                raise BlobError("IncompleteBody")
            md5 = base64.b64encode(digest.digest()).decode()
            if self.header("content-md5") not in (None, "", md5):
                raise BlobError("Md5Mismatch")
        except ClientDisconnect as error:
            path.unlink(missing_ok=True)
            raise BlobError("IncompleteBody") from error
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path, md5

    async def small_body(self, limit: int = MAX_XML) -> bytes:
        """The body in memory."""
        path, _ = await self.receive(limit)
        try:
            return path.read_bytes()
        finally:
            path.unlink(missing_ok=True)

    # -- answers ---------------------------------------------------------------------------------------------------

    def answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"", **more: Any) -> Response:
        """An answer with the headers that all have; keywords are further headers (``x_ms_lease_id=…``)."""
        shown = standard_headers(self.request) | (headers or {})
        shown |= {name.replace("_", "-"): str(value) for name, value in more.items()}
        if body:
            shown.setdefault("Content-Type", "application/xml")
        return Response(body, status_code=status, headers=shown)

    def written(self, blob: Blob, status: int = 201, **more: Any) -> Response:
        """The answer after a write."""
        headers = {"ETag": blob.etag, "Last-Modified": formatdate(blob.modified, usegmt=True)}
        return self.answer(status, headers, x_ms_request_server_encrypted="true", **more)

    def stream(self, blob: Blob, begin: int, size: int, status: int, headers: dict[str, str]) -> Response:
        """A part of a blob's content, as it is now even if it is replaced meanwhile."""
        file = blob.path.open("rb")
        file.seek(begin)

        async def chunks() -> AsyncIterator[bytes]:
            left = size
            with file:
                while left:
                    chunk = file.read(min(CHUNK, left))
                    if not chunk:
                        return
                    left -= len(chunk)
                    yield chunk

        shown = standard_headers(self.request) | headers | {"Content-Length": str(size)}
        return StreamingResponse(chunks(), status_code=status, headers=shown)


def standard_headers(request: Request) -> dict[str, str]:
    """What every answer of the service carries."""
    headers = {
        "Server": "Windows-Azure-Blob/1.0 Microsoft-HTTPAPI/2.0",
        "x-ms-request-id": str(uuid.uuid4()),
        "x-ms-version": request.headers.get("x-ms-version", "2021-12-02"),
    }
    client = request.headers.get("x-ms-client-request-id")
    if client and len(client) <= 1024:
        headers["x-ms-client-request-id"] = client
    return headers


def _matches(header: str, blob: Blob) -> bool:
    etags = [etag.strip().removeprefix("W/").strip('"') for etag in header.split(",")]
    return "*" in etags or blob.etag.strip('"') in etags


def is_block_id(text: str) -> bool:
    """Whether this is base64 of at most 64 bytes."""
    try:
        return 0 < len(base64.b64decode(text, validate=True)) <= 64
    except (binascii.Error, ValueError):
        return False


def flag(value: Any) -> str:
    """A truth as the service writes it."""
    return "true" if value else "false"
