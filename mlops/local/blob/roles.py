"""Which action of a role a request to the blob service needs."""

from __future__ import annotations

SERVICE = "Microsoft.Storage/storageAccounts/blobServices"


def needed(method: str, level: str, comp: str) -> tuple[str, bool]:
    """The action, and whether it is one of the data plane.

    As Microsoft's "Authorize with Microsoft Entra ID (REST API)" lists them (2026-11).
    """
    if level == "account":
        if comp == "userdelegationkey":
            return f"{SERVICE}/generateUserDelegationKey/action", False
        return (f"{SERVICE}/containers/read" if comp == "list" else f"{SERVICE}/read"), False
    if level == "container" and comp != "list":
        verb = {"PUT": "write", "DELETE": "delete"}.get(method, "read")
        return f"{SERVICE}/containers/{verb}", False
    verb = "read" if method in ("GET", "HEAD") else {"DELETE": "delete"}.get(method, "write")
    return f"{SERVICE}/containers/blobs/{verb}", True
