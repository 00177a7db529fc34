"""The few calls to the tracking server that a job's process makes; plain HTTP, as importing mlflow takes seconds."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))

RESTART_S = 20.0
"""How long the daemon takes at most to start it again."""


class TrackingError(Exception):
    """The tracking server refused, or cannot be reached."""


class Unreachable(TrackingError):
    """It cannot be reached now."""


class TrackingServer:
    """A tracking server on loopback."""

    def __init__(self, url: str, *, timeout_s: float = 15.0) -> None:
        self.url = url
        self._timeout_s = timeout_s

    def wait(self, deadline_s: float) -> bool:
        """Wait until it answers; False when it does not in time."""
        end = time.monotonic() + deadline_s
        while time.monotonic() < end:
            try:
                with OPENER.open(f"{self.url}/health", timeout=2):
                    return True
            except OSError:
                time.sleep(0.1)
        return False

    def experiment(self, name: str) -> str:
        """The id of an experiment, made when missing."""
        for _ in range(3):
            try:
                query = urllib.parse.urlencode({"experiment_name": name})
                experiment = self.call("GET", f"experiments/get-by-name?{query}")["experiment"]
                if experiment.get("lifecycle_stage") == "deleted":
                    self.call("POST", "experiments/restore", {"experiment_id": experiment["experiment_id"]})
                return str(experiment["experiment_id"])
            except TrackingError as error:
                if "RESOURCE_DOES_NOT_EXIST" not in str(error):
                    raise
            try:
                return str(self.call("POST", "experiments/create", {"name": name})["experiment_id"])
            except TrackingError as error:  # someone else made it in between
                if "RESOURCE_ALREADY_EXISTS" not in str(error):
                    raise
        raise TrackingError(f"the experiment '{name}' could not be made")

    def create_run(self, experiment_id: str, *, name: str, tags: dict[str, str]) -> dict[str, Any]:
        """A new run; returns its info."""
        body = {
            "experiment_id": experiment_id,
            "run_name": name,
            "start_time": int(time.time() * 1000),
            "tags": [{"key": key, "value": value[:7900]} for key, value in tags.items()],
        }
        info: dict[str, Any] = self.call("POST", "runs/create", body)["run"]["info"]
        return info

    def end_run(self, run_id: str, status: str) -> None:
        """Close a run: FINISHED, FAILED or KILLED."""
        body = {"run_id": run_id, "status": status, "end_time": int(time.time() * 1000)}
        self.call("POST", "runs/update", body)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """One call of its REST API; tried again for a while when the server is being restarted."""
        end = time.monotonic() + RESTART_S
        while True:
            try:
                return self._call(method, path, body)
            except Unreachable:
                if time.monotonic() > end:
                    raise
                time.sleep(0.5)

    def _call(self, method: str, path: str, body: Any) -> Any:
        request = urllib.request.Request(  # noqa: S310 - loopback
            f"{self.url}/api/2.0/mlflow/{path}",
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={"Content-Type": "application/json"},
        )
        try:
            with OPENER.open(request, timeout=self._timeout_s) as response:
                return json.loads(response.read() or b"{}")
        except urllib.error.HTTPError as error:
            raise TrackingError(error.read().decode(errors="replace")[:2000]) from error
        except OSError as error:
            raise Unreachable(str(error)) from error
        except ValueError as error:
            raise TrackingError(str(error)) from error
