"""The tracking server's process: MLflow's own server, without the calls that Azure ML does not serve.

``python -m mlops.local.tracking.process FOLDER ARTIFACTS PORT``; started by :mod:`mlops.local.tracking.part`. It is
what ``mlflow server`` runs, in one process instead of three.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

REFUSED = "/api/2.0/mlflow/logged-models"
"""MLflow 3's logged models: Azure answers 404, so a program that needs them must fail here already."""


ROOT = "mlflow-artifacts:/.tracking"
"""Where runs' artifacts lie below the artifact folder: out of the way of the folders that the blob store shows."""


def environment(folder: Path, artifacts: Path) -> dict[str, str]:
    """The variables that ``mlflow server`` sets for its workers."""
    return {
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder / 'mlflow.db'}",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": ROOT,
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(artifacts),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SGI_NAME": "uvicorn",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


def guarded(app: Any) -> Any:
    """The application with a 404 for logged models."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"].startswith(REFUSED):
            body = b'{"error_code": "ENDPOINT_NOT_FOUND", "message": "Azure ML does not serve logged models."}'
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 404, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        await app(scope, receive, send)

    return answer


def main(arguments: list[str]) -> None:
    """Serve until ended."""
    folder, artifacts, port = Path(arguments[0]), Path(arguments[1]), int(arguments[2])
    artifacts.mkdir(parents=True, exist_ok=True)
    os.environ.update(environment(folder, artifacts))
    import uvicorn
    from mlflow.server.fastapi_app import app
    from mlflow.server.handlers import initialize_backend_stores

    store = os.environ["_MLFLOW_SERVER_FILE_STORE"]
    initialize_backend_stores(store, store, ROOT)
    uvicorn.run(guarded(app), host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=2)


if __name__ == "__main__":
    main(sys.argv[1:])
