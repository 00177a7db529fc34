"""The errors of runs, as run history shows them."""

from __future__ import annotations

import uuid
from typing import Any

from mlops.local.jobs.runs import stamp


def run_error(code: str, message: str, region: str, *, component: str = "CommonRuntime") -> dict[str, Any]:
    """An error document."""
    return {
        "error": {
            "code": code,
            "severity": None,
            "message": message,
            "messageFormat": None,
            "messageParameters": {},
            "referenceCode": None,
            "detailsUri": None,
            "target": None,
            "details": [],
            "innerError": None,
            "debugInfo": None,
        },
        "correlation": {"operation": uuid.uuid4().hex, "request": uuid.uuid4().hex[:16]},
        "environment": region,
        "location": region,
        "time": stamp(),
        "componentName": component,
    }


def failed_children(paths: list[str], region: str) -> dict[str, Any]:
    """The error of a pipeline whose steps failed."""
    nodes = ", ".join(f"/{path}" for path in paths)
    message = (
        f"Pipeline has failed child jobs. Failed nodes: {nodes}. For more details and logs, please go to the job "
        "detail page and check the child jobs."
    )
    return run_error("UserError", message, region, component="pipeline")


def lost(region: str) -> dict[str, Any]:
    """The error of a job whose process died."""
    return run_error(
        "ServiceError",
        "The process that ran this job ended unexpectedly (killed, or the machine restarted). Submit the job again.",
        region,
        component="execution-worker",
    )
