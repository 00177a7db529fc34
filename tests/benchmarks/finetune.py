"""Measures a fine-tuning on one device: the way of Azure's component, TRL with packing, and ours.

    python tests/benchmarks/finetune.py                     on a GPU: Phi-3-mini's shape; on a CPU: a tiny one
    python tests/benchmarks/finetune.py --full              ours trains all weights as well: does it fit?
    python tests/benchmarks/finetune.py --folder F --ways azure     one way now, and the others
    python tests/benchmarks/finetune.py --folder F --ways ours      later: F keeps the weights and what was measured
    python tests/benchmarks/finetune.py --shape tiny --steps 4 --conversations 8

    azure   transformers' Trainer, one conversation per batch, gradients accumulated over a step's conversations; no
            packing, activation checkpointing as Azure's component forces it for Phi-3 (--no-checkpointing: without)
    trl     `trl.SFTTrainer` with packing (best fit) and its own defaults otherwise; left out where TRL is missing
            (tests/benchmarks/requirements.in)
    ours    `python -m chat_completion.finetune`, with the inputs that a pipeline would give it

Nothing is downloaded: the weights are random, the conversations are random tokens of ultrachat-like lengths
(log-normal, a mean of about 1,100 tokens, at most 4,096), in turns, the loss on the assistant's. All ways start from
the same weights with LoRA of rank 16 on all four projections, see the same conversations twice, and as many of them
in an optimiser step. The second pass is timed: by then memory is laid out and kernels are loaded. Each way has a
process of its own.

What is measured is written down at once, so a run that is cut off has lost one way at most. A later run with the same
folder, shape, steps, device and packages shows what it does not measure anew; each way says when it was measured.

tokens/s counts real tokens, never padding. The memory is that of tensors at their peak, in the timed pass. The useful
work of a training, in floating-point operations, is the same for all ways, whatever they really compute:

    4 x linear weights x tokens  +  4 x head x labelled tokens  +  6 x adapter weights x tokens
      +  12 x layers x width x pairs of tokens that see each other (causal, within the sliding window)

forward 2, backward to the inputs 2, and 2 more where a weight's gradient is wanted (so 6 instead of 4 with --full);
recomputation is nobody's merit. The peak is the best of several products of two large matrices in the type that the
training computes in, in this run. GPU-hours and money are for 200,000 such conversations, once, at the price that
mlops.yaml has for the cluster's machine if that has this GPU, or at --price.

On a GPU it exits with 1 if ours misses a goal: 3 times azure, 1.3 times trl, half of the peak.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "components")]

from tests.benchmarks.training.load import (  # noqa: E402
    SHAPES,
    Load,
    Plan,
    has_gpu,
    measure_peak,
    useful_work,
    write_model,
    write_tokens,
)
from tests.benchmarks.training.ways import WAYS, install_clock  # noqa: E402

GOAL_OVER_AZURE, GOAL_OVER_TRL, GOAL_OF_PEAK = 3.0, 1.3, 0.5
DATASET_ROWS = 200_000


def child(what: str, plan: Plan) -> dict[str, Any]:
    """Does one thing in this process; returns what it found."""
    if what == "model":
        write_model(plan)
        return {"load": asdict(write_tokens(plan)), "peak": measure_peak()}
    measurement = install_clock()
    WAYS[what](plan)
    measurement.setdefault("peak_gb", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9)
    return measurement


def conditions(plan: Plan) -> dict[str, Any]:
    """What has to be equal where two measurements stand in one table."""
    return {**asdict(plan), "folder": "", "versions": versions()}


def in_a_process(what: str, plan: Plan) -> dict[str, Any]:
    """Runs `child` in a process of its own, which writes down what it found; what it prints goes to stderr."""
    result = plan.result(what)
    result.parent.mkdir(exist_ok=True)
    result.unlink(missing_ok=True)
    env = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    env = {name: value for name, value in env.items() if not name.startswith("MLFLOW_")}
    command = [sys.executable, __file__, "--child", what, json.dumps(asdict(plan)), str(result)]
    start = time.monotonic()
    done = subprocess.run(command, env=env, stdout=sys.stderr, check=False)
    print(f"== {what}: exit status {done.returncode} after {time.monotonic() - start:.0f} s", file=sys.stderr)
    return kept(what, plan)


def kept(what: str, plan: Plan) -> dict[str, Any]:
    """What was measured under these conditions, in this run or an earlier one; empty where nothing was."""
    result = plan.result(what)
    measurement: dict[str, Any] = json.loads(result.read_text()) if result.is_file() else {}
    return measurement if measurement.get("conditions") == conditions(plan) else {}


def settings_price() -> tuple[str, float | None, str]:
    """The cluster's machine in mlops.yaml, its price per hour or None where it has another GPU, and the currency."""
    import yaml

    defaults = yaml.safe_load((REPOSITORY / "mlops.yaml").read_text(encoding="utf-8"))["defaults"]
    size, costs = defaults["compute"]["size"], defaults["cleanup"]
    named = [part for part in size.split("_") if part[1:].isdigit() and part in device_name()]  # as A100
    price = float(costs["prices_per_hour"].get(size, 0.0)) if named else None
    return size, price, costs.get("currency", "USD")


def device_name() -> str:
    """What is measured on."""
    import torch

    return str(torch.cuda.get_device_name(0)) if has_gpu() else f"CPU, {len(os.sched_getaffinity(0))} cores"


def versions() -> str:
    """The device, and the packages that decide the speed."""
    import importlib.metadata as metadata
    import platform

    named = []
    for package in ("torch", "transformers", "peft", "trl", "liger-kernel", "flash-attn"):
        try:
            named.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            named.append(f"no {package}")
    return f"{device_name()}; Python {platform.python_version()}, {', '.join(named)}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown, in columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|", *lines[1:]])


def row_of(
    way: str, measurement: dict[str, Any], *, load: Load, work: float, peak: float, price: float | None
) -> list[str]:
    """A line of the table."""
    speed = load.tokens / measurement["seconds"]
    hours = DATASET_ROWS * load.tokens / load.rows / speed / 3600
    return [
        way,
        str(measurement["steps"]),
        f"{measurement['seconds'] / measurement['steps']:.3f}",
        f"{speed:,.0f}",
        f"{measurement['peak_gb']:.1f}",
        f"{work / measurement['seconds'] / 1e12:.3g}",
        f"{work / measurement['seconds'] / peak:.0%}",
        f"{hours:,.1f}",
        "" if price is None else f"{hours * price:,.0f}",
        f"{measurement['losses'][-1]:.4f}" if measurement["losses"] else "",
        measurement["measured"],
    ]


def main() -> int:
    """Measures all ways and prints a table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), help="default: phi3-mini on a GPU, tiny on a CPU")
    parser.add_argument("--conversations", type=int, default=16, help="in an optimiser step (default: 16)")
    parser.add_argument("--steps", type=int, help="that are timed (default: 12 on a GPU, 4 on a CPU)")
    parser.add_argument("--ways", nargs="+", choices=sorted(WAYS), default=list(WAYS))
    parser.add_argument("--no-checkpointing", action="store_true", help="azure and trl keep all activations")
    parser.add_argument("--full", action="store_true", help="ours trains all weights too")
    parser.add_argument("--price", type=float, help="of the machine per hour (default: the settings')")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        what, plan_json, result = arguments.child
        plan = Plan(**json.loads(plan_json))
        measurement = child(what, plan)
        measurement |= {"conditions": conditions(plan), "measured": time.strftime("%Y-%m-%d %H:%M")}
        Path(result).write_text(json.dumps(measurement))
        return 0
    gpu = has_gpu()
    name = arguments.shape or ("phi3-mini" if gpu else "tiny")
    shape = SHAPES[name]
    size, price, currency = settings_price()
    price = price if arguments.price is None else arguments.price
    if "trl" in arguments.ways and importlib.util.find_spec("trl") is None:
        print("trl is not installed (tests/benchmarks/requirements.in)", file=sys.stderr)
        arguments.ways.remove("trl")
    if arguments.folder:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    with contextlib.nullcontext(arguments.folder) if arguments.folder else tempfile.TemporaryDirectory() as folder:
        plan = Plan(
            shape=name,
            folder=str(folder),
            conversations=arguments.conversations,
            steps=arguments.steps or (12 if gpu else 4),
            checkpointing=gpu and not arguments.no_checkpointing,
        )
        measurement_of_model = in_a_process("model", plan)
        if not measurement_of_model:
            return 1
        load, peak = Load(**measurement_of_model["load"]), measurement_of_model["peak"]
        results = {way: (in_a_process if way in arguments.ways else kept)(way, plan) for way in WAYS}
        whole = (in_a_process if arguments.full else kept)("ours", dataclasses.replace(plan, full=True))
    weights = shape.linear_weights + 2 * shape.head_weights
    print(versions())
    print(
        f"{name}: {weights / 1e9:.3g} billion weights; {load.rows} conversations, {load.tokens:,} tokens, "
        f"{load.labelled / load.tokens:.0%} with a loss; {plan.conversations} conversations a step; "
        f"matrix peak {peak / 1e12:.3g} TFLOP/s; "
        + (f"{size} has another GPU: --price" if price is None else f"{price:g} {currency} an hour")
    )
    money = f"{currency} 200k"
    rows = [
        ["way", "steps", "s/step", "tokens/s", "peak GB", "TFLOP/s", "of peak", "h 200k", money, "loss", "measured"]
    ]
    for way, measurement in results.items():
        if measurement:
            work = useful_work(load, shape, full=False)
            rows.append(row_of(way, measurement, load=load, work=work, peak=peak, price=price))
        else:
            rows.append([way, *["not measured"] * (len(rows[0]) - 1)])
    if whole:
        work = useful_work(load, shape, full=True)
        rows.append(row_of("ours, all weights", whole, load=load, work=work, peak=peak, price=price))
    elif arguments.full:
        rows.append(["ours, all weights", *["failed"] * (len(rows[0]) - 1)])
    print(table(rows))
    if not results["ours"]:
        print("ours was not measured")
        return 1 if "ours" in arguments.ways else 0
    return verdict(results, work=useful_work(load, shape, full=False), peak=peak, gpu=gpu)


def verdict(results: dict[str, dict[str, Any]], *, work: float, peak: float, gpu: bool) -> int:
    """Says how ours compares; returns the exit status."""
    ours = results["ours"]
    goals = []
    for way, goal in (("azure", GOAL_OVER_AZURE), ("trl", GOAL_OVER_TRL)):
        if measurement := results.get(way):
            ratio = measurement["seconds"] / ours["seconds"]
            print(f"ours is {ratio:.2f} times as fast as {way} (goal on a GPU: {goal})")
            goals.append(ratio >= goal)
    goals.append(work / ours["seconds"] / peak >= GOAL_OF_PEAK)
    return 0 if all(goals) or not gpu else 1


if __name__ == "__main__":
    sys.exit(main())
