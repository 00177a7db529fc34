"""Errors of the blob service, in its own codes and XML."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from xml.sax.saxutils import escape

UNKNOWN = "Server failed to authenticate the request. Please refer to the information in the www-authenticate header."
MESSAGES = {
    "BlobNotFound": (404, "The specified blob does not exist."),
    "ContainerNotFound": (404, "The specified container does not exist."),
    "ResourceNotFound": (404, "The specified resource does not exist."),
    "ContainerAlreadyExists": (409, "The specified container already exists."),
    "BlobAlreadyExists": (409, "The specified blob already exists."),
    "InvalidBlobType": (409, "The blob type is invalid for this operation."),
    "ConditionNotMet": (412, "The condition specified using HTTP conditional header(s) is not met."),
    "AppendPositionConditionNotMet": (412, "The append position condition specified was not met."),
    "MaxBlobSizeConditionNotMet": (412, "The max blob size condition specified was not met."),
    "LeaseIdMissing": (412, "There is currently a lease on the blob and no lease ID was specified in the request."),
    "LeaseIdMismatchWithBlobOperation": (412, "The lease ID specified did not match the lease ID for the blob."),
    "LeaseNotPresentWithBlobOperation": (412, "There is currently no lease on the blob."),
    "LeaseLost": (412, "A lease ID was specified, but the lease for the blob has expired."),
    "LeaseAlreadyPresent": (409, "There is already a lease present."),
    "LeaseIdMismatchWithLeaseOperation": (409, "The lease ID specified did not match the lease ID for the blob."),
    "LeaseNotPresentWithLeaseOperation": (409, "There is currently no lease on the blob."),
    "LeaseIsBreakingAndCannotBeAcquired": (
        409,
        "The lease ID matched, but the lease is currently in breaking state and cannot be acquired until it is broken.",
    ),
    "LeaseIsBreakingAndCannotBeChanged": (
        409,
        "The lease ID matched, but the lease is currently in breaking state and cannot be changed.",
    ),
    "LeaseIsBrokenAndCannotBeRenewed": (
        409,
        "The lease ID matched, but the lease has been broken explicitly and cannot be renewed.",
    ),
    "InvalidRange": (416, "The range specified is invalid for the current size of the resource."),
    "InvalidBlockList": (400, "The specified block list is invalid."),
    "InvalidBlockId": (400, "The specified block ID is invalid. The block ID must be Base64-encoded."),
    "InvalidXmlDocument": (400, "The specified XML is not syntactically valid."),
    "InvalidResourceName": (400, "The specified resource name contains invalid characters."),
    "InvalidUri": (400, "The requested URI does not represent any resource on the server."),
    "InvalidHeaderValue": (400, "The value for one of the HTTP headers is not in the correct format."),
    "InvalidQueryParameterValue": (400, "Value for one of the query parameters in the request URI is invalid."),
    "UnsupportedQueryParameter": (400, "One of the query parameters specified in the request URI is not supported."),
    "UnsupportedHeader": (400, "One of the HTTP headers specified in the request is not supported."),
    "UnsupportedHttpVerb": (405, "The resource doesn't support specified Http Verb."),
    "MissingContentLengthHeader": (411, "The Content-Length header was not specified."),
    "IncompleteBody": (400, "The body is shorter than the Content-Length header says."),
    "RequestBodyTooLarge": (413, "The request body is too large and exceeds the maximum permissible limit."),
    "Md5Mismatch": (400, "The MD5 value specified in the request did not match with the server's."),
    "CannotVerifyCopySource": (403, "The copy source is not in this account; the local workspace reads from no other."),
    "NoAuthenticationInformation": (401, UNKNOWN),
    "InvalidAuthenticationInfo": (401, UNKNOWN),
}


class BlobError(Exception):
    """Ends a request with the blob service's error."""

    def __init__(self, code: str, message: str | None = None, *, status: int | None = None) -> None:
        usual, text = MESSAGES.get(code, (403, "Server failed to authenticate the request."))
        super().__init__(message or text)
        self.code = code
        self.status = status or usual

    def body(self) -> bytes:
        """The XML body."""
        stamp = datetime.now(UTC).isoformat(timespec="microseconds")
        text = f"{self}\nRequestId:{uuid.uuid4()}\nTime:{stamp}"
        return (
            f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{self.code}</Code>'
            f"<Message>{escape(text)}</Message></Error>"
        ).encode()
