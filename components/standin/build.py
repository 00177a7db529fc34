"""Builds the stand-in base model: a Phi-3 of about a million parameters that a laptop can train and serve.

    python components/standin/build.py            trains it and writes components/standin/model
    python components/standin/build.py --check    compares what is committed there with its sources; trains nothing

It has Phi-3's architecture, chat format and special tokens, and none of its knowledge. It is trained from
nothing on chats whose facts are drawn at random, so it speaks the language of the bundled chats and guesses
their facts.

The result is committed, because no two kinds of processor train the same weights: each instruction set adds up
in another order. On one kind, every build gives the same bytes, since the number of steps is fixed, not the time.
"""

import argparse
import hashlib
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Both ways of starting this file (as a script, as a module of a test) find the package beside it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from chat_completion.data.template import PHI3_TEMPLATE, render_phi3

CHECKOUT = Path(__file__).resolve().parents[2]
CHATS = CHECKOUT / "data" / "bundled" / "pretrain.jsonl"
MODEL = Path(__file__).resolve().with_name("model")
WEIGHTS = "model.safetensors"
RECORD = "standin.json"
"""What the weights were made from, and their hash."""

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|assistant|>",
    "<|placeholder1|>",
    "<|placeholder2|>",
    "<|placeholder3|>",
    "<|placeholder4|>",
    "<|system|>",
    "<|end|>",
    "<|placeholder5|>",
    "<|placeholder6|>",
    "<|user|>",
)
"""Phi-3's own, in its own order. There they begin at 32000, here at 3."""


@dataclass(frozen=True)
class Recipe:
    """What decides the model's bytes, together with the chats.

    Attributes:
        vocabulary: upper bound of the tokenizer's size; small texts end below it.
        context: longest conversation in tokens.
    """

    vocabulary: int = 2048
    context: int = 1024
    hidden: int = 192
    layers: int = 2
    heads: int = 6
    intermediate: int = 512
    epochs: int = 2
    batch: int = 8
    learning_rate: float = 3e-3
    seed: int = 12


def read_chats(path: Path) -> list[list[dict[str, str]]]:
    """The conversations of a file of bundled chats, in the order of the file."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line)["messages"] for line in lines]


def train_tokenizer(texts: list[str], *, vocabulary: int) -> Any:
    """A byte-level BPE tokenizer with Phi-3's special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>", *SPECIAL_TOKENS]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def batches(rows: list[list[int]], *, recipe: Recipe) -> Iterator[list[list[int]]]:
    """Batches in an order that the seed decides. They are not grouped by length: equal lengths mean equal wordings."""
    draw = random.Random(recipe.seed)  # noqa: S311 - an order, not a secret
    for _ in range(recipe.epochs):
        order = draw.sample(range(len(rows)), len(rows))
        for start in range(0, len(order), recipe.batch):
            yield [rows[index] for index in order[start : start + recipe.batch]]


def pretrain(rows: list[list[int]], *, vocabulary: int, special: dict[str, int], recipe: Recipe) -> Any:
    """A Phi-3 trained from random weights on whole conversations.

    Args:
        rows: token ids, one list per conversation.
        vocabulary: the tokenizer's size.
        special: ids of the special tokens.
        recipe: sizes and steps.

    Returns:
        The model, on the CPU, in float32.
    """
    import torch
    from transformers import Phi3Config, Phi3ForCausalLM

    # So small a model gains nothing from a second thread and loses much when the cores are shared.
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    pad = special["<|endoftext|>"]
    model = Phi3ForCausalLM(
        Phi3Config(
            vocab_size=vocabulary,
            hidden_size=recipe.hidden,
            intermediate_size=recipe.intermediate,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.heads,
            max_position_embeddings=recipe.context,
            original_max_position_embeddings=recipe.context,
            bos_token_id=special["<s>"],
            eos_token_id=pad,
            pad_token_id=pad,
            use_cache=True,
        )
    )
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.01)
    steps = recipe.epochs * -(-len(rows) // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=steps, pct_start=0.1)
    for batch in batches(rows, recipe=recipe):
        width = max(map(len, batch))
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in batch])
        # Padding is to the right and attention is causal: without a mask no real token sees padding.
        real = torch.arange(width) < torch.tensor([[len(row)] for row in batch])
        loss = model(input_ids=ids, labels=ids.masked_fill(~real, -100), use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad(set_to_none=True)
    return model.eval()


def prepare(chats: Path, *, recipe: Recipe) -> tuple[Any, dict[str, int], list[list[int]]]:
    """The tokenizer of a file of chats, the ids of its special tokens, and the token ids of each conversation."""
    texts = [render_phi3(chat).text for chat in read_chats(chats)]
    tokenizer = train_tokenizer(texts, vocabulary=recipe.vocabulary)
    special = {token: tokenizer.token_to_id(token) for token in ("<unk>", "<s>", "</s>", *SPECIAL_TOKENS)}
    return tokenizer, special, [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]


def write_tokenizer(folder: Path, *, tokenizer: Any, recipe: Recipe) -> None:
    """Writes the tokenizer, its settings and the chat template."""
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<unk>",
        "padding_side": "left",
        "model_max_length": recipe.context,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(PHI3_TEMPLATE, encoding="utf-8")


def write_weights(folder: Path, *, model: Any, special: dict[str, int]) -> None:
    """Writes config, weights (safetensors) and generation settings."""
    model.generation_config.eos_token_id = [special["<|endoftext|>"], special["<|end|>"]]
    model.generation_config.pad_token_id = special["<|endoftext|>"]
    model.generation_config.bos_token_id = special["<s>"]
    model.save_pretrained(folder)


def sha256(path: Path) -> str:
    """A file's SHA-256, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sources(*, chats: Path, recipe: Recipe) -> dict[str, Any]:
    """What decides the weights."""
    return {"recipe": asdict(recipe), "chats_sha256": sha256(chats)}


def build(*, chats: Path = CHATS, output: Path = MODEL, recipe: Recipe = Recipe()) -> None:
    """Trains the stand-in and puts it at `output`, which appears only when it is whole."""
    tokenizer, special, rows = prepare(chats, recipe=recipe)
    model = pretrain(rows, vocabulary=tokenizer.get_vocab_size(), special=special, recipe=recipe)
    temporary = output.with_name(f".{output.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    write_tokenizer(temporary, tokenizer=tokenizer, recipe=recipe)
    write_weights(temporary, model=model, special=special)
    record = sources(chats=chats, recipe=recipe) | {"weights_sha256": sha256(temporary / WEIGHTS)}
    (temporary / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(output, ignore_errors=True)
    temporary.rename(output)


def outdated_files(model: Path = MODEL, *, chats: Path = CHATS, recipe: Recipe = Recipe()) -> list[str]:
    """The files of a model that are not what its sources make.

    Nothing is trained: the weights are held to the hash on record, and their sources to those on record.
    """
    tokenizer, _, _ = prepare(chats, recipe=recipe)
    with tempfile.TemporaryDirectory() as scratch:
        write_tokenizer(Path(scratch), tokenizer=tokenizer, recipe=recipe)
        different = [path.name for path in sorted(Path(scratch).iterdir()) if not same(path, model / path.name)]
    record = json.loads((model / RECORD).read_text(encoding="utf-8")) if (model / RECORD).is_file() else {}
    weights = model / WEIGHTS
    if not weights.is_file() or sha256(weights) != record.pop("weights_sha256", None):
        different.append(WEIGHTS)
    if record != sources(chats=chats, recipe=recipe):
        different.append(RECORD)
    return different


def same(one: Path, other: Path) -> bool:
    """Whether both files are there and hold the same bytes."""
    return one.is_file() and other.is_file() and one.read_bytes() == other.read_bytes()


def main(argv: list[str] | None = None) -> int:
    """Builds or checks the model that the command line asks for; returns the exit status."""
    parser = argparse.ArgumentParser(description="Build the stand-in base model.")
    parser.add_argument("--chats", type=Path, default=CHATS, help="chats to learn the language from (jsonl)")
    parser.add_argument("--output", type=Path, default=MODEL, help="folder for the model")
    parser.add_argument(
        "--seed", type=int, default=Recipe.seed, help="of the first weights and of the order of the chats"
    )
    parser.add_argument("--check", action="store_true", help="write nothing, exit 4 if the model has other sources")
    arguments = parser.parse_args(argv)
    if not arguments.chats.is_file():
        parser.error(f"no file at '{arguments.chats}'; `python data/generate.py` writes it")
    recipe = Recipe(seed=arguments.seed)
    if arguments.check:
        different = outdated_files(arguments.output, chats=arguments.chats, recipe=recipe)
        if different:
            print(f"'{arguments.output}' is not what its sources make: {', '.join(different)}", file=sys.stderr)
            print("run components/standin/build.py and commit the result", file=sys.stderr)
        return 4 if different else 0
    started = time.monotonic()
    build(chats=arguments.chats, output=arguments.output, recipe=recipe)
    print(f"built {arguments.output} in {time.monotonic() - started:.1f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
