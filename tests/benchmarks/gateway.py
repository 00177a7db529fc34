"""What the gateway before a deployment costs: a request through it against one straight to the scoring process.

    python tests/benchmarks/gateway.py [--requests 1000]

Both are asked in turns by the same event loop, so that whatever else the machine does touches both alike; the script
scores nothing, so that nothing but the way is measured. Exits with 1 if the gateway adds 2 ms or more at the median.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from starlette.requests import Request  # noqa: E402

from mlops.local.serving.upstream import exchange  # noqa: E402
from mlops.local.state.limits import Limits  # noqa: E402
from tests.unit.local.serving.bench import QUICK, Bench  # noqa: E402

GOAL_MS = 2.0
BODY = b'{"question": "' + b"x" * 500 + b'"}'


async def through_the_gateway(bench: Bench, endpoint: str, key: str) -> None:
    """One scoring request, as the daemon hands it over."""
    headers = [
        (b"host", f"{endpoint}.eastus.inference.ml.azure.com".encode()),
        (b"authorization", f"Bearer {key}".encode()),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(BODY)).encode()),
    ]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/score",
        "raw_path": b"/score",
        "query_string": b"",
        "headers": headers,
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": BODY, "more_body": False}

    response = await bench.serving.gateway(Request(scope, receive))
    assert response.status_code == 200, response.body


async def measure(requests: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each request, through the gateway and without it."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), Limits(), QUICK)
        try:
            endpoint = await bench.endpoint()
            await bench.deployment(endpoint, "blue")
            await bench.route(endpoint, {"blue": 100})
            key = await bench.key(endpoint)
            port = next(iter(bench.serving.fleet.running.values())).instances[0].port
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(requests):
                start = time.perf_counter()
                await through_the_gateway(bench, endpoint, key)
                middle = time.perf_counter()
                await exchange(port, "POST", "/score", [("Content-Type", "application/json")], BODY)
                times[0].append((middle - start) * 1000)
                times[1].append((time.perf_counter() - middle) * 1000)
            return times
        finally:
            await bench.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=1000)
    gateway, direct = asyncio.run(measure(parser.parse_args().requests))
    added_ms = statistics.median(gateway) - statistics.median(direct)
    for name, times in (("gateway", gateway), ("direct", direct)):
        p99 = statistics.quantiles(times, n=100)[98]
        print(f"{name:8} p50 {statistics.median(times):6.2f} ms   p99 {p99:6.2f} ms")
    print(f"the gateway adds {added_ms:.2f} ms at the median (goal: below {GOAL_MS:g} ms)")
    return 0 if added_ms < GOAL_MS else 1


if __name__ == "__main__":
    sys.exit(main())
