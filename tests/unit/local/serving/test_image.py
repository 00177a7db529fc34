"""Deployments whose image has a command of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlops.local.serving import fleet, image
from mlops.local.serving.image import Image, command
from mlops.local.serving.process import Instance
from tests.support.waiting import until
from tests.unit.local.serving.bench import Bench

OWN = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/ready" else 404)
        self.end_headers()

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        told = {"path": self.path, "host": self.server.server_address[0], "model": os.environ["AZUREML_MODEL_DIR"]}
        told["prefix"] = os.environ["VIRTUAL_ENV"]
        self.wfile.write(json.dumps(told).encode())

HTTPServer((os.environ["MLOPS_HOST"], int(os.environ["MLOPS_PORT"])), Handler).serve_forever()
"""
DOCKERFILE = """\
FROM base
CMD ["sh", "-c", "exec false"]
CMD ["sh", "-c", \\
     "exec python $AML_APP_ROOT/own.py"]
"""


@pytest.mark.parametrize(
    ("dockerfile", "words"),
    [
        ("FROM base\nRUN x\n", None),
        (DOCKERFILE, ["sh", "-c", "exec python $AML_APP_ROOT/own.py"]),
        ("FROM base\ncmd serve --all\n", ["/bin/sh", "-c", "serve --all"]),
        ("FROM base\n# CMD no\nENV CMD=no\n", None),
    ],
)
def test_the_last_command_counts(dockerfile: str, words: list[str] | None) -> None:
    assert command(dockerfile) == words


@pytest.fixture
def environment(bench: Bench) -> str:
    """The id of an environment's version; its build context lies with the code."""
    (bench.assets.code / "Dockerfile").write_text(DOCKERFILE)
    (bench.assets.code / "own.py").write_text(OWN)
    own = f"{bench.ws}/environments/own/versions/1"
    properties = {
        "build": {"contextUri": "https://a.blob.core.windows.net/c", "dockerfilePath": "Dockerfile"},
        "inferenceConfig": {"readinessRoute": {"path": "/ready", "port": 5001}},
    }
    bench.workspace.store.put(own, {"id": own, "properties": properties})
    return own


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that passes for the installed packages of the image."""
    (tmp_path / "ready").touch()
    for module in (image, fleet):
        monkeypatch.setattr(module, "PACKAGES", tmp_path)
    return tmp_path


async def test_it_is_run_with_packages_of_its_own(bench: Bench, environment: str, packages: Path) -> None:
    endpoint = await bench.endpoint()
    await bench.deployment(endpoint, "blue", environmentId=environment)
    answer = (await bench.score(endpoint, to="blue", path="/v1/chat/completions")).json()
    assert (answer["path"], answer["host"], answer["prefix"]) == ("/v1/chat/completions", "127.0.0.1", str(packages))
    assert Path(answer["model"]).is_dir()
    (pid,) = bench.serving.status()[0]["pids"]
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    assert len(family) > 1
    await bench.serving.fleet.stop()
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family)


async def test_nothing_is_left_of_a_command_that_crashes(bench: Bench, environment: str, packages: Path) -> None:
    pids = packages / "pids"
    (bench.assets.code / "Dockerfile").write_text(f"CMD sleep 9876 & echo $! >> {pids}; exit 3\n")
    endpoint = await bench.endpoint()
    said = await bench.done(await bench.put(endpoint, "blue", environmentId=environment), expected="Failed")
    assert "crashed or terminated" in said["error"]["message"]
    leftovers = [int(line) for line in pids.read_text().split()]
    assert len(leftovers) > 1
    assert not any(map(runs, leftovers))


def test_nothing_is_left_of_a_command_whose_container_and_daemon_were_killed(tmp_path: Path) -> None:
    own = Image("own", ("sh", "-c", "echo $$ > pid; exec sleep 9876"), "/")
    given: dict[str, Any] = {"arguments": [], "environment": {**os.environ, "AML_APP_ROOT": str(tmp_path)}}
    first = Instance(tmp_path, 0, image=own, **given)
    first.start()
    child = tmp_path / "pid"
    until(lambda: child.is_file() and child.read_text() != "" and first.record.is_file())
    psutil.Process(first.pid).kill()
    until(lambda: not first.alive())
    assert runs(int(child.read_text()))
    assert not Instance(tmp_path, 0, image=own, **given).adopt()
    until(lambda: not runs(int(child.read_text())))


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_without_its_packages_it_says_how_to_get_them(
    bench: Bench, environment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image, "PACKAGES", tmp_path)
    endpoint = await bench.endpoint()
    said = await bench.done(await bench.put(endpoint, "blue", environmentId=environment), expected="Failed")
    assert said["error"]["message"].endswith("not installed on this machine: run make engine")
