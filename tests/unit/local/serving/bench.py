"""The serving part alone, in the test's own process: control plane and gateway behind an HTTP client, no TLS."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import httpx
from starlette.requests import Request

from mlops.local.arm.access import Access
from mlops.local.arm.app import ControlPlane
from mlops.local.arm.quota import FamilyQuotas
from mlops.local.arm.roles import BUILT_IN
from mlops.local.arm.subscription import Subscription
from mlops.local.daemon.catalogue import serving_types
from mlops.local.entra.identity import TokenRefused
from mlops.local.serving.part import Serving
from mlops.local.state.config import Config
from mlops.local.state.layout import Layout
from mlops.local.state.limits import Limits
from mlops.local.state.workspace import Workspace
from tests.support.waiting import HANG_S, until_async

LOGIN = "tester's object id"
OWNER = next(role for role in BUILT_IN if role.name == "Owner")
SCORE = """
import json, os, sys, threading, time
from pathlib import Path

meeting = threading.Barrier(8)

def init():
    print("init of", os.environ.get("SLOT", "nobody"))
    if os.environ.get("FAIL_INIT"):
        raise RuntimeError("no model today")
    if os.environ.get("SLOW_INIT"):
        time.sleep(float(os.environ["SLOW_INIT"]))

def run(raw):
    data = json.loads(raw)
    while "until" in data and not Path(data["until"]).exists():
        time.sleep(0.01)
    if "meet" in data:
        meeting.wait()
    if "die" in data:
        os.kill(os.getpid() if data["die"] == "worker" else os.getppid(), 9)
        time.sleep(5)
    if "raise" in data:
        raise ValueError("as you wish")
    if "status" in data:
        from azureml_inference_server_http.api.aml_response import AMLResponse
        return AMLResponse({"error": {"code": "BadRequest", "message": "no"}}, data["status"], json_str=True)
    if "count" in data:
        with open(os.environ["COUNT_FILE"], "a") as file:
            file.write("x")
    return {"slot": os.environ.get("SLOT"), "model": os.environ["AZUREML_MODEL_DIR"], "pid": os.getpid(), "echo": data}
"""


class Assets:
    """Stands in for the jobs part: models and code by id."""

    def __init__(self, root: Path) -> None:
        self.code = root / "code"
        self.code.mkdir()
        (self.code / "score.py").write_text(SCORE)
        self.models = {"m": root / "weights"}
        (root / "weights").mkdir()
        (root / "weights" / "weights.bin").write_bytes(b"w" * 1000)

    def code_folder(self, identity: str) -> Path:
        return self.code

    def model_folder(self, identity: str) -> Path:
        return self.models[identity.split("/models/")[1].split("/")[0]]


class NoTokens:
    """Stands in for Entra, which nobody asks here."""

    def check(self, authorization: str | None, audiences: tuple[str, ...]) -> dict[str, Any]:
        raise TokenRefused(f"{authorization} is not for {audiences}")


class Bench:
    """Requests as a client would send them."""

    def __init__(self, root: Path, limits: Limits, config: Config) -> None:
        self.workspace = Workspace.open(Layout(root=root / "state", cache=root / "cache"), config)
        self.assets = Assets(root)
        self.serving = Serving(self.workspace, limits, self.assets, NoTokens())
        access = Access(self.workspace.store)
        subscription = Subscription(self.workspace, access, LOGIN, dependencies=())
        subscription.grant(OWNER)
        subscription.seed_group()
        self.workspace.store.put(config.workspace_id, {"id": config.workspace_id})
        types = serving_types(self.workspace, self.serving, access, FamilyQuotas(limits, self.workspace.store))
        self.control = ControlPlane(self.workspace, types, subscription)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(self._app), timeout=HANG_S)
        self.ws = config.workspace_id
        for name in ("models/m/versions/1", "models/ml/versions/3"):
            kind = "mlflow_model" if "/ml/" in name else "custom_model"
            self.workspace.store.put(f"{self.ws}/{name}", {"id": name, "properties": {"modelType": kind}})
        self.workspace.store.put(f"{self.ws}/codes/c/versions/1", {"id": "c", "properties": {}})
        self.workspace.store.put(f"{self.ws}/environments/e/versions/1", {"id": "e", "properties": {}})

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        if request.headers["host"].startswith("management"):
            response = await self.control.answer(request, caller="tester", oid=LOGIN)
        else:
            response = await self.serving.gateway(request)
        await response(scope, receive, send)

    async def arm(self, method: str, path: str, body: Any = None, **query: str) -> httpx.Response:
        """A call to the control plane; ``path`` is below the workspace unless it begins with /subscriptions."""
        url = path if path.startswith("/subscriptions") else f"{self.ws}/{path}"
        return await self.http.request(
            method, f"https://management.azure.com{url}", json=body, params={"api-version": "2023-04-01", **query}
        )

    async def done(self, answer: httpx.Response, expected: str = "Succeeded") -> dict[str, Any]:
        """Follow an operation to its end; its last status document."""
        assert answer.status_code in (201, 202), answer.text
        url = answer.headers.get("Azure-AsyncOperation") or answer.headers["Location"]

        async def ended() -> dict[str, Any] | None:
            body: dict[str, Any] = (await self.http.get(url)).json()
            return None if body["status"] in ("Updating", "InProgress") else body

        body: dict[str, Any] = await until_async(ended, what="the operation's end")
        assert body["status"] == expected, body
        return body

    async def endpoint(self, name: str | None = None, **properties: Any) -> str:
        """A new endpoint's name."""
        name = name or f"e-{uuid.uuid4().hex[:10]}"
        body = {"location": "eastus", "properties": {"authMode": "Key", **properties}}
        await self.done(await self.arm("PUT", f"onlineEndpoints/{name}", body))
        return name

    def deployment_body(self, slot: str, *, instances: int = 1, env: dict[str, str] | None = None, **more: Any) -> Any:
        return {
            "location": "eastus",
            "sku": {"name": "Default", "capacity": instances},
            "properties": {
                "model": f"{self.ws}/models/m/versions/1",
                "codeConfiguration": {"codeId": f"{self.ws}/codes/c/versions/1", "scoringScript": "score.py"},
                "environmentId": f"{self.ws}/environments/e/versions/1",
                "instanceType": "Standard_DS3_v2",
                "endpointComputeType": "Managed",
                "environmentVariables": {"SLOT": slot, **(env or {})},
                **more,
            },
        }

    async def put(self, endpoint: str, slot: str, **more: Any) -> httpx.Response:
        path = f"onlineEndpoints/{endpoint}/deployments/{slot}"
        return await self.arm("PUT", path, self.deployment_body(slot, **more))

    async def deployment(self, endpoint: str, slot: str, **more: Any) -> None:
        await self.done(await self.put(endpoint, slot, **more))

    async def traffic(self, endpoint: str, traffic: dict[str, int], **more: Any) -> httpx.Response:
        body = {"location": "eastus", "properties": {"authMode": "Key", "traffic": traffic, **more}}
        return await self.arm("PUT", f"onlineEndpoints/{endpoint}", body)

    async def route(self, endpoint: str, traffic: dict[str, int], **more: Any) -> None:
        await self.done(await self.traffic(endpoint, traffic, **more))

    async def key(self, endpoint: str, name: str = "primaryKey") -> str:
        key: str = (await self.arm("POST", f"onlineEndpoints/{endpoint}/listKeys")).json()[name]
        return key

    async def score(
        self, endpoint: str, body: Any = None, *, to: str | None = None, key: str | None = None, path: str = "/score"
    ) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key or await self.key(endpoint)}"}
        if to:
            headers["azureml-model-deployment"] = to
        url = f"https://{endpoint}.eastus.inference.ml.azure.com{path}"
        return await self.http.post(url, json={} if body is None else body, headers=headers)

    async def close(self) -> None:
        await self.serving.stop()
        await self.workspace.operations.settle()
        await self.http.aclose()
        self.workspace.store.close()


QUICK = Config(
    endpoint_operation_s=0.02,
    deployment_operation_s=0.02,
    compute_operation_s=0.02,
    delete_operation_s=0.02,
    retry_after_s=0.01,
)
