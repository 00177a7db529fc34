"""The blob service's door: who may come in, and which operation a request is."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response

from mlops.local.arm.access import Access
from mlops.local.blob import reads, roles, sas, writes
from mlops.local.blob.call import BlobCall, standard_headers
from mlops.local.blob.errors import BlobError
from mlops.local.blob.store import Blobs
from mlops.local.entra.identity import STORAGE, Identity, TokenRefused

log = logging.getLogger(__name__)

Operation = Callable[[BlobCall], Awaitable[Response]]

# method, level, comp -> operation and the permissions of a shared access signature of which it needs one
OPERATIONS: dict[tuple[str, str, str], tuple[Operation, str]] = {
    ("GET", "account", "list"): (reads.list_containers, "l"),
    ("GET", "account", "properties"): (reads.get_service, "r"),
    ("POST", "account", "userdelegationkey"): (reads.delegation_key, ""),
    ("PUT", "container", ""): (writes.create_container, "cw"),
    ("GET", "container", ""): (reads.get_container, "r"),
    ("HEAD", "container", ""): (reads.get_container, "r"),
    ("GET", "container", "metadata"): (reads.get_container, "r"),
    ("GET", "container", "acl"): (reads.get_container_acl, ""),
    ("HEAD", "container", "acl"): (reads.get_container_acl, ""),
    ("DELETE", "container", ""): (writes.delete_container, "d"),
    ("GET", "container", "list"): (reads.list_blobs, "l"),
    ("GET", "blob", ""): (reads.get_blob, "r"),
    ("HEAD", "blob", ""): (reads.head_blob, "r"),
    ("GET", "blob", "metadata"): (reads.head_blob, "r"),
    ("HEAD", "blob", "metadata"): (reads.head_blob, "r"),
    ("GET", "blob", "blocklist"): (reads.get_block_list, "r"),
    ("PUT", "blob", ""): (writes.put_blob, "cw"),
    ("PUT", "blob", "block"): (writes.put_block, "cw"),
    ("PUT", "blob", "blocklist"): (writes.put_block_list, "cw"),
    ("PUT", "blob", "appendblock"): (writes.append_block, "aw"),
    ("PUT", "blob", "metadata"): (writes.set_metadata, "w"),
    ("PUT", "blob", "properties"): (writes.set_properties, "w"),
    ("PUT", "blob", "lease"): (writes.lease_blob, "w"),
    ("PUT", "blob", "tier"): (writes.set_tier, "w"),
    ("DELETE", "blob", ""): (writes.delete_blob, "d"),
}


class BlobService:
    """Answers for the account's blob host."""

    def __init__(self, blobs: Blobs, identity: Identity, access: Access) -> None:
        self.blobs = blobs
        self._identity = identity
        self._access = access

    async def answer(self, request: Request) -> Response:
        """Answer one request."""
        try:
            return await self._answer(request)
        except sas.Forbidden as refused:
            return self._error(request, BlobError(refused.code, str(refused), status=403))
        except TokenRefused as refused:
            return self._error(request, BlobError("InvalidAuthenticationInfo", str(refused)))
        except BlobError as error:
            return self._error(request, error)

    async def _answer(self, request: Request) -> Response:
        pairs = parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True)
        query = dict(pairs)
        container, separator, name = request.scope["path"].removeprefix("/").partition("/")
        level = ("blob" if separator and name else "container") if container else "account"
        if level == "container" and query.get("restype") != "container" and query.get("comp") != "list":
            raise BlobError("InvalidUri")  # the root container is not served
        comp = query.get("comp", "")
        operation = OPERATIONS.get((request.method, level, comp))
        if query.get("restype") == "account" and comp == "properties":
            operation = (reads.get_account, "r")
        if "snapshot" in query or "versionid" in query:
            raise BlobError("UnsupportedQueryParameter", "Snapshots and versions are not kept here.")
        needed = operation[1] if operation else "r"
        account = request.headers.get("host", "").partition(".")[0].lower()
        access = sas.Access(account=account, container=container, name=name, permissions=needed)
        permissions = self._authenticate(request, pairs, access)
        if "claims" in request.scope and operation is not None:
            self._authorize(request, level, comp, access)
        if operation is None:
            known = any(key[1:] == (level, comp) for key in OPERATIONS)
            raise BlobError("UnsupportedHttpVerb" if known else "UnsupportedQueryParameter")
        if container:
            self.blobs.folder(container)
        if name:
            self.blobs.path(self.blobs.account, container, name)
        call = BlobCall(self.blobs, request, container, name, query, permissions)
        return await operation[0](call)

    def _authenticate(self, request: Request, pairs: list[tuple[str, str]], access: sas.Access) -> str:
        """The letters that a signature grants; empty for the account key and for a token."""
        query = dict(pairs)
        authorization = request.headers.get("authorization")
        if authorization is None and "sig" in query:
            sas.check_sas(query, access, key=self.blobs.account_key)
            return query.get("sp", "")
        if authorization is None:
            raise BlobError("NoAuthenticationInformation")
        scheme = authorization.partition(" ")[0].lower()
        if scheme == "sharedkey":
            sas.check_shared_key(
                authorization,
                key=self.blobs.account_key,
                account=access.account,
                method=request.method,
                raw_path=request.scope["raw_path"].decode("latin-1"),
                query=pairs,
                headers=request.headers,
            )
            return ""
        own = f"https://{access.account}.blob.core.windows.net"
        request.scope["claims"] = self._identity.check(authorization, (*STORAGE, own))
        return ""

    def _authorize(self, request: Request, level: str, comp: str, access: sas.Access) -> None:
        """A token opens what its owner has a role for, and nothing else."""
        action, data = roles.needed(request.method, level, comp)
        scope = self.blobs.resource_id
        if access.container:
            scope += f"/blobServices/default/containers/{access.container}"
        if not self._access.allows(request.scope["claims"]["oid"], action, scope, data=data):
            message = "This request is not authorized to perform this operation using this permission."
            raise BlobError("AuthorizationPermissionMismatch", message, status=403)

    def _error(self, request: Request, error: BlobError) -> Response:
        headers = standard_headers(request) | {"x-ms-error-code": error.code}
        if error.status == 401:
            tenant = f"https://login.microsoftonline.com/{self._identity.tenant}"
            headers["WWW-Authenticate"] = (
                f"Bearer authorization_uri={tenant}/oauth2/authorize resource_id=https://storage.azure.com"
            )
        if error.code in ("RequestBodyTooLarge", "IncompleteBody"):
            headers["Connection"] = "close"  # what is left of the body is not worth reading
        body = b"" if request.method == "HEAD" else error.body()
        return Response(body, error.status, headers, media_type="application/xml")
