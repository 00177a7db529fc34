"""Error answers in Azure's shape."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any


class ArmError(Exception):
    """Ends a request with an Azure error body.

    Args:
        status: the HTTP status.
        code: Azure's error code (``NotFound``, ``BadRequest``, ``UserError``, …).
        message: the sentence.
        details: pairs of code and message for the ``details`` list.
    """

    def __init__(self, status: int, code: str, message: str, *, details: list[tuple[str, str]] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details or []

    def body(self, region: str) -> dict[str, Any]:
        """The JSON body, with the additional information that the real service adds."""
        stamp = datetime.now(UTC).isoformat(timespec="microseconds")
        correlation = {"operation": uuid.uuid4().hex, "request": uuid.uuid4().hex[:16]}
        extra = {
            "ComponentName": "managementfrontend",
            "Correlation": correlation,
            "Environment": region,
            "Location": region,
            "Time": stamp,
        }
        return {
            "error": {
                "code": self.code,
                "message": self.message,
                "details": [
                    {"code": code, "message": message, "details": [], "additionalInfo": []}
                    for code, message in self.details
                ],
                "additionalInfo": [{"type": key, "info": {"value": value}} for key, value in extra.items()],
            }
        }


def not_found(
    message: str = "The specified resource was not found.", *, detail: tuple[str, str] | None = None
) -> ArmError:
    """404 in the words of Azure ML's front end."""
    return ArmError(404, "NotFound", message, details=[detail] if detail else None)


def bad_request(message: str, *, detail: tuple[str, str] | None = None) -> ArmError:
    """400, a request that the service refuses."""
    return ArmError(400, "BadRequest", message, details=[detail] if detail else None)
