"""Blob storage: each blob is a plain file at its own path; what a file cannot say is in the database.

A row belongs to a file while size and time of change agree; a file without a row (written by a job's process) is a
block blob like any other. So a file that appears, or a daemon that dies between the rename and the row, needs no
repair. Content is always written aside, in the account's ``.staging`` folder, and renamed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mlops.local.blob import sas
from mlops.local.blob.errors import BlobError
from mlops.local.blob.files import SELF, SLASH, walk
from mlops.local.blob.leases import Leases
from mlops.local.state.accounts import ServedAccounts
from mlops.local.state.config import Config
from mlops.local.state.layout import Layout
from mlops.local.state.store import Store

SCHEMA = """
CREATE TABLE IF NOT EXISTS blob (
  container TEXT NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL, etag TEXT NOT NULL, size INTEGER NOT NULL,
  changed_ns INTEGER NOT NULL, created REAL NOT NULL, modified REAL NOT NULL,
  headers TEXT NOT NULL, metadata TEXT NOT NULL, blocks TEXT NOT NULL, PRIMARY KEY (container, name)
) WITHOUT ROWID;
"""
CONTAINER = re.compile(r"^[a-z0-9](?:[a-z0-9]|-(?=[a-z0-9])){2,62}$")
STAGED_S = 7 * 24 * 3600
"""Azure forgets uncommitted blocks after a week."""

Check = Callable[["Blob | None"], None]


@dataclass(frozen=True)
class Blob:
    """One blob: where its content is, and its properties."""

    container: str
    name: str
    path: Path
    size: int
    etag: str
    modified: float
    created: float
    kind: str = "BlockBlob"
    headers: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    blocks: tuple[tuple[str, int], ...] = ()


class Blobs:
    """The containers and blobs of the workspace's storage account. Methods may be called from any thread."""

    def __init__(
        self, layout: Layout, config: Config, accounts: ServedAccounts, store: Store, account_key: str
    ) -> None:
        self.accounts = accounts
        self._config = config
        self.resource_id = f"{config.group_id}/providers/Microsoft.Storage/storageAccounts/{config.account}"
        """The account's ARM id."""
        self.account_key = account_key
        self._root = layout.blobs
        self._store = store
        self.lock = threading.RLock()
        with store.transaction() as connection:
            connection.execute(SCHEMA)
        self.leases = Leases(store)
        self._folder = self._root / config.account
        self.staging = self._folder / ".staging"
        self.staging.mkdir(parents=True, exist_ok=True)
        for container in (config.container, "azureml"):
            (self._folder / container).mkdir(parents=True, exist_ok=True)
        self._forget_staged()

    @property
    def account(self) -> str:
        """The account's name, as clients are shown it."""
        return self.accounts.shown

    # -- accounts --------------------------------------------------------------------------------------------------

    def serve_account(self, resource_id: str) -> None:
        """Serve the blobs under the name of this account too, from now on in first place."""
        self.resource_id = resource_id
        self.accounts.serve(resource_id.rsplit("/", 1)[1])
        for container in (self._config.container, "azureml"):
            (self._folder / container).mkdir(parents=True, exist_ok=True)

    def forget_account(self, name: str) -> None:
        """An account is deleted with its blobs; those of the registry, which is not the subscription's, stay."""
        if name != self.account:
            return
        kept = {"azureml-registry", ".staging"}
        for folder in [item for item in self._folder.iterdir() if item.is_dir() and item.name not in kept]:
            with contextlib.suppress(BlobError):
                self.delete_container(folder.name)
        if name != self._config.account:
            self.accounts.forget(name)

    # -- names -----------------------------------------------------------------------------------------------------

    def folder(self, container: str) -> Path:
        """A container's folder; it need not exist."""
        if not CONTAINER.match(container):
            raise BlobError("InvalidResourceName", f"'{container}' is no name for a container.")
        return self._folder / container

    def path(self, account: str, container: str, name: str) -> Path:
        """The file (or, for a prefix, the folder) behind a name, which cannot lead out of the container."""
        if account not in self.accounts:
            raise BlobError("ResourceNotFound", f"There is no account '{account}' here.")
        segments = name.rstrip("/").split("/")
        bad = len(name) > 1024 or any(segment in ("", ".", "..") for segment in segments)
        if bad or any(ord(letter) < 32 or letter == "\x7f" for letter in name) or not _encodable(name):
            raise BlobError("InvalidResourceName", f"'{name[:200]!a}' is no name for a blob.")
        if any(len(os.fsencode(segment)) > 240 for segment in segments):
            raise BlobError("InvalidResourceName", "A part of the blob's name is too long for this file system.")
        return self.folder(container).joinpath(*segments)

    def _file(self, container: str, name: str) -> Path:
        path = self.path(self.account, container, name)
        if name.endswith("/"):
            return path / SLASH
        return path / SELF if path.is_dir() else path

    def sas(self, container: str, name: str = "", *, permissions: str, lifetime_s: float = 3600) -> str:
        """A shared access signature (a query string without ``?``) for a blob, or for a whole container."""
        return sas.service_sas(
            key=self.account_key,
            account=self.account,
            container=container,
            name=name,
            permissions=permissions,
            lifetime_s=lifetime_s,
        )

    def url(self, container: str, name: str = "") -> str:
        """A blob's url, without a signature."""
        from urllib.parse import quote

        return f"https://{self.account}.blob.core.windows.net/{container}" + (f"/{quote(name)}" if name else "")

    # -- containers ------------------------------------------------------------------------------------------------

    def create_container(self, container: str) -> None:
        """Make a container; raises ContainerAlreadyExists."""
        try:
            self.folder(container).mkdir()
        except FileExistsError as error:
            raise BlobError("ContainerAlreadyExists") from error

    def need_container(self, container: str) -> Path:
        """The folder of a container that exists."""
        folder = self.folder(container)
        if not folder.is_dir():
            raise BlobError("ContainerNotFound")
        return folder

    def delete_container(self, container: str) -> None:
        """Delete a container with everything in it."""
        folder = self.need_container(container)
        doomed = self.staging / secrets.token_hex(8)
        with self.lock, self._store.transaction() as connection:
            folder.rename(doomed)
            connection.execute("DELETE FROM blob WHERE container = ?", (container,))
            connection.execute("DELETE FROM blob_lease WHERE container = ?", (container,))
        shutil.rmtree(doomed, ignore_errors=True)

    def containers(self) -> list[str]:
        """Their names."""
        folder = self._folder
        return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and CONTAINER.match(entry.name))

    # -- reading ---------------------------------------------------------------------------------------------------

    def get(self, container: str, name: str) -> Blob | None:
        """A blob's properties; None where there is none."""
        path = self._file(container, name)
        try:
            stat = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return self._blob(container, name, path, stat)

    def need(self, container: str, name: str) -> Blob:
        """The same, or BlobNotFound (ContainerNotFound)."""
        blob = self.get(container, name)
        if blob is None:
            self.need_container(container)
            raise BlobError("BlobNotFound")
        return blob

    def _blob(self, container: str, name: str, path: Path, stat: os.stat_result) -> Blob:
        row = self._store.connection.execute(
            "SELECT kind, etag, size, changed_ns, created, modified, headers, metadata, blocks FROM blob"
            " WHERE container = ? AND name = ?",
            (container, name),
        ).fetchone()
        if row is not None:
            kind, etag, size, changed_ns, created, modified, headers, metadata, blocks = row
            whole = size == stat.st_size and changed_ns == stat.st_mtime_ns
            if whole or (kind == "AppendBlob" and size <= stat.st_size):  # what follows was never acknowledged
                return Blob(
                    container,
                    name,
                    path,
                    size,
                    etag,
                    modified,
                    created,
                    kind,
                    json.loads(headers),
                    json.loads(metadata),
                    tuple(map(tuple, json.loads(blocks))),
                )
        etag = f'"0x{stat.st_mtime_ns:X}{stat.st_size:X}"'
        return Blob(container, name, path, stat.st_size, etag, stat.st_mtime, stat.st_mtime)

    def read(self, container: str, name: str) -> bytes:
        """The whole content."""
        blob = self.need(container, name)
        with blob.path.open("rb") as file:
            return file.read(blob.size)

    def names(self, container: str, prefix: str = "") -> list[str]:
        """The names that begin with a prefix, in order."""
        root = self.need_container(container)
        folder = prefix.rpartition("/")[0]
        if folder:
            try:
                begin = self.path(self.account, container, folder)
            except BlobError:
                return []
        else:
            begin = root
        return sorted(name for name in walk(begin, f"{folder}/" if folder else "") if name.startswith(prefix))

    def list(self, container: str, prefix: str = "") -> Sequence[Blob]:
        """The blobs whose names begin with a prefix, in order."""
        blobs = (self.get(container, name) for name in self.names(container, prefix))
        return [blob for blob in blobs if blob is not None]

    # -- writing ---------------------------------------------------------------------------------------------------

    def aside(self) -> Path:
        """A new place for content that is being written."""
        return self.staging / secrets.token_hex(12)

    def write_bytes(self, container: str, name: str, content: bytes, *, content_type: str | None = None) -> Blob:
        """Write a block blob whole, whatever was there (leases are not asked)."""
        path = self.aside()
        path.write_bytes(content)
        headers = {"Content-Type": content_type} if content_type else {}
        return self.commit(container, name, path, headers=headers)

    def commit(
        self,
        container: str,
        name: str,
        content: Path,
        *,
        kind: str = "BlockBlob",
        headers: dict[str, str] | None = None,
        metadata: dict[str, str] | None = None,
        blocks: tuple[tuple[str, int], ...] = (),
        check: Check | None = None,
    ) -> Blob:
        """Put a file that was written aside into its place; ``check`` may still refuse, given what is there now."""
        try:
            with self.lock:
                self.need_container(container)
                existing = self.get(container, name)
                if check is not None:
                    check(existing)
                path = self._make_room(container, name)
                stat = content.stat()
                now = time.time()
                blob = Blob(
                    container,
                    name,
                    path,
                    stat.st_size,
                    new_etag(),
                    now,
                    existing.created if existing else now,
                    kind,
                    headers or {},
                    metadata or {},
                    blocks,
                )
                with self._store.transaction():
                    content.replace(path)
                    self._save(blob, stat.st_mtime_ns)
                    self.leases.written(container, name)
                return blob
        finally:
            content.unlink(missing_ok=True)

    def change(
        self, blob: Blob, *, headers: dict[str, str] | None = None, metadata: dict[str, str] | None = None
    ) -> Blob:
        """Other properties for the same content."""
        changed = replace(
            blob,
            headers=blob.headers if headers is None else headers,
            metadata=blob.metadata if metadata is None else metadata,
            etag=new_etag(),
            modified=time.time(),
        )
        self._save(changed, blob.path.stat().st_mtime_ns)
        self.leases.written(blob.container, blob.name)
        return changed

    def append(self, blob: Blob, content: bytes) -> Blob:
        """Add to an append blob; the row says how much of the file counts."""
        with blob.path.open("r+b") as file:
            file.truncate(blob.size)  # the rest of an append that was never acknowledged
            file.seek(blob.size)
            file.write(content)
        size = blob.size + len(content)
        count = ((str(int(blob.blocks[0][0]) + 1 if blob.blocks else 1), size),)
        changed = replace(blob, size=size, etag=new_etag(), modified=time.time(), blocks=count)
        self._save(changed, blob.path.stat().st_mtime_ns)
        self.leases.written(blob.container, blob.name)
        return changed

    def delete(self, blob: Blob) -> None:
        """Delete a blob, its lease, and the folders that held nothing else."""
        with self._store.transaction() as connection:
            blob.path.unlink(missing_ok=True)
            for table in ("blob", "blob_lease"):
                connection.execute(
                    f"DELETE FROM {table} WHERE container = ? AND name = ?",  # noqa: S608 - constants
                    (blob.container, blob.name),
                )
        top = self.folder(blob.container)
        for folder in blob.path.parents:
            if folder == top:
                break
            try:
                folder.rmdir()
            except OSError:
                break

    def _save(self, blob: Blob, changed_ns: int) -> None:
        with self._store.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO blob VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    blob.container,
                    blob.name,
                    blob.kind,
                    blob.etag,
                    blob.size,
                    changed_ns,
                    blob.created,
                    blob.modified,
                    json.dumps(blob.headers),
                    json.dumps(blob.metadata),
                    json.dumps(blob.blocks),
                ),
            )

    def _make_room(self, container: str, name: str) -> Path:
        """Make the folders above a blob; a blob that stands where a folder must be moves into it."""
        top = self.folder(container)
        path = self.path(self.account, container, name)
        above = [*reversed(path.relative_to(top).parents)][1:]
        if name.endswith("/"):
            above.append(path.relative_to(top))
        for part in above:
            folder = top / part
            if folder.is_file():
                moved = self.aside()
                folder.rename(moved)
                folder.mkdir()
                moved.rename(folder / SELF)
            else:
                folder.mkdir(exist_ok=True)
            if folder.is_symlink():
                raise BlobError("InvalidResourceName", f"'{part.as_posix()}' leads out of the container.")
        return self._file(container, name)

    def _forget_staged(self) -> None:
        """What a daemon that died left aside; blocks stay for a week."""
        now = time.time()
        for entry in self.staging.iterdir():
            with contextlib.suppress(OSError):
                if entry.is_file():
                    entry.unlink()
                elif not entry.name.startswith("blocks-") or entry.stat().st_mtime < now - STAGED_S:
                    shutil.rmtree(entry)


def new_etag() -> str:
    """An ETag that was never used before."""
    return f'"0x8D{time.time_ns():X}{secrets.token_hex(1).upper()}"'


def _encodable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
