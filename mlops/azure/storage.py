"""An append blob with a lease, in the workspace's default datastore: a log that only its holder can write to.

The answer of any call may be lost after its work was done, so each is made such that asking again is right: a lease
is acquired under an id of ours, which the second call finds in its own hands; a blob that "already exists" is there;
a lease that cannot be released or broken is gone already; a line that is appended twice is dropped by who reads.

Azure lets a blob have 50,000 appends, a few thousand rollouts. Long before, it is written anew in one piece; a copy
is kept beside it, which stands in for the blob should its writer die in between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from mlops.azure.errors import NotFoundError, translated
from mlops.azure.session import Session, text
from mlops.azure.transport import transport
from mlops.core import retry
from mlops.core.errors import AzureError, PreconditionError
from mlops.core.retry import Backoff

if TYPE_CHECKING:
    from azure.storage.blob import BlobClient, BlobLeaseClient, ContainerClient

Answer = TypeVar("Answer")

ATTEMPTS = 6
BACKOFF = Backoff(first_s=0.5, longest_s=20.0)
TAKEN = frozenset({"LeaseAlreadyPresent", "LeaseIsBreakingAndCannotBeAcquired"})
THERE = frozenset({"BlobAlreadyExists", "ConditionNotMet", "LeaseIdMissing"})
"""What the creation of a blob that exists is told; the last one while somebody holds its lease."""
LOST = frozenset(
    {
        "LeaseIdMismatchWithBlobOperation",
        "LeaseIdMismatchWithLeaseOperation",
        "LeaseNotPresentWithBlobOperation",
        "LeaseNotPresentWithLeaseOperation",
        "LeaseIsBrokenAndCannotBeRenewed",
        "LeaseLost",
    }
)
DENIED = frozenset({"AuthorizationPermissionMismatch", "AuthorizationFailure", "InsufficientAccountPermissions"})


@dataclass(frozen=True)
class Content:
    """What a log holds.

    Attributes:
        data: its lines.
        leased: whether somebody holds the lease.
        appends: how many there were.
        is_copy: the blob is empty, and this is the copy that was made before it was written anew.
    """

    data: bytes
    leased: bool
    appends: int
    is_copy: bool = False


class AppendLog:
    """One append blob, ``PATH.jsonl``. ``lease`` is always an id (GUID) of the caller's."""

    def __init__(self, session: Session, path: str, *, lease_s: int) -> None:
        self._session = session
        self._path = path
        self._lease_s = lease_s

    @cached_property
    def _blob(self) -> BlobClient:
        return self._client(f"{self._path}.jsonl")

    @cached_property
    def _copy(self) -> BlobClient:
        return self._client(f"{self._path}.copy.jsonl")

    def _client(self, path: str) -> BlobClient:
        # A call that hangs for longer than a third of the lease would cost the lease.
        read_timeout_s = min(self._session.settings.http.read_timeout_s, self._lease_s / 3)
        with self._session.opening:
            container = self._session.containers.get(read_timeout_s)
            if container is None:
                container = self._session.containers[read_timeout_s] = self._container(read_timeout_s)
        blob: BlobClient = container.get_blob_client(path)
        return blob

    def _container(self, read_timeout_s: float) -> ContainerClient:
        from azure.storage.blob import ContainerClient

        with translated("look up the default datastore"):
            store: Any = self._session.ml.datastores.get_default()
        if not getattr(store, "container_name", None):
            raise PreconditionError(
                f"the workspace's default datastore '{store.name}' is no blob container",
                hint="make a datastore of the type AzureBlob the default one",
            )
        return ContainerClient(
            f"{store.protocol}://{store.account_name}.blob.{store.endpoint}",
            store.container_name,
            credential=self._session.credential,
            transport=transport(self._session.settings.http.connect_timeout_s, read_timeout_s),
            retry_total=0,  # asked again below: the SDK's policy knows neither 429 nor Retry-After
            max_single_get_size=256 * 1024 * 1024,
        )

    def _lease(self, lease: str | None = None) -> BlobLeaseClient:
        from azure.storage.blob import BlobLeaseClient

        return BlobLeaseClient(self._blob, lease_id=lease)

    def read(self, *, attempts: int = ATTEMPTS) -> Content | None:
        """All of it; None where there is no such blob."""

        def download() -> Content:
            stream = self._blob.download_blob()
            properties: Any = stream.properties
            leased = text(properties.lease.state) in ("leased", "breaking")
            return Content(stream.readall(), leased, int(properties.append_blob_committed_block_count or 0))

        try:
            content = self._call("read", download, attempts=attempts)
        except NotFoundError:
            return None
        if content.data:
            return content
        try:
            copy: bytes = self._call("read the copy of", lambda: self._copy.download_blob().readall())
        except NotFoundError:
            return content
        return replace(content, data=copy, is_copy=True)

    def create(self) -> None:
        """Make the blob, empty, unless it is there."""
        from azure.core import MatchConditions

        def create() -> bool:
            self._blob.create_append_blob(match_condition=MatchConditions.IfMissing)
            return True

        self._call("create", create, otherwise=dict.fromkeys(THERE, False))

    def acquire(self, lease: str) -> bool:
        """Take the lease, with a new blob where there is none; False while somebody else has it."""

        def acquire() -> bool:
            self._lease(lease).acquire(self._lease_s)
            return True

        try:
            return self._call("acquire the lease of", acquire, otherwise=dict.fromkeys(TAKEN, False))
        except NotFoundError:
            self.create()
        return self._call("acquire the lease of", acquire, otherwise=dict.fromkeys(TAKEN, False))

    def renew(self, lease: str, *, attempts: int = ATTEMPTS) -> bool:
        """Begin the lease's time anew, even after it ran out; False where somebody has broken or taken it."""

        def renew() -> bool:
            self._lease(lease).renew()
            return True

        try:
            return self._call("renew the lease of", renew, attempts=attempts, otherwise=dict.fromkeys(LOST, False))
        except NotFoundError:
            return False

    def append(self, lease: str, line: bytes) -> bool:
        """Add one line; False, and nothing is written, where the lease is not (or no longer) held."""

        def append() -> bool:
            self._blob.append_block(line, length=len(line), lease=lease)
            return True

        return self._call("write to", append, otherwise=dict.fromkeys(LOST, False))

    def rewrite(self, lease: str, data: bytes) -> bool:
        """Make it one append of this data; False where the lease is not (or no longer) held."""

        def empty() -> bool:
            self._blob.create_append_blob(lease=lease)
            return True

        self._call("copy", lambda: self._copy.upload_blob(data, overwrite=True))
        return self._call("write anew", empty, otherwise=dict.fromkeys(LOST, False)) and self.append(lease, data)

    def release(self, lease: str, *, attempts: int = 3) -> None:
        """Give that lease back; one that is gone already, or another one now, is fine.

        Few attempts, as it ends by itself too.
        """

        def release() -> bool:
            self._lease(lease).release()
            return True

        self._call("release the lease of", release, attempts=attempts, otherwise=dict.fromkeys(LOST, False))

    def break_(self) -> None:
        """End the lease at once, whoever holds it."""

        def end() -> bool:
            self._lease().break_lease(lease_break_period=0)
            return True

        self._call("break the lease of", end, otherwise=dict.fromkeys(LOST, False))

    def _call(
        self,
        action: str,
        call: Callable[[], Answer],
        *,
        attempts: int = ATTEMPTS,
        otherwise: dict[str, Answer] | None = None,
    ) -> Answer:
        """Ask until there is an answer; error codes that are answers too are named in ``otherwise``."""
        from azure.core.exceptions import AzureError as CoreError

        def once() -> Answer:
            try:
                return call()
            except CoreError as error:
                code = text(getattr(error, "error_code", None))
                if otherwise and code in otherwise:
                    return otherwise[code]
                if code in DENIED:
                    raise self._denied(action) from error
                raise

        with translated(f"{action} '{self._path}.jsonl'"):
            return retry.call(once, attempts=attempts, backoff=BACKOFF, passing=_may_pass, asked=_retry_after)

    def _denied(self, action: str) -> AzureError:
        account = self._blob.account_name
        return AzureError(
            f"{action} '{self._path}.jsonl': this identity may not do so in the storage account '{account}'",
            hint="give it the role Storage Blob Data Contributor on the account (new roles take minutes to work), "
            "and let this machine through the account's network rules",
        )


def _may_pass(error: BaseException) -> bool:
    """Whether to ask again: of no use after an answer that blames the request."""
    from azure.core import exceptions as core

    if isinstance(error, core.HttpResponseError) and not isinstance(error, core.IncompleteReadError):
        status = error.status_code or 0
        return status in (408, 429) or (status >= 500 and status not in (501, 505))
    return isinstance(error, (core.ServiceRequestError, core.ServiceResponseError, core.IncompleteReadError))


def _retry_after(error: BaseException) -> str | None:
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    value = headers.get("Retry-After")
    return None if value is None else str(value)
