"""How long the local workspace takes for calls on its control plane, through proxy and TLS, as clients see it.

    python tests/benchmarks/control_plane.py [--calls N]

The baseline of the same run is the cheapest answer of the same server (cloud metadata: no token, no store). Goal: a
median under 10 ms for every kind of call.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import requests

ROOT = Path(__file__).resolve().parents[2]
GOAL_MS = 10.0
VERSION = "api-version=2024-01-01-preview"


def medians(calls: dict[str, Callable[[], Any]], count: int) -> dict[str, tuple[float, float]]:
    """Median and 95th percentile in milliseconds per kind of call, the kinds in turn so that drift hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(count):
        for name, call in calls.items():
            start = time.perf_counter()
            call().raise_for_status()
            times[name].append((time.perf_counter() - start) * 1000)
    return {
        name: (statistics.median(durations), sorted(durations)[int(len(durations) * 0.95)])
        for name, durations in times.items()
    }


def measure(environment: dict[str, str | None], count: int) -> dict[str, tuple[float, float]]:
    """Log in and call."""
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    env = os.environ
    group = f"/subscriptions/{env['AZURE_SUBSCRIPTION_ID']}/resourceGroups/{env['AZURE_RESOURCE_GROUP']}"
    provider = f"{group}/providers/Microsoft.MachineLearningServices"
    workspace = f"https://management.azure.com{provider}/workspaces/{env['AZUREML_WORKSPACE_NAME']}"
    # requests sends a body apart from its head, which would wait 40 ms for the head's acknowledgement.
    with httpx.Client(timeout=30) as client, requests.Session() as session:
        form = {
            "grant_type": "client_credentials",
            "client_id": env["AZURE_CLIENT_ID"],
            "client_secret": env["AZURE_CLIENT_SECRET"],
            "scope": "https://management.azure.com/.default",
        }
        login = f"https://login.microsoftonline.com/{env['AZURE_TENANT_ID']}/oauth2/v2.0/token"
        token = client.post(login, data=form).raise_for_status().json()["access_token"]
        client.headers["Authorization"] = session.headers["Authorization"] = f"Bearer {token}"
        secrets = f"{workspace}/datastores/workspaceblobstore/listSecrets?{VERSION}"
        image = {"properties": {"image": "docker.io/library/python:3.12"}}
        versions = iter(range(1, 10**6))
        return medians(
            {
                "cloud metadata (baseline)": lambda: client.get("https://management.azure.com/metadata/endpoints"),
                "GET workspace": lambda: client.get(f"{workspace}?{VERSION}"),
                "GET machine sizes": lambda: client.get(
                    f"https://management.azure.com/subscriptions/{env['AZURE_SUBSCRIPTION_ID']}"
                    f"/providers/Microsoft.MachineLearningServices/locations/eastus/vmSizes?{VERSION}"
                ),
                "PUT environment version": lambda: client.put(
                    f"{workspace}/environments/bench/versions/{next(versions)}?{VERSION}", json=image
                ),
                "LIST environment versions": lambda: client.get(
                    f"{workspace}/environments/bench/versions?{VERSION}&$top=10"
                ),
                "POST datastore secrets": lambda: client.post(secrets, json={}),
                "the same, by requests": lambda: session.post(secrets, json={}),
            },
            count,
        )


def main() -> int:
    """Print a row per kind of call; 1 where a median misses the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200, help="calls of each kind")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        base = {**os.environ, "MLOPS_HOME": home}
        base["MLOPS_CACHE"] = os.environ.get("MLOPS_CACHE", str(ROOT / ".mlops" / "cache"))
        command = [sys.executable, "-m", "mlops.local.daemon", "ensure"]
        try:
            done = subprocess.run(command, cwd=ROOT, env=base, capture_output=True, text=True, check=True)
            results = measure(json.loads(done.stdout)["env"], arguments.calls)
        finally:
            stop = [sys.executable, "-m", "mlops", "local", "stop"]
            subprocess.run(stop, cwd=ROOT, env=base, check=False, capture_output=True)
    baseline = next(iter(results.values()))[0]
    print(f"{'call':<28}{'median ms':>10}{'p95 ms':>9}{'x baseline':>12}")
    for name, (median, p95) in results.items():
        print(f"{name:<28}{median:>10.2f}{p95:>9.2f}{median / baseline:>12.2f}")
    return int(any(median > GOAL_MS for median, _ in results.values()))


if __name__ == "__main__":
    sys.exit(main())
