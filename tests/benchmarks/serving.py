"""Requests per second of a deployment, alone and eight at a time, with micro-batching and without.

    python tests/benchmarks/serving.py [MLFLOW_MODEL]

Both servers run at the same time and are asked in turns, so that whatever else the machine does touches both alike.
Without a model, the stand-in is packed first.
"""

import argparse
import contextlib
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVE = ROOT / "environments" / "serve"
QUESTIONS = ROOT / "data" / "bundled" / "data" / "test_gen-00000-of-00001.jsonl"
PARAMETERS = {"do_sample": False, "max_new_tokens": 20}


def pack_standin(folder: Path) -> Path:
    """Packs the stand-in as a deployment's model."""
    base, packed = ROOT / "components" / "standin" / "model", folder / "mlflow"
    env = {**os.environ, "PYTHONPATH": str(ROOT / "components")}
    package: list[str | Path] = [
        sys.executable,
        "-m",
        "chat_completion.package",
        "--model_path",
        base,
        "--mlflow_model_folder",
        packed,
    ]
    subprocess.run(package, env=env, check=True)
    return packed


@contextlib.contextmanager
def server(model: Path, *, batch_size: int, log: Path) -> Iterator[int]:
    """A scoring server; gives its port when it is up."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    env = {
        **os.environ,
        "GUNICORN_CMD_ARGS": "--worker-class gthread --threads 8",
        "MLOPS_MAX_BATCH_SIZE": str(batch_size),
        "OMP_NUM_THREADS": "1",
        "AML_APP_ROOT": str(SERVE),
    }
    program = Path(sys.executable).with_name("azmlinfsrv")
    command: list[str | Path] = [program, "--entry_script", "score.py", "--model_dir", model, "--port", str(port)]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, cwd=SERVE, env=env, stdout=stream, stderr=stream, start_new_session=True)
    try:
        while not answers(port):
            if process.poll() is not None:
                raise SystemExit(f"the server did not come up: {log.read_text()}")
            time.sleep(0.1)
        yield port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def answers(port: int) -> bool:
    """Whether a server is up."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        try:
            connection.request("GET", "/")
            return connection.getresponse().status == 200
        except OSError:
            return False


def bodies() -> list[bytes]:
    """Payloads of the bundled test questions."""
    payloads = []
    for line in QUESTIONS.read_text(encoding="utf-8").splitlines():
        messages = json.loads(line)["messages"]
        while messages[-1]["role"] != "user":
            messages.pop()
        payloads.append(json.dumps({"input_data": {"input_string": messages, "parameters": PARAMETERS}}).encode())
    return payloads


def measure(port: int, *, concurrency: int, seconds: float) -> tuple[float, float]:
    """Asks for `seconds` with `concurrency` callers.

    Returns:
        Requests per second, and the median latency in milliseconds.
    """
    payloads = bodies()
    latencies: list[float] = []
    errors: list[int] = []
    end = time.monotonic() + seconds

    def caller(offset: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        index = offset
        while time.monotonic() < end:
            started = time.monotonic()
            connection.request("POST", "/score", payloads[index % len(payloads)])
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                errors.append(answer.status)
            latencies.append(time.monotonic() - started)
            index += concurrency

    started = time.monotonic()
    threads = [threading.Thread(target=caller, args=(offset,)) for offset in range(concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise SystemExit(f"{len(errors)} requests failed: {sorted(set(errors))}")
    return len(latencies) / (time.monotonic() - started), 1000 * statistics.median(latencies)


def main() -> int:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description="Measure what micro-batching brings.")
    parser.add_argument("model", type=Path, nargs="?", help="an MLflow model; by default the stand-in")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each kind")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = arguments.model.resolve() if arguments.model else pack_standin(folder)
        with (
            server(model, batch_size=1, log=folder / "one.log") as one,
            server(model, batch_size=8, log=folder / "eight.log") as eight,
        ):
            results: dict[tuple[int, int], list[tuple[float, float]]] = {}
            for _ in range(arguments.rounds):
                for concurrency in (1, 8):
                    for batch_size, port in ((1, one), (8, eight)):
                        speed = measure(port, concurrency=concurrency, seconds=arguments.seconds)
                        results.setdefault((concurrency, batch_size), []).append(speed)
    print(f"{'callers':>7} {'batch':>5} {'req/s':>8} {'p50 ms':>8}   (median of {arguments.rounds})")
    rate = {}
    for (concurrency, batch_size), speeds in sorted(results.items()):
        rate[concurrency, batch_size] = statistics.median(value for value, _ in speeds)
        p50_ms = statistics.median(value for _, value in speeds)
        print(f"{concurrency:>7} {batch_size:>5} {rate[concurrency, batch_size]:>8.1f} {p50_ms:>8.1f}")
    for concurrency in (1, 8):
        print(f"micro-batching, {concurrency} callers: {rate[concurrency, 8] / rate[concurrency, 1]:.2f} times as fast")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
