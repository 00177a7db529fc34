"""A scoring server of a deployment: the real azureml-inference-server-http on a port of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkout import ROOT
from tests.support.waiting import HANG_S, until

SERVE = ROOT / "environments" / "serve"

# A model that needs no weights: it answers what it was asked, and says how many it answered at once. Asked to hold, it
# leaves a file and waits until seven requests wait for it.
ECHO = """
import gc, os, pathlib, time

def waiting():
    from batching import MicroBatcher

    batchers = [each for each in gc.get_objects() if isinstance(each, MicroBatcher)]
    return sum(each._queue.qsize() for each in batchers)

class BadRequest(ValueError):
    bad_request = True

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

class Echo(PythonModel):
    def predict(self, context, model_input, params=None):
        asked = [conversation[-1]["content"] for conversation in model_input["input_string"]]
        if asked == ["hold"]:
            pathlib.Path(os.environ["HELD"]).touch()
            while waiting() < 7:
                time.sleep(0.01)
        time.sleep(0.1 if len(asked) > 1 or asked[0] != "Hello" else 0)
        if "break" in asked:
            raise RuntimeError("the model broke")
        if "refuse" in asked:
            raise BadRequest("the model refuses it")
        found = {"output": [f"{text} ({len(asked)})" for text in asked]}
        if model_input["parameters"].get("top_k"):  # as a model that counts
            found["usage"] = [{"prompt_tokens": 1, "completion_tokens": len(text)} for text in asked]
            found["finish_reason"] = ["length" if len(text) > 3 else "stop" for text in asked]
        return found

set_model(Echo())
"""


@dataclass
class Server:
    """A running server, and the folder whose MLmodel it serves."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=HANG_S)
        with contextlib.closing(connection):
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    def score(self, payload: Any) -> tuple[int, Any]:
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        status, _, answer = self.request("POST", "/score", body)
        return status, json.loads(answer)


def body(*contents: str, nested: bool = False, **parameters: Any) -> dict[str, Any]:
    """A payload of conversations of one question each."""
    conversations = [[{"role": "user", "content": content}] for content in contents]
    return {"input_data": {"input_string": conversations if nested else conversations[0], "parameters": parameters}}


BAD_PAYLOADS = [
    (b"{", 400, "not JSON"),
    (b"\xff", 400, "not JSON"),
    (b"", 400, "not JSON"),
    (b"[" * 100_000, 400, "not JSON"),
    (b"{}", 400, "'input_data' is a required property"),
    (body("x", temperature=9), 400, "input_data.parameters.temperature"),
    (body("refuse"), 400, "refuses it"),
    (b'"' + b"x" * (17 * 2**20) + b'"', 413, "at most 16777216"),
]
"""Payloads that both servers refuse: status, and a part of what they say."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def serve(model: Path, folder: Path, **environment: str) -> Iterator[Server]:
    """Serves a model until the end of the block."""
    port = free_port()
    log = folder / "server.log"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env |= {
        "GUNICORN_CMD_ARGS": "--worker-class gthread --threads 8",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "AML_APP_ROOT": str(SERVE),
        "HELD": str(folder / "held"),
        **environment,
    }
    command: list[str | Path] = [
        Path(sys.executable).with_name("azmlinfsrv"),
        "--entry_script",
        "score.py",
        "--model_dir",
        model,
    ]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            cwd=SERVE,
            env=env,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(port, process, log)
    try:
        until(lambda: is_healthy(server), what="the server's start", every_s=0.1)
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(HANG_S)


def is_healthy(server: Server) -> bool:
    assert server.process.poll() is None, f"the server did not come up:\n{server.log.read_text()}"
    with contextlib.suppress(OSError):
        return server.request("GET", "/")[0] == 200
    return False


@pytest.fixture(scope="session")
def echo_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow model in the folder of a registered model, as Azure mounts it."""
    folder = tmp_path_factory.mktemp("echo")
    (folder / "echo.py").write_text(ECHO)
    program = (
        "import sys, mlflow.pyfunc; mlflow.pyfunc.save_model(path=sys.argv[1] + '/mounted/mlflow_model_folder', "
        "python_model=sys.argv[1] + '/echo.py', pip_requirements=[])"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program, folder], check=True, capture_output=True)
    return folder / "mounted"


@pytest.fixture(scope="module")
def echo(echo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(echo_model, tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="session")
def starting() -> Callable[..., contextlib.AbstractContextManager[Server]]:
    return serve
