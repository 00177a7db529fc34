"""Requests per second and p95 of a deployment: one request at a time, micro-batching, and the engine.

    python tests/benchmarks/engine.py                       on a GPU: Phi-3-mini's shape; on a CPU: the stand-in
    python tests/benchmarks/engine.py --engine PYTHON       which Python has vLLM (default: .venv/engine's, else this)

    one       score.py with MLOPS_MAX_BATCH_SIZE=1: each request has a call of `generate` to itself
    eight     score.py as it is deployed: up to eight requests that arrive together share a call
    engine    vLLM, as engine.py starts it

Nothing is downloaded: on a GPU the weights are random. 1, 8 and 64 callers ask one question after another for
`--seconds` seconds; what is under way then is waited for and counted, and so is its time. The servers run in turn, each
with the machine to itself, and answer the same payloads, greedily. Each is asked a little before it is measured.

On a GPU it exits with 1 if the engine misses its goal: 10 times `one` with 64 callers.
"""

import argparse
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "components")]

from tests.benchmarks.finetune import table, versions  # noqa: E402
from tests.benchmarks.serving import SERVE, answers, bodies, pack_standin, server  # noqa: E402
from tests.benchmarks.training.load import SHAPES, has_gpu  # noqa: E402
from tests.unit.environments.serve.conftest import free_port  # noqa: E402

CALLERS = (1, 8, 64)
GOAL = 10.0
START_S = 900


@dataclass(frozen=True)
class Speed:
    """What one server did for one number of callers."""

    requests_per_s: float
    p95_ms: float
    tokens_per_s: float


def random_model(folder: Path) -> Path:
    """Phi-3-mini's shape with random weights in 16 bits, packed as a deployment's model."""
    import torch
    from transformers import Phi3Config, Phi3ForCausalLM

    from chat_completion.data.template import PHI3_TEMPLATE
    from standin.build import train_tokenizer

    shape, flat, packed = SHAPES["phi3-mini"], folder / "random", folder / "mlflow"
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    config = Phi3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.context,
        original_max_position_embeddings=shape.context,
        sliding_window=shape.window,
        bos_token_id=1,
        eos_token_id=3,
        pad_token_id=3,
    )
    with torch.device("cuda"):
        Phi3ForCausalLM(config).save_pretrained(flat)
    torch.cuda.empty_cache()
    texts = [body.decode() for body in bodies()]
    train_tokenizer(texts, vocabulary=2048).save(str(flat / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (flat / "tokenizer_config.json").write_text(json.dumps(settings))
    (flat / "chat_template.jinja").write_text(PHI3_TEMPLATE)
    command = [sys.executable, "-m", "chat_completion.package", "--model_path", str(flat)]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "components")}
    subprocess.run([*command, "--mlflow_model_folder", str(packed)], env=env, check=True)
    return packed


@contextlib.contextmanager
def engine(model: Path, *, python: Path, log: Path) -> Iterator[int]:
    """vLLM behind the contract; gives its port when it is up."""
    port = free_port()
    env = {**os.environ, "AZUREML_MODEL_DIR": str(model), "MLOPS_HOST": "127.0.0.1", "MLOPS_PORT": str(port)}
    env |= {"PATH": f"{python.parent}{os.pathsep}{env['PATH']}", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [python, SERVE / "engine.py"], env=env, stdout=stream, stderr=stream, start_new_session=True
        )
    try:
        limit = time.monotonic() + START_S
        while not answers(port):
            if process.poll() is not None or time.monotonic() > limit:
                raise SystemExit(f"the engine did not come up: {log.read_text()[-3000:]}")
            time.sleep(0.5)
        yield port
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def measure(port: int, *, callers: int, seconds: float, new_tokens: int) -> Speed:
    """Asks for `seconds` with so many callers; each waits for its answer before it asks again."""
    questions = [json.loads(body)["input_data"]["input_string"] for body in bodies()]
    parameters = {"do_sample": False, "max_new_tokens": new_tokens}
    payloads = [
        json.dumps({"input_data": {"input_string": question, "parameters": parameters}}) for question in questions
    ]
    latencies: list[float] = []
    tokens: list[int] = []
    errors: list[str] = []
    start = time.monotonic()

    def caller(offset: int) -> None:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=1200)) as connection:
            ask(connection, offset)

    def ask(connection: http.client.HTTPConnection, offset: int) -> None:
        index = offset
        while time.monotonic() < start + seconds and not errors:
            started = time.monotonic()
            connection.request("POST", "/score", payloads[index % len(payloads)])
            reply = connection.getresponse()
            body = reply.read()
            if reply.status != 200:
                errors.append(f"{reply.status}: {body[:200]!r}")
                return
            latencies.append(time.monotonic() - started)
            tokens.append(json.loads(body)["usage"]["completion_tokens"])
            index += callers

    threads = [threading.Thread(target=caller, args=(offset,)) for offset in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise SystemExit(f"a request failed: {errors[0]}")
    elapsed_s = time.monotonic() - start
    p95_s = sorted(latencies)[-(-len(latencies) * 95 // 100) - 1]
    return Speed(len(latencies) / elapsed_s, 1000 * p95_s, sum(tokens) / elapsed_s)


def main() -> int:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description="Measure what the engine brings.")
    own = ROOT / ".venv" / "engine" / "bin" / "python"
    default = own if own.exists() else Path(sys.executable)
    parser.add_argument("--engine", type=Path, default=default, help="a Python that has vLLM")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of one measurement")
    parser.add_argument("--new-tokens", type=int, default=0, help="longest answer; 128 on a GPU, 20 on a CPU")
    arguments = parser.parse_args()
    gpu = has_gpu()
    new_tokens = arguments.new_tokens or (128 if gpu else 20)
    speeds: dict[tuple[str, int], Speed] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = random_model(folder) if gpu else pack_standin(folder)
        for way in ("one", "eight", "engine"):
            log = folder / f"{way}.log"
            serving = (
                engine(model, python=arguments.engine, log=log)
                if way == "engine"
                else server(model, batch_size={"one": 1, "eight": 8}[way], log=log)
            )
            with serving as port:
                measure(port, callers=8, seconds=min(arguments.seconds, 3), new_tokens=new_tokens)
                for callers in CALLERS:
                    speed = measure(port, callers=callers, seconds=arguments.seconds, new_tokens=new_tokens)
                    speeds[way, callers] = speed
    print(f"{versions()}; answers of at most {new_tokens} tokens")
    rows = [["callers", "way", "requests/s", "p95 ms", "tokens/s", "against one"]]
    for callers in CALLERS:
        for way in ("one", "eight", "engine"):
            speed = speeds[way, callers]
            ratio = f"{speed.requests_per_s / speeds['one', callers].requests_per_s:.2f}"
            columns = [f"{speed.requests_per_s:.1f}", f"{speed.p95_ms:.0f}", f"{speed.tokens_per_s:.0f}"]
            rows.append([str(callers), way, *columns, ratio])
    print(table(rows))
    times = speeds["engine", 64].requests_per_s / speeds["one", 64].requests_per_s
    verdict = "" if not gpu else "reached" if times >= GOAL else "missed"
    print(f"the engine with 64 callers: {times:.1f} times one at a time; goal on a GPU: {GOAL:g} {verdict}".rstrip())
    return int(gpu and times < GOAL)


if __name__ == "__main__":
    raise SystemExit(main())
