"""What every way of fine-tuning is given: a shape, random weights, random conversations; and how much work they are."""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LORA_R, LORA_ALPHA = 16, 32


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
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    ).save_pretrained(plan.model)
    finished.write_text(json.dumps({"source": "random"}))


def write_tokens(plan: Plan) -> Load:
    """Conversations of random tokens; returns what the training split holds."""
    import numpy as np

    from chat_completion.data.tokens import IGNORED, TokenWriter, batch_of

    shape = SHAPES[plan.shape]
    dice = np.random.default_rng(0)
    plan.tokens.mkdir(exist_ok=True)
    deviation = 0.6
    load = Load(0, 0, 0, 0)
    for split, rows in (("train", plan.conversations * plan.steps), ("validation", 2), ("test", 2)):
        drawn = dice.lognormal(math.log(shape.mean_tokens) - deviation**2 / 2, deviation, rows)
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
            load = Load(int(lengths.sum()), labelled, int(pairs.sum()), rows)
    report: dict[str, Any] = {"max_seq_length": shape.context, "pad_to": None, "splits": {}}
    (plan.tokens / "report.json").write_text(json.dumps(report))
    return load


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
        matrix, other = torch.randn(size, size, **kind), torch.randn(size, size, **kind)
        for _ in range(20 if gpu else 3):
            wait()
            start = time.perf_counter()
            for _ in range(4):
                matrix @ other
            wait()
            best = max(best, 4 * 2 * size**3 / (time.perf_counter() - start))
    return best


def wait() -> None:
    """Waits until the GPU, where there is one, has done what it was told."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
