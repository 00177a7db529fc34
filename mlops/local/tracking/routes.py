"""The ``azureml://`` tracking uri: Azure's MLflow routes, answered by the tracking server.

On Azure a run's id is its job's name; the tracking server gives ids of its own. Requests and answers are translated on
the way, so that both ways see the same runs.
"""

from __future__ import annotations

import json
import logging
import re
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl, urlencode

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mlops.local.jobs.locations import artifact_root
from mlops.local.jobs.mlflow_rest import TrackingError
from mlops.local.jobs.runs import Runs, new_run
from mlops.local.state.workspace import Workspace
from mlops.local.tracking.part import TrackingPart

SERVED = re.compile(r"^/api/2\.0/(?:preview/)?mlflow/(runs|experiments|metrics)(/.*)$")
IDS = ("run_id", "run_uuid")
PARENT = re.compile(r"(tags\.`?mlflow\.parentRunId`?\s*=\s*)(['\"])(.*?)\2", re.IGNORECASE)
ENDED = {"FINISHED": "Completed", "FAILED": "Failed", "KILLED": "Canceled"}


class TrackingRoutes:
    """Answers what comes below ``/mlflow/v2.0{workspace}``."""

    def __init__(self, workspace: Workspace, tracking: TrackingPart) -> None:
        self.workspace = workspace
        self._tracking = tracking
        self.runs = Runs(workspace.store)
        logging.getLogger("httpx").setLevel(logging.WARNING)
        self._experiments: dict[str, str] = {}

    @cached_property
    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(trust_env=False, timeout=60)

    async def answer(self, request: Request, path: str, caller: str) -> Response:
        """One request; ``path`` begins with ``/api/2.0/mlflow``."""
        match = SERVED.match(path)
        if not match:
            return refusal(404, "ENDPOINT_NOT_FOUND", f"'{path}' is not served.")
        family, rest = match[1], match[2]
        if rest == "/get-run-data-status":
            return JSONResponse({"is_complete": True})
        later = rest == "/log-batch-async"
        target = f"/api/2.0/mlflow/{family}{'/log-batch' if later else rest}"
        try:
            url = await self._tracking.ready()
            status, body = await self._pass(request, url + target)
        except (TrackingError, httpx.HTTPError) as error:
            return refusal(503, "TEMPORARILY_UNAVAILABLE", str(error))
        except (ValueError, RecursionError) as error:
            return refusal(400, "BAD_REQUEST", str(error))
        if status == 200 and family == "runs" and rest == "/create":
            await self._created(url, body, caller)
        if status == 200 and family == "runs" and rest == "/update":
            self._updated(body)
        if later and status == 200:
            return JSONResponse({"batch_tracking_id": ""})
        return JSONResponse(await self._outgoing(url, body), status)

    # -- there -----------------------------------------------------------------------------------------------------

    async def _pass(self, request: Request, url: str) -> tuple[int, Any]:
        raw = await request.body()
        content: bytes | None = None
        if raw:
            body = json.loads(raw)
            if not isinstance(body, dict):
                raise ValueError("The request body must be a JSON object.")
            content = json.dumps(self._incoming(body)).encode()
        query = parse_qsl(request.scope["query_string"].decode(), keep_blank_values=True)
        query = [(key, self._identity(value) if key in IDS else value) for key, value in query]
        answer = await self._client.request(
            request.method,
            url + (f"?{urlencode(query)}" if query else ""),
            content=content,
            headers={"Content-Type": "application/json"},
        )
        try:
            return answer.status_code, answer.json()
        except ValueError:
            return answer.status_code, {"error_code": "INTERNAL_ERROR", "message": answer.text[:500]}

    def _identity(self, run: str) -> str:
        return self.runs.mlflow_id(run) or run

    def _incoming(self, value: Any) -> Any:
        if isinstance(value, dict):
            changed = {key: self._incoming(item) for key, item in value.items()}
            for key in IDS:
                if isinstance(changed.get(key), str):
                    changed[key] = self._identity(changed[key])
            if isinstance(changed.get("filter"), str):
                changed["filter"] = PARENT.sub(lambda m: f"{m[1]}{m[2]}{self._identity(m[3])}{m[2]}", changed["filter"])
            if changed.get("key") == "mlflow.parentRunId" and isinstance(changed.get("value"), str):
                changed["value"] = self._identity(changed["value"])
            return changed
        return [self._incoming(item) for item in value] if isinstance(value, list) else value

    # -- and back --------------------------------------------------------------------------------------------------

    async def _outgoing(self, url: str, value: Any) -> Any:
        if isinstance(value, list):
            return [await self._outgoing(url, item) for item in value]
        if not isinstance(value, dict):
            return value
        changed = {key: await self._outgoing(url, item) for key, item in value.items()}
        if "artifact_uri" in changed and "run_id" in changed:
            experiment = await self._experiment(url, str(changed.get("experiment_id")))
            changed["artifact_uri"] = self._artifact_uri(
                experiment, self.runs.named(changed["run_id"]) or changed["run_id"]
            )
        for key in IDS:
            if isinstance(changed.get(key), str):
                changed[key] = self.runs.named(changed[key]) or changed[key]
        if changed.get("key") == "mlflow.parentRunId" and isinstance(changed.get("value"), str):
            changed["value"] = self.runs.named(changed["value"]) or changed["value"]
        return changed

    def _artifact_uri(self, experiment: str, run: str) -> str:
        config = self.workspace.config
        scope = f"azureml://{config.api_host}/mlflow/v2.0{config.workspace_id}"
        return f"{scope}/experiments/{experiment}/runs/{run}/artifacts"

    async def _experiment(self, url: str, identity: str) -> str:
        if identity not in self._experiments:
            query = urlencode({"experiment_id": identity})
            answer = await self._client.get(f"{url}/api/2.0/mlflow/experiments/get?{query}")
            name = answer.json().get("experiment", {}).get("name") if answer.status_code == 200 else None
            if not name:
                return identity
            self._experiments[identity] = name
        return self._experiments[identity]

    async def _created(self, url: str, body: Any, caller: str) -> None:
        """A run that a client made by itself is a run of the history too."""
        from mlops.local.jobs.runner import share_artifacts

        info = body["run"]["info"]
        tags = {item["key"]: item["value"] for item in body["run"].get("data", {}).get("tags", [])}
        parent = self.runs.named(tags.get("mlflow.parentRunId", ""))
        root = (self.runs.get(parent) or {}).get("rootRunId") if parent else None
        run = new_run(
            name=info["run_id"],
            root=root or info["run_id"],
            parent=parent,
            experiment=await self._experiment(url, str(info["experiment_id"])),
            display_name=info.get("run_name") or info["run_id"],
            kind="azureml.mlflow",
            caller=caller,
            tags={key: value for key, value in tags.items() if not key.startswith("mlflow.")},
        )
        run["status"] = "Running"
        run["startTimeUtc"] = run["createdUtc"]
        self.runs.add(run, private={"interactive": True}, mlflow=info["run_id"])
        root = artifact_root(self.workspace.layout, self.workspace.config)
        share_artifacts(root / f"dcid.{info['run_id']}", info)

    def _updated(self, body: Any) -> None:
        info = body.get("run_info", {})
        name = self.runs.named(info.get("run_id", ""))
        if name and info.get("status") in ENDED and self.runs.private(name).get("interactive"):
            self.runs.move(name, ENDED[info["status"]])


def refusal(status: int, code: str, message: str) -> Response:
    """An error in MLflow's shape."""
    return JSONResponse({"error_code": code, "message": message}, status)
