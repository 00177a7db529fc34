"""How long the gate takes over how long the serving side needs: 50 conversations, 8 at a time.

    python tests/benchmarks/gate.py [--answer-s 1] [--rounds 2] [--model MLFLOW_MODEL]

A local workspace of its own serves two slots behind its gateway, over HTTPS: a script that takes a fixed time for each
answer of 120 words, or a model. A bare client keeps 8 requests under way for twice as many answers and gives the
server's own throughput; the ideal is the gate's answers over that. Both are asked in turns. The gate's time begins
after the warm-up, which is not counted, and ends with the verdict: asking, scoring and comparing are in it. Exits with
1 if it takes more than 1.15 of the ideal.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from mlops import gate  # noqa: E402
from mlops.azure import endpoints  # noqa: E402
from mlops.azure.session import Session, connect  # noqa: E402
from mlops.config.settings import Gate, Quality, load  # noqa: E402
from mlops.core.console import Console  # noqa: E402
from mlops.machines.probes import probes  # noqa: E402
from mlops.scoring.client import SLOT_HEADER, Scorer, scorer  # noqa: E402

GOAL = 1.15
CONVERSATIONS = 50
CONCURRENCY = 8
PARAMETERS = {"do_sample": False, "max_new_tokens": 48}
SCORE = """
import json, os, time

def init():
    pass

def run(raw):
    question = json.loads(raw)["input_data"]["input_string"][-1]["content"]
    time.sleep(float(os.environ["ANSWER_S"]))
    words = question.split()
    return {"output": " ".join(words[1:]), "usage": {"prompt_tokens": len(words), "completion_tokens": len(words)}}
"""


def conversations() -> list[gate.Sample]:
    """Questions whose answer the script gives, but for the first word."""
    draw = random.Random(1)
    samples = []
    for number in range(CONVERSATIONS):
        text = [f"word{draw.randrange(500)}" for _ in range(120)]
        question = " ".join([f"question{number}", *text])
        samples.append(gate.Sample(({"role": "user", "content": question},), " ".join(text)))
    return samples


def bundled() -> list[gate.Sample]:
    """Conversations that the stand-in knows."""
    rows = gate.load_rows(ROOT / "data" / "bundled" / "data" / "test_gen-00000-of-00001.jsonl")
    return gate.draw(rows, count=CONVERSATIONS, seed=1)


def deployed(session: Session, folder: Path, *, answer_s: float, model: Path | None) -> Scorer:
    """An endpoint with both slots."""
    from azure.ai.ml.entities import Model

    deployment = session.settings.deployment
    weights, code = folder / "model", folder / "serve"
    for path in (weights, code):
        path.mkdir()
    (weights / "nothing.txt").write_text("no weights", encoding="utf-8")
    (code / "score.py").write_text(SCORE, encoding="utf-8")
    asset = session.ml.models.create_or_update(
        Model(path=str(model or weights), name="timed", version="1", type="mlflow_model" if model else "custom_model")
    )
    endpoints.create(session, "timed", description="a benchmark", tags={})
    variables = {**deployment.variables, "ANSWER_S": str(answer_s)}
    for slot in ("blue", "green"):
        spec = endpoints.DeploymentSpec(
            name=slot,
            endpoint="timed",
            model_id=asset.id,
            instance_type=deployment.instance_type,
            instance_count=1,
            environment=ROOT / deployment.server.environment,
            code=ROOT / deployment.code if model else code,
            scoring_script="score.py",
            max_concurrent_requests=CONCURRENCY,
            request_timeout_ms=90_000,
            probes=probes(0),
            variables=variables,
        )
        endpoints.deploy(session, spec)
    return scorer(session, "timed", timeout_s=60)


async def throughput(asker: Scorer, payloads: list[bytes], slots: list[str], *, answers: int) -> float:
    """Answers per second that the server gives to eight callers who ask again at once, and do nothing else."""
    import httpx

    turns = iter(range(answers))
    limits = httpx.Limits(max_connections=CONCURRENCY, max_keepalive_connections=CONCURRENCY)
    async with httpx.AsyncClient(timeout=60, limits=limits) as client:

        async def ask(turn: int) -> None:
            slot = slots[turn % len(slots)]
            payload = payloads[turn // len(slots) % len(payloads)]
            headers = {"Authorization": f"Bearer {asker.key}", SLOT_HEADER: slot, "Content-Type": "application/json"}
            (await client.post(asker.url, content=payload, headers=headers)).raise_for_status()

        async def caller() -> None:
            for turn in turns:
                await ask(turn)

        await asyncio.gather(*(ask(turn) for turn in range(CONCURRENCY)))  # opens the connections
        start = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(CONCURRENCY)))
        return answers / (time.perf_counter() - start)


def gate_s(asker: Scorer, samples: list[gate.Sample], settings: Gate, *, live: str | None) -> float:
    """Seconds from the end of the warm-up to the verdict."""
    begun: list[float] = []
    report = gate.evaluate(
        asker,
        settings,
        samples,
        gate.Trial(endpoint="timed", model="timed:1", candidate="green", live=live),
        planned=lambda _: begun.append(time.perf_counter()),
    )
    end = time.perf_counter()
    if report.candidate.requests != CONVERSATIONS or report.candidate.success_rate < 1:
        raise SystemExit(f"the gate is no measure: {report.errors}")
    return end - begun[0]


def measure(session: Session, folder: Path, arguments: argparse.Namespace) -> list[tuple[str, float, float]]:
    """What was asked, the ideal and the gate's time in seconds; medians over the rounds."""
    asker = deployed(session, folder, answer_s=arguments.answer_s, model=arguments.model)
    samples = bundled() if arguments.model else conversations()
    settings = Gate(
        conversations=len(samples),
        max_conversations=len(samples),
        concurrency=CONCURRENCY,
        parameters=PARAMETERS,
        quality={"exact_match": Quality(max_loss=1), "rouge_l": Quality(max_loss=1)},
    )
    payloads = [json.dumps(gate.payload(sample, PARAMETERS)).encode() for sample in samples]
    rows = []
    for title, live in (("alone", None), ("beside the live slot", "blue")):
        slots = ["green", "blue"] if live else ["green"]
        ideals, times = [], []
        for _ in range(arguments.rounds):
            count = CONVERSATIONS * len(slots)
            ideals.append(count / asyncio.run(throughput(asker, payloads, slots, answers=2 * count)))
            times.append(gate_s(asker, samples, settings, live=live))
        rows.append((f"{count:>3} answers, {title}", statistics.median(ideals), statistics.median(times)))
    return rows


def main() -> int:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--answer-s", type=float, default=1.0, help="what the script takes for an answer")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--model", type=Path, help="an MLflow model in place of the script")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["MLOPS_HOME"] = str(Path(scratch) / "home")
        os.environ["MLOPS_LOCAL_DEPLOYMENT_S"] = os.environ["MLOPS_LOCAL_ENDPOINT_S"] = "0.1"
        os.environ["MLOPS_LOCAL_RETRY_AFTER_S"] = "0.1"
        try:
            session = connect(load("local", ROOT / "mlops.yaml"), Console(quiet=True))
            rows: list[tuple[str, float, float]] = measure(session, Path(scratch), arguments)
        finally:
            stop: list[Any] = [sys.executable, "-m", "mlops", "local", "stop"]
            subprocess.run(stop, cwd=ROOT, check=True, capture_output=True)
    print(f"{'':34} {'ideal s':>8} {'gate s':>8} {'ratio':>7}   (medians of {arguments.rounds})")
    for title, ideal, taken in rows:
        print(f"{title:34} {ideal:>8.2f} {taken:>8.2f} {taken / ideal:>7.3f}")
    print(f"goal: at most {GOAL:g}")
    return 0 if all(taken / ideal <= GOAL for _, ideal, taken in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
