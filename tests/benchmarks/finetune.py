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
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "components")]

GOAL_OVER_AZURE, GOAL_OVER_TRL, GOAL_OF_PEAK = 3.0, 1.3, 0.5
DATASET_ROWS = 200_000
LORA_R, LORA_ALPHA = 16, 32
EPOCHS = 2  # the last is timed


@dataclass(frozen=True)
class Shape:
    """A model of Phi-3's architecture, and the lengths of what it is trained on.

    Attributes:
        mean_tokens: of a conversation, before the longest are cut to the context.
    """

    vocabulary: int
    width: int
    intermediate: int
    layers: int
    heads: int
    context: int
    window: int
    mean_tokens: int

    @property
    def linear_weights(self) -> int:
        """Weights of the layers' four projections."""
        return self.layers * (4 * self.width**2 + 3 * self.width * self.intermediate)

    @property
    def adapter_weights(self) -> int:
        """Weights of LoRA on them: both sides of qkv, o, gate and up, down."""
        sides = (
            4 * self.width + 2 * self.width + (self.width + 2 * self.intermediate) + (self.intermediate + self.width)
        )
        return self.layers * LORA_R * sides

    @property
    def head_weights(self) -> int:
        """Weights of the head."""
        return self.vocabulary * self.width


SHAPES = {
    # microsoft/Phi-3-mini-4k-instruct, config.json
    "phi3-mini": Shape(32_064, 3072, 8192, 32, 32, 4096, 2047, mean_tokens=1_100),
    "tiny": Shape(2_048, 128, 352, 4, 4, 512, 511, mean_tokens=138),
}


@dataclass(frozen=True)
class Plan:
    """What every way is given."""

    shape: str
    folder: str
    conversations: int
    steps: int
    checkpointing: bool
    full: bool = False

    @property
    def model(self) -> Path:
        """The base model's folder."""
        return Path(self.folder) / f"model-{self.shape}"

    @property
    def tokens(self) -> Path:
        """The preprocessed conversations' folder."""
        return Path(self.folder) / "tokens"

    def result(self, what: str) -> Path:
        """Where `child` writes what it found."""
        return Path(self.folder) / "results" / f"{what}{'-all-weights' if self.full else ''}.json"


@dataclass(frozen=True)
class Load:
    """The training split in numbers."""

    tokens: int
    labelled: int
    pairs: int
    rows: int


def has_gpu() -> bool:
    """Whether this machine has one."""
    import torch

    return bool(torch.cuda.is_available())


def write_model(plan: Plan) -> None:
    """A model with random weights, and a tokenizer that nobody asks; an earlier run's is the same."""
    finished = plan.model / "model_import.json"
    if finished.is_file():
        return
    import torch
    from tokenizers import Tokenizer, models
    from transformers import Phi3Config, Phi3ForCausalLM, PreTrainedTokenizerFast

    shape = SHAPES[plan.shape]
    torch.manual_seed(0)
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
        eos_token_id=2,
        pad_token_id=2,
    )
    torch.set_default_dtype(torch.bfloat16 if has_gpu() else torch.float32)
    with torch.device("cuda" if has_gpu() else "cpu"):
        Phi3ForCausalLM(config).save_pretrained(plan.model)
    words = {"<unk>": 0, "<s>": 1, "</s>": 2}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    ).save_pretrained(plan.model)
    finished.write_text(json.dumps({"source": "random"}))


def write_tokens(plan: Plan) -> Load:
    """Conversations of random tokens; returns what the training split holds."""
    import numpy as np

    from chat_completion.tokens import IGNORED, TokenWriter, batch_of

    shape = SHAPES[plan.shape]
    dice = np.random.default_rng(0)
    plan.tokens.mkdir(exist_ok=True)
    spread = 0.6
    found = Load(0, 0, 0, 0)
    for split, rows in (("train", plan.conversations * plan.steps), ("validation", 2), ("test", 2)):
        drawn = dice.lognormal(math.log(shape.mean_tokens) - spread**2 / 2, spread, rows)
        lengths = np.clip(drawn, 16, shape.context).astype(int)
        ids = [dice.integers(3, shape.vocabulary, length, dtype=np.int32) for length in lengths]
        labels = []
        for row in ids:
            turn = max(8, len(row) // 6)  # three questions and three answers; answers are three times as long
            labels.append(np.where(np.arange(len(row)) % (2 * turn) < turn // 2, IGNORED, row))
        with TokenWriter(plan.tokens / f"{split}.arrow") as writer:
            writer.add(batch_of(ids, labels, [False] * rows))
        if split == "train":
            short = np.minimum(lengths, shape.window)
            pairs = short * (short + 1) // 2 + (lengths - short) * shape.window
            labelled = sum(int((row != IGNORED).sum()) for row in labels)
            found = Load(int(lengths.sum()), labelled, int(pairs.sum()), rows)
    report: dict[str, Any] = {"max_seq_length": shape.context, "pad_to": None, "splits": {}}
    (plan.tokens / "report.json").write_text(json.dumps(report))
    return found


def useful_work(load: Load, shape: Shape, *, full: bool) -> float:
    """Floating-point operations of one pass over the training split; the formula is above."""
    linear = (6 if full else 4) * shape.linear_weights * load.tokens
    head = (6 if full else 4) * shape.head_weights * load.labelled
    adapters = 0 if full else 6 * shape.adapter_weights * load.tokens
    return float(linear + head + adapters + 12 * shape.layers * shape.width * load.pairs)


def measure_peak() -> float:
    """Operations per second of a product of two matrices: bfloat16 on a GPU, 32 bits on a CPU."""
    import torch

    gpu = has_gpu()
    best = 0.0
    for size in (4096, 8192, 12288) if gpu else (512, 1024):
        kind: dict[str, Any] = {"device": "cuda", "dtype": torch.bfloat16} if gpu else {}
        left, right = torch.randn(size, size, **kind), torch.randn(size, size, **kind)
        for _ in range(20 if gpu else 3):
            wait()
            begin = time.perf_counter()
            for _ in range(4):
                left @ right
            wait()
            best = max(best, 4 * 2 * size**3 / (time.perf_counter() - begin))
    return best


def wait() -> None:
    """Waits until the GPU, where there is one, has done what it was told."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def install_clock() -> dict[str, Any]:
    """Makes every Trainer of this process measure its last epoch into the returned values."""
    import torch
    import transformers.trainer
    from transformers import TrainerCallback

    found: dict[str, Any] = {"seconds": 0.0, "steps": 0, "losses": []}

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            wait()
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            self.begin, self.step = time.perf_counter(), state.global_step

        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            wait()
            found["seconds"] = time.perf_counter() - self.begin
            found["steps"] = state.global_step - self.step
            if torch.cuda.is_available():
                found["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            found["losses"] += [logs["loss"]] if logs and "loss" in logs else []

    transformers.trainer.DEFAULT_CALLBACKS.append(Clock)
    return found


def common_arguments(plan: Plan) -> dict[str, Any]:
    """What transformers' and TRL's arguments have in common."""
    gpu = has_gpu()
    return {
        "output_dir": str(Path(plan.folder) / "checkpoints"),
        "num_train_epochs": EPOCHS,
        "learning_rate": 2e-5,
        "bf16": gpu,
        "use_cpu": not gpu,
        "activation_checkpointing": plan.checkpointing,
        "activation_checkpointing_kwargs": {"use_reentrant": False} if plan.checkpointing else None,
        "save_strategy": "no",
        "logging_strategy": "epoch",
        "report_to": [],
        "disable_tqdm": True,
        "seed": 42,
    }


def flash_or_sdpa() -> str:
    """Flash attention where transformers has it, else PyTorch's own, whose kernel for one conversation is the same."""
    from transformers.utils import is_flash_attn_2_available

    return "flash_attention_2" if is_flash_attn_2_available() else "sdpa"


def adapted_model(plan: Plan) -> Any:
    """The base model with adapters, as transformers and PEFT give it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    dtype = torch.bfloat16 if has_gpu() else torch.float32
    model = AutoModelForCausalLM.from_pretrained(plan.model, dtype=dtype, attn_implementation=flash_or_sdpa())
    model.config.use_cache = False
    if plan.checkpointing:
        model.enable_input_require_grads()
    if not has_gpu():
        torch.set_num_threads(1)  # as ours does for a model of this size
    targets = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
    return get_peft_model(
        model, LoraConfig(task_type="CAUSAL_LM", r=LORA_R, lora_alpha=LORA_ALPHA, target_modules=targets)
    )


def train_azure(plan: Plan) -> None:
    """The way of Azure's component."""
    import torch
    from transformers import Trainer, TrainingArguments, set_seed

    from chat_completion.tokens import TokenFile

    class Rows(torch.utils.data.Dataset[Any]):  # type: ignore[misc]
        tokens = TokenFile(plan.tokens / "train.arrow")

        def __len__(self) -> int:
            return len(self.tokens)

        def __getitem__(self, index: int) -> dict[str, Any]:
            ids, labels = (torch.tensor(array) for array in self.tokens.arrays(index))
            return {"input_ids": ids, "labels": labels.long(), "attention_mask": torch.ones_like(ids)}

    set_seed(42)
    arguments = TrainingArguments(
        **common_arguments(plan),
        per_device_train_batch_size=1,  # a batch of one is as long as its conversation: there is nothing to pad
        gradient_accumulation_steps=plan.conversations,
    )
    Trainer(model=adapted_model(plan), args=arguments, train_dataset=Rows()).train()


def train_trl(plan: Plan) -> None:
    """TRL with packing."""
    import datasets
    from transformers import AutoTokenizer, set_seed
    from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found]

    from chat_completion.tokens import TokenFile

    set_seed(42)
    shape = SHAPES[plan.shape]
    tokens = TokenFile(plan.tokens / "train.arrow")
    rows = datasets.Dataset.from_dict(
        {
            "input_ids": [tokens[index].input_ids for index in range(len(tokens))],
            "labels": [tokens[index].labels for index in range(len(tokens))],
        }
    )
    # As many rows of the context's length as hold a step's tokens. They become one row in a batch: fine for flash
    # attention, and a mask of all against all elsewhere.
    packs = max(1, round(plan.conversations * sum(tokens.lengths) / len(tokens) / shape.context))
    at_once = packs if flash_or_sdpa() == "flash_attention_2" else 1
    arguments = SFTConfig(
        **common_arguments(plan),
        max_length=shape.context,
        packing=True,
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=packs // at_once,
    )
    tokenizer = AutoTokenizer.from_pretrained(plan.model)
    SFTTrainer(model=adapted_model(plan), args=arguments, train_dataset=rows, processing_class=tokenizer).train()


def train_ours(plan: Plan) -> None:
    """The component's step."""
    from chat_completion import finetune

    inputs: dict[str, Any] = {
        "preprocess_output": plan.tokens,
        "model_selector_output": plan.model,
        "pytorch_model_folder": Path(plan.folder) / "ours",
        "apply_lora": str(not plan.full).lower(),
        "merge_lora_weights": "false",
        "lora_r": LORA_R,
        "lora_alpha": LORA_ALPHA,
        "num_train_epochs": EPOCHS,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": plan.conversations,
        "learning_rate": 2e-5,
        "precision": 16,
        "evaluation_strategy": "disable",
        "logging_strategy": "epoch",
    }
    finetune.run([part for name, value in inputs.items() for part in (f"--{name}", str(value))])
    shutil.rmtree(inputs["pytorch_model_folder"])


WAYS = {"azure": train_azure, "trl": train_trl, "ours": train_ours}


def child(what: str, plan: Plan) -> dict[str, Any]:
    """Does one thing in this process; returns what it found."""
    if what == "model":
        write_model(plan)
        return {"load": asdict(write_tokens(plan)), "peak": measure_peak()}
    found = install_clock()
    WAYS[what](plan)
    found.setdefault("peak_gb", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9)
    return found


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
    begin = time.monotonic()
    done = subprocess.run(command, env=env, stdout=sys.stderr, check=False)
    print(f"== {what}: exit status {done.returncode} after {time.monotonic() - begin:.0f} s", file=sys.stderr)
    return kept(what, plan)


def kept(what: str, plan: Plan) -> dict[str, Any]:
    """What was measured under these conditions, in this run or an earlier one; empty where nothing was."""
    result = plan.result(what)
    found: dict[str, Any] = json.loads(result.read_text()) if result.is_file() else {}
    return found if found.get("conditions") == conditions(plan) else {}


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


def row_of(way: str, found: dict[str, Any], *, load: Load, work: float, peak: float, price: float | None) -> list[str]:
    """A line of the table."""
    speed = load.tokens / found["seconds"]
    hours = DATASET_ROWS * load.tokens / load.rows / speed / 3600
    return [
        way,
        str(found["steps"]),
        f"{found['seconds'] / found['steps']:.3f}",
        f"{speed:,.0f}",
        f"{found['peak_gb']:.1f}",
        f"{work / found['seconds'] / 1e12:.3g}",
        f"{work / found['seconds'] / peak:.0%}",
        f"{hours:,.1f}",
        "" if price is None else f"{hours * price:,.0f}",
        f"{found['losses'][-1]:.4f}" if found["losses"] else "",
        found["measured"],
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
        found = child(what, plan)
        found |= {"conditions": conditions(plan), "measured": time.strftime("%Y-%m-%d %H:%M")}
        Path(result).write_text(json.dumps(found))
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
        made = in_a_process("model", plan)
        if not made:
            return 1
        load, peak = Load(**made["load"]), made["peak"]
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
    for way, found in results.items():
        if found:
            work = useful_work(load, shape, full=False)
            rows.append(row_of(way, found, load=load, work=work, peak=peak, price=price))
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
        if found := results.get(way):
            ratio = found["seconds"] / ours["seconds"]
            print(f"ours is {ratio:.2f} times as fast as {way} (goal on a GPU: {goal})")
            goals.append(ratio >= goal)
    goals.append(work / ours["seconds"] / peak >= GOAL_OF_PEAK)
    return 0 if all(goals) or not gpu else 1


if __name__ == "__main__":
    sys.exit(main())
