"""`mlops cleanup` over 100 endpoints with two deployments each, and `mlops endpoint list`, at 100 ms a call.

    python tests/benchmarks/cleanup.py [--endpoints N] [--stale N] [--latency-ms MS] [--retry-after-s S]

The baseline is the same command with `cleanup.at_once: 1`: every call after the one before. Both delete all of the
stale ones, each from its own copy of the same workspace. Goals: 8 times faster, and never more than 16 calls under
way, counted where the SDK sends them. Operations take 50 ms here and are polled every 50 ms: what is measured is the
calls. (The longer Azure's operations take, the better for what does many at a time.)
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
GOAL, MOST = 8.0, 16
SLOTS = ("blue", "green")
SHORT = {
    "ENDPOINT_S": "0.05",
    "DEPLOYMENT_S": "0.05",
    "DELETE_S": "0.05",
    "LAZY_START": "1",
    "FAMILY_VCPUS": "1000000",
}


class Meter:
    """Counts the calls that are under way in this process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now = self.most = self.all = 0

    def watch(self) -> None:
        """Count every call that the SDK's HTTP transport makes from now on."""
        from azure.core.pipeline.transport import RequestsTransport

        send: Callable[..., Any] = RequestsTransport.send

        def counted(transport: Any, request: Any, **options: Any) -> Any:
            with self.lock:
                self.now += 1
                self.all += 1
                self.most = max(self.most, self.now)
            try:
                return send(transport, request, **options)
            finally:
                with self.lock:
                    self.now -= 1

        RequestsTransport.send = counted

    def reset(self) -> None:
        self.most = self.all = 0


@contextlib.contextmanager
def workspace(home: Path, **extra: str) -> Iterator[None]:
    """The workspace of a home folder, stopped at the end; this process is led to it."""
    before = dict(os.environ)
    os.environ["MLOPS_HOME"] = str(home)
    os.environ.setdefault("MLOPS_CACHE", str(ROOT / ".mlops" / "cache"))
    os.environ.update({f"MLOPS_LOCAL_{name}": value for name, value in {**SHORT, **extra}.items()})
    try:
        yield
    finally:
        subprocess.run([sys.executable, "-m", "mlops", "local", "stop"], cwd=ROOT, check=True, capture_output=True)
        os.environ.clear()
        os.environ.update(before)


def settings_file(folder: Path, at_once: int) -> Path:
    tree = yaml.safe_load((ROOT / "mlops.yaml").read_text())
    tree["targets"]["local"]["cleanup"] = {"at_once": at_once}
    path = folder / f"at-once-{at_once}.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def fill(folder: Path, endpoints: int, stale: int) -> float:
    """Make the endpoints, 16 at a time: ``stale`` old previews, the rest young ones; seconds that it took."""
    from azure.ai.ml.entities import (
        CodeConfiguration,
        Environment,
        ManagedOnlineDeployment,
        ManagedOnlineEndpoint,
        Model,
    )

    from mlops.azure.session import connect
    from mlops.config.settings import load
    from mlops.core.console import Console

    ml = connect(load("local", ROOT / "mlops.yaml"), Console(quiet=True)).ml
    code = folder / "serve"
    code.mkdir()
    (code / "score.py").write_text("def init():\n    pass\n\n\ndef run(raw):\n    return raw\n")
    (folder / "model").mkdir()
    (folder / "model" / "weights").write_text("none")
    model = ml.models.create_or_update(Model(path=str(folder / "model"), name="chat", version="1", type="custom_model"))
    environment = ml.environments.create_or_update(
        Environment(name="bench", version="1", image="docker.io/library/python:3.12")
    )
    now = datetime.now(UTC)

    def one(number: int) -> None:
        created = now - timedelta(days=30 if number < stale else 1, seconds=number)
        name = f"ultrachat-completion-{int(created.timestamp())}"
        tags = {"managed-by": "mlops", "mlops-kind": "preview", "mlops-created": created.isoformat()}
        endpoint = ManagedOnlineEndpoint(name=name, auth_mode="key", tags=tags)
        ml.online_endpoints.begin_create_or_update(endpoint).result()
        for slot in SLOTS:
            deployment = ManagedOnlineDeployment(
                name=slot,
                endpoint_name=name,
                model=model.id,
                environment=environment.id,
                code_configuration=CodeConfiguration(code=str(code), scoring_script="score.py"),
                instance_type="Standard_NC24ads_A100_v4",
                instance_count=1,
                tags={"managed-by": "mlops"},
            )
            ml.online_deployments.begin_create_or_update(deployment).result()
        endpoint.traffic = {SLOTS[0]: 100}
        ml.online_endpoints.begin_create_or_update(endpoint).result()

    start = time.monotonic()
    with ThreadPoolExecutor(MOST) as pool:
        list(pool.map(one, range(endpoints)))
    return time.monotonic() - start


def command(*arguments: str) -> tuple[float, dict[str, Any]]:
    """Run a command in this process: seconds, and its JSON."""
    from mlops.cli import main

    out, err = io.StringIO(), io.StringIO()
    start = time.monotonic()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*arguments, "--json"])
    seconds = time.monotonic() - start
    if code:
        raise SystemExit(f"mlops {' '.join(arguments)} ended with {code}:\n{err.getvalue()}")
    document: dict[str, Any] = json.loads(out.getvalue())
    return seconds, document


def measure(home: Path, folder: Path, at_once: int, latency: dict[str, str], meter: Meter) -> dict[str, float]:
    """Status, then cleanup, of everything, on a workspace of its own."""
    values: dict[str, float] = {}
    with workspace(home, **latency):
        os.environ["MLOPS_SETTINGS"] = str(settings_file(folder, at_once))
        command("endpoint", "list")  # the daemon starts, the SDK is imported
        meter.reset()
        values["status_s"], listed = command("endpoint", "list")
        values["status_calls"], values["status_most"] = meter.all, meter.most
        meter.reset()
        values["dry_s"], _ = command("cleanup", "--older-than", "7d", "--dry-run")
        meter.reset()
        values["cleanup_s"], cleaned = command("cleanup", "--older-than", "7d", "--yes")
        values["cleanup_calls"], values["cleanup_most"] = meter.all, meter.most
        values["endpoints"], values["deleted"] = len(listed["endpoints"]), cleaned["totals"]["done"]
        _, again = command("cleanup", "--older-than", "7d", "--yes")
        values["left"] = again["totals"]["stale"]
    return values


def main() -> int:
    """Print the times; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoints", type=int, default=100)
    parser.add_argument("--stale", type=int, default=90)
    parser.add_argument("--latency-ms", type=float, default=100)
    parser.add_argument("--retry-after-s", type=float, default=0.05, help="how often an operation is asked for its end")
    arguments = parser.parse_args()
    latency = {"LATENCY_S": str(arguments.latency_ms / 1000), "RETRY_AFTER_S": str(arguments.retry_after_s)}
    meter = Meter()
    meter.watch()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        home = folder / "one"
        with workspace(home, RETRY_AFTER_S="0.05"):
            seconds = fill(folder, arguments.endpoints, arguments.stale)
        print(f"made {arguments.endpoints} endpoints with {len(SLOTS)} deployments each in {seconds:.0f} s", flush=True)
        copy = folder / "two"
        shutil.copytree(home, copy, ignore_dangling_symlinks=True)
        many = measure(home, folder, MOST, latency, meter)
        one = measure(copy, folder, 1, latency, meter)
    print(f"{'':<34}{'16 at a time':>14}{'one by one':>12}{'ratio':>8}")
    for name, key in (
        ("mlops endpoint list, s", "status_s"),
        ("mlops cleanup --dry-run, s", "dry_s"),
        (f"mlops cleanup of {arguments.stale}, s", "cleanup_s"),
    ):
        print(f"{name:<34}{many[key]:>14.2f}{one[key]:>12.2f}{one[key] / many[key]:>8.1f}")
    for name, key in (("calls of the cleanup", "cleanup_calls"), ("most calls under way", "cleanup_most")):
        print(f"{name:<34}{many[key]:>14.0f}{one[key]:>12.0f}")
    ratio = one["cleanup_s"] / many["cleanup_s"]
    most = max(many["cleanup_most"], many["status_most"])
    right = all(
        (values["endpoints"], values["deleted"], values["left"]) == (arguments.endpoints, arguments.stale, 0)
        for values in (many, one)
    )
    print(f"{ratio:.1f} times faster (goal {GOAL:g}); at most {most:.0f} calls under way (goal {MOST})")
    if not right:
        print("not all that was stale was deleted")
    return int(ratio < GOAL or most > MOST or not right)


if __name__ == "__main__":
    sys.exit(main())
