"""A workspace that is broken on purpose: a daemon with short times, a trivial scoring script, settings per endpoint."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.support.checkout import ROOT
from tests.support.waiting import HANG_S, until

SHORT = {
    "RETRY_AFTER_S": "0.1",
    "ENDPOINT_S": "0.05",
    "DEPLOYMENT_S": "0.05",
    "COMPUTE_S": "0.05",
    "DELETE_S": "0.05",
    "PARTS": "registry,jobs,serving",
    "ENDPOINTS": "1000",
    "FAMILY_VCPUS": "100000",
}
QUESTIONS = {f"question {number}": f"the answer is number {number}" for number in range(10)}
MODEL = "trivial"
MANAGEMENT, STORAGE = "https://management.azure.com", "https://storage.azure.com"
SCORE = """
import json, os, pathlib

def init():
    global answers, version
    folder = pathlib.Path(os.environ["AZUREML_MODEL_DIR"])
    answers = json.loads(next(folder.rglob("answers.json")).read_text())
    version = folder.name

def run(raw):
    question = json.loads(raw)["input_data"]["input_string"][-1]["content"]
    answer = "something else entirely" if version.endswith("0") else answers[question]
    return {"output": answer, "model": version}
"""
"""Versions that end in 0 give wrong answers."""
SETTINGS: dict[str, Any] = {
    "data": {"dataset": "none", "percent": 100},
    "base_model": {"source": "huggingface"},
    "training": {"poll_s": 0.1},
    "compute": {"name": "cluster", "size": "Standard_NC24ads_A100_v4"},
    "model": {"name": MODEL},
    "deployment": {
        "instance_type": "Standard_NC24ads_A100_v4",
        "environment": str(ROOT / "environments" / "serve" / "environment.yml"),
        "request_timeout_ms": 5000,
        "max_concurrent_requests": 16,
    },
    "gate": {
        "split": "test_sft",
        "conversations": 10,
        "max_conversations": 10,
        "concurrency": 4,
        "warmup": 1,
        "timeout_s": 5,
        "max_p95_ms": None,
        "max_latency_ratio": None,
        "max_transport_error_rate": 0.1,
    },
    "rollout": {
        "steps": [50, 100],
        "soak_s": 0.3,
        "probes": 3,
        "probes_per_s": 30,
        "max_soak_s": 300,
        "lease_s": 15,
    },
    "http": {"connect_timeout_s": 2, "read_timeout_s": 2},
}


@dataclass
class Done:
    """A command that ended; ``code`` is None where it was killed."""

    code: int | None
    log: str
    seconds: float
    modules: list[str] = field(default_factory=list)


class Command:
    """An `mlops` process that waits to be started."""

    def __init__(self, path: Path, request: dict[str, Any]) -> None:
        self._log = Path(request["log"])
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(str(path))
        self._stream = self._socket.makefile("rb")
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        self.pid = int(self._stream.readline())

    def finish(self) -> Done:
        """Start it and wait for its end."""
        start = time.monotonic()
        self.start()
        return self.wait(start)

    def start(self) -> None:
        """Let it work."""
        self._socket.sendall(b"go\n")

    def wait(self, start: float) -> Done:
        """Wait for its end."""
        self._socket.settimeout(HANG_S)
        try:
            line = self._stream.readline()
        except ConnectionResetError:
            line = b""
        except TimeoutError:
            os.kill(self.pid, signal.SIGKILL)
            raise
        finally:
            self._stream.close()
            self._socket.close()
        reply = json.loads(line) if line else {"code": None, "modules": []}
        log = self._log.read_text(encoding="utf-8", errors="replace") if self._log.is_file() else ""
        return Done(reply["code"], log, time.monotonic() - start, reply["modules"])


class Workspace:
    """The daemon, the processes that run commands against it, and its owner's eyes."""

    def __init__(self, folder: Path, *, rollout: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self._rollout = rollout or {}
        self.data = folder / "data"
        self._socket = folder / "z"
        base = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        base |= {"MLOPS_HOME": str(folder / "home"), "MLOPS_CACHE": str(folder / "cache")}
        base |= {f"MLOPS_LOCAL_{name}": value for name, value in SHORT.items()}
        self._base = base
        self._numbers = iter(range(1, 1_000_000))
        self._lock = threading.Lock()

    # -- life ----------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Start everything; a scoring script, rows and a model lie ready."""
        command = [sys.executable, "-m", "mlops.local.daemon", "ensure"]
        done = subprocess.run(command, cwd=ROOT, env=self._base, capture_output=True, text=True, check=True)
        variables: dict[str, str | None] = json.loads(done.stdout)["env"]
        self.env = {**self._base, **{name: value for name, value in variables.items() if value is not None}}
        for name in [name for name, value in variables.items() if value is None]:
            self.env.pop(name, None)
        own = str(self.folder / "home" / "local" / "tls" / "ca.pem")  # without the public roots: it is read often
        self.env |= dict.fromkeys(("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE"), own)
        self._forkserver = subprocess.Popen(
            [sys.executable, "-m", "tests.fault_injection.forkserver", str(self._socket), str(os.getpid())],
            cwd=ROOT,
            env=self.env,
        )
        self.trust = ssl.create_default_context(cafile=self.env["SSL_CERT_FILE"])
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=16)
        self.http = httpx.Client(
            proxy=self.env["HTTPS_PROXY"], verify=self.trust, timeout=HANG_S, trust_env=False, limits=limits
        )
        self._token = self._login()
        self._admin = json.loads((self.folder / "home" / "local" / "credentials.json").read_text())["admin_token"]
        self._lay_out()
        until(lambda: can_start(self._forkserver, self._socket), what="the process that starts commands")

    def close(self) -> None:
        """Leave nothing behind that runs."""
        self.http.close()
        self._forkserver.kill()
        self._forkserver.wait()
        code = "from mlops.local.daemon import client; client.stop()"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=self._base, check=True)

    def warm_up(self, modules: list[str]) -> None:
        """Have every later command find these modules imported."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(str(self._socket))
            connection.sendall(json.dumps({"import": modules}).encode() + b"\n")
            connection.makefile("rb").readline()

    def _lay_out(self) -> None:
        (self.folder / "serve").mkdir()
        (self.folder / "serve" / "score.py").write_text(SCORE, encoding="utf-8")
        raw = self.folder / "raw"
        raw.mkdir()
        chats = {"test_sft": QUESTIONS, "train_sft": {"another question": "another answer"}}
        for split, pairs in chats.items():
            rows = [
                {
                    "prompt": question,
                    "prompt_id": hashlib.sha256(question.encode()).hexdigest(),
                    "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
                }
                for question, answer in pairs.items()
            ]
            (raw / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        settings = self._settings_file("nobody", "data")
        command = [sys.executable, "-m", "mlops", "data", "prepare", "--dataset", str(raw), "--output", str(self.data)]
        env = {**self.env, "MLOPS_SETTINGS": str(settings)}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the data were not prepared:\n{done.stderr}")
        store = "https://mlopslocal.blob.core.windows.net"
        blob = f"{store}/{self.container}/models/answers.json"
        headers = {**self._bearer(STORAGE), "x-ms-blob-type": "BlockBlob", "x-ms-version": "2024-11-04"}
        self._checked(self.http.put(blob, json=QUESTIONS, headers=headers))

    def _settings_file(self, endpoint: str, folder: str) -> Path:
        path = self.folder / "settings" / folder / "mlops.yaml"
        path.parent.mkdir(parents=True)
        target = {"endpoint": {"name": endpoint}}
        defaults = {
            **SETTINGS,
            "deployment": {**SETTINGS["deployment"], "code": str(self.folder / "serve")},
            "rollout": {**SETTINGS["rollout"], **self._rollout},
        }
        path.write_text(yaml.safe_dump({"defaults": defaults, "targets": {"local": target}}), encoding="utf-8")
        return path

    # -- commands ------------------------------------------------------------------------------------------------------

    def endpoint(self) -> Endpoint:
        """A name that no endpoint has yet, with settings of its own."""
        name = f"e-{uuid.uuid4().hex[:10]}"
        return Endpoint(self, name, self._settings_file(name, name))

    def version(self, *, good: bool = True) -> str:
        """Register a model version that nobody has seen; one that is not good answers wrongly."""
        with self._lock:
            number = str(next(self._numbers) * 10 + good)
        path = f"azureml://subscriptions/{self.env['AZURE_SUBSCRIPTION_ID']}/resourcegroups/local/workspaces/local"
        body = {
            "properties": {
                "modelType": "custom_model",
                "tags": {},
                "properties": {},
                "isAnonymous": False,
                "isArchived": False,
                "modelUri": f"{path}/datastores/workspaceblobstore/paths/models",
            }
        }
        self._checked(self.http.put(self.arm(f"models/{MODEL}/versions/{number}"), json=body, headers=self._bearer()))
        return number

    def command(self, argv: list[str], *, settings: Path, agent: str, modules: bool = False) -> Command:
        """An `mlops` process that waits to be started; its calls to Azure bear the agent's name."""
        (self.folder / "logs").mkdir(exist_ok=True)
        env = {**self.env, "MLOPS_SETTINGS": str(settings), "AZURE_HTTP_USER_AGENT": agent, "GITHUB_ACTOR": "tester"}
        env.pop("GITHUB_ACTIONS", None)
        log = str(self.folder / "logs" / f"{agent}.log")
        return Command(self._socket, {"argv": argv, "env": env, "log": log, "modules": modules})

    # -- the owner's eyes ----------------------------------------------------------------------------------------------

    @property
    def container(self) -> str:
        """The default datastore's container."""
        return "azureml-blobstore-0c0ffee0-0000-4000-8000-00000000000b"

    def arm(self, path: str) -> str:
        """A resource's address."""
        scope = f"subscriptions/{self.env['AZURE_SUBSCRIPTION_ID']}/resourceGroups/local"
        provider = "providers/Microsoft.MachineLearningServices/workspaces/local"
        return f"https://management.azure.com/{scope}/{provider}/{path}?api-version=2023-04-01"

    def get(self, path: str) -> dict[str, Any] | None:
        """A resource as Azure shows it; None where there is none."""
        response = self.http.get(self.arm(path), headers=self._bearer())
        if response.status_code == 404:
            return None
        self._checked(response)
        body: dict[str, Any] = response.json()
        return body

    def post(self, path: str) -> Any:
        """An action on a resource."""
        return self._checked(self.http.post(self.arm(path), headers=self._bearer())).json()

    def blob(self, name: str) -> httpx.Response:
        """A blob of the default datastore, whatever the answer."""
        url = f"https://mlopslocal.blob.core.windows.net/{self.container}/{name}"
        return self.http.get(url, headers={**self._bearer(STORAGE), "x-ms-version": "2024-11-04"})

    def local(self, method: str, path: str, body: Any = None) -> Any:
        """One of the local workspace's own routes."""
        url = f"https://management.azure.com/__local/{path}"
        headers = {"Authorization": f"Bearer {self._admin}"}
        return self._checked(self.http.request(method, url, json=body, headers=headers)).json()

    def _login(self) -> dict[str, str]:
        tokens = {}
        for scope in (MANAGEMENT, STORAGE):
            form = {
                "grant_type": "client_credentials",
                "client_id": self.env["AZURE_CLIENT_ID"],
                "client_secret": self.env["AZURE_CLIENT_SECRET"],
                "scope": f"{scope}/.default",
            }
            url = f"https://login.microsoftonline.com/{self.env['AZURE_TENANT_ID']}/oauth2/v2.0/token"
            tokens[scope] = str(self._checked(self.http.post(url, data=form)).json()["access_token"])
        return tokens

    def _bearer(self, scope: str = MANAGEMENT) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token[scope]}"}

    def _checked(self, answer: httpx.Response) -> httpx.Response:
        if answer.status_code >= 400:
            raise RuntimeError(f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text}")
        return answer


def can_start(forkserver: subprocess.Popen[bytes], path: Path) -> bool:
    """Whether the process that starts commands listens."""
    assert forkserver.poll() is None
    return path.exists()


def asked(number: int) -> dict[str, Any]:
    """A request to the model."""
    question = f"question {number % len(QUESTIONS)}"
    return {"input_data": {"input_string": [{"role": "user", "content": question}], "parameters": {}}, "params": {}}


@dataclass
class Seen:
    """What answered a request that named no slot."""

    status: int
    slot: str
    version: str
    right: bool

    @classmethod
    def of(cls, answer: httpx.Response, number: int) -> Seen:
        """From the answer to the request of that number."""
        body = answer.json() if answer.status_code == 200 else {}
        slot = answer.headers.get("azureml-model-deployment", "")
        right = body.get("output") == QUESTIONS[f"question {number % len(QUESTIONS)}"]
        return cls(answer.status_code, slot, str(body.get("model", "")), right)


@dataclass
class Endpoint:
    """An endpoint that a case has to itself."""

    workspace: Workspace
    name: str
    settings: Path

    def deploy(self, version: str, *, agent: str = "", modules: bool = False) -> Command:
        """`mlops deploy VERSION`, waiting to be started."""
        argv = ["deploy", version, "--data", str(self.workspace.data), "--json", "-t", "local"]
        agent = agent or f"deploy-{uuid.uuid4().hex[:8]}"
        return self.workspace.command(argv, settings=self.settings, agent=agent, modules=modules)

    def rollback(self, *, agent: str = "") -> Command:
        """`mlops rollback`, waiting to be started."""
        agent = agent or f"rollback-{uuid.uuid4().hex[:8]}"
        argv = ["rollback", "--json", "-t", "local"]
        return self.workspace.command(argv, settings=self.settings, agent=agent)

    @property
    def host(self) -> str:
        """Where it is asked."""
        return f"{self.name}.eastus.inference.ml.azure.com"

    def resource(self) -> dict[str, Any] | None:
        """The endpoint as Azure shows it."""
        return self.workspace.get(f"onlineEndpoints/{self.name}")

    def traffic(self) -> dict[str, int]:
        """Shares above 0."""
        resource = self.resource() or {"properties": {"traffic": {}}}
        return {name: share for name, share in resource["properties"]["traffic"].items() if share}

    def deployments(self) -> list[dict[str, Any]]:
        """Its deployments as Azure shows them."""
        page = self.workspace.get(f"onlineEndpoints/{self.name}/deployments")
        return list((page or {}).get("value", []))

    def states(self) -> dict[str, str]:
        """Provisioning states, the endpoint's under its own name."""
        resource = self.resource()
        states = {item["name"]: str(item["properties"]["provisioningState"]) for item in self.deployments()}
        return states if resource is None else {self.name: str(resource["properties"]["provisioningState"]), **states}

    def versions(self) -> dict[str, str]:
        """The model version that each slot's document names."""
        return {item["name"]: str(item["properties"]["model"]).rpartition("/")[2] for item in self.deployments()}

    def key(self) -> str:
        """The primary key."""
        return str(self.workspace.post(f"onlineEndpoints/{self.name}/listKeys")["primaryKey"])

    def ask(self, count: int) -> list[Seen]:
        """Requests that name no slot."""
        headers = {"Authorization": f"Bearer {self.key()}"}
        url = f"https://{self.host}/score"
        return [
            Seen.of(self.workspace.http.post(url, json=asked(number), headers=headers), number)
            for number in range(count)
        ]

    def ledger(self) -> list[dict[str, Any]]:
        """The records as they stand in Azure."""
        answer = self.workspace.blob(f"mlops/endpoints/{self.name}.jsonl")
        if answer.status_code == 404:
            return []
        return [json.loads(line) for line in answer.text.splitlines() if line.strip()]

    def leased(self) -> bool:
        """Whether somebody holds the ledger."""
        state: str = self.workspace.blob(f"mlops/endpoints/{self.name}.jsonl").headers.get("x-ms-lease-state", "")
        return state == "leased"
