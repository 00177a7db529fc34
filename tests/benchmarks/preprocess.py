"""Measures how fast chats become labelled tokens: `datasets.map`, a row at a time, and the component's step.

    python tests/benchmarks/preprocess.py                   8,000 rows of ultrachat_200k's size
    python tests/benchmarks/preprocess.py --rows 200000     as many as its train_sft has, about 1.4 GB

All begin with one file of JSON lines and end with tokens in Arrow files. The rows are made on the fly, and so is the
tokenizer: nothing is downloaded. It is built as Phi-3's is (byte pair encoding of a whole message without splitting
it into words first, bytes for what is unknown, Phi-3's special tokens), so its cost per character is of the same kind.

    map          `datasets.load_dataset`, then `map` with `apply_chat_template`, one row at a time; no labels
    map+labels   the same with the mask of the assistant's tokens, and labels made of it: what a training needs
    ours         `chat_completion.preprocess`, one process per core; also checks every row
    packing      then, in one process: the batches of a training's epoch, made as its data loader makes them

The ways take turns on the same `--sample` rows, each in a process of its own, imports not timed; then ours does all
rows, to show that its memory stays where it was. Memory of several processes is added up. Exits with 1 if ours, with
the packing, does less than three times as many rows a second as map+labels does, or if all rows take over 1.5 times the
memory of the sample.
"""

import argparse
import itertools
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "components")]

GOAL_RATIO = 3
GOAL_GROWTH = 1.5
CONTEXT = 4096
VOCABULARY = 32_000
SPECIAL_TOKENS = ("<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>")


def write_rows(path: Path, rows: int) -> None:
    """Rows of ultrachat_200k's schema and size, and as repetitive as English: words by Zipf's law, 4 % of them new."""
    dice = random.Random(0)
    syllables = [
        a + b for a in ("", *"bdfgklmnprstvw", "th", "st", "ch") for b in ("a", "e", "i", "o", "u", "an", "er")
    ]
    vocabulary = [
        "".join(dice.choices(syllables, k=1 + (number > 300) * dice.randint(1, 3))) for number in range(100_000)
    ]
    weights = list(itertools.accumulate(1 / (number + 2.7) for number in range(len(vocabulary))))
    text = dice.choices(vocabulary, cum_weights=weights, k=400_000)
    for number in range(len(text)):
        text[number] += dice.choices(("", ",", ".", ".\n\n", "’s", " –"), weights=(84, 7, 5, 2, 1, 1))[0]
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            messages = []
            for turn in range(2 * dice.choice((3, 3, 3, 4))):
                length = int((45, 230)[turn % 2] * dice.uniform(0.4, 1.6))  # in words
                start = dice.randrange(len(text) - length)
                content = text[start : start + length]
                for index in range(dice.randrange(25), length, 25):
                    content[index] = "".join(dice.choices(syllables, k=4))
                messages.append({"content": " ".join(content), "role": ("user", "assistant")[turn % 2]})
            prompt = messages[0]["content"]
            row = {"prompt": prompt, "prompt_id": f"{number:064x}", "messages": messages}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_model(folder: Path, chats: Path) -> int:
    """A folder with a tokenizer of Phi-3's construction, trained on some of the chats; returns its size."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    def texts() -> Iterator[str]:
        with chats.open(encoding="utf-8") as lines:
            for line in itertools.islice(lines, 300):
                yield from (message["content"] for message in json.loads(line)["messages"])

    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # for the training alone
    bytes_of_it = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<unk>", "<s>", "</s>", *bytes_of_it],
        show_progress=False,
        max_token_length=16,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    written = json.loads(tokenizer.to_str())
    # In Phi-3's file the bytes are words like any other.
    written["added_tokens"] = [token for token in written["added_tokens"] if token["content"] not in bytes_of_it]
    tokenizer = Tokenizer.from_str(json.dumps(written))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = None
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False, rstrip=True) for token in SPECIAL_TOKENS]
    )
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": "phi3", "max_position_embeddings": CONTEXT}))
    return int(tokenizer.get_vocab_size())


def by_map(source: Path, model: Path, folder: Path, *, labels: bool) -> float:
    """`datasets.map`, one row at a time; returns seconds."""
    import datasets
    from transformers import PreTrainedTokenizerFast

    from chat_completion.data.template import PHI3_TEMPLATE

    datasets.disable_progress_bars()
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(model / "tokenizer.json"), eos_token="<|endoftext|>")
    tokenizer.chat_template = PHI3_TEMPLATE

    def tokenise(row: dict[str, Any]) -> dict[str, Any]:
        encoding = tokenizer.apply_chat_template(
            row["messages"],
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=labels,
            truncation=True,
            max_length=CONTEXT,
        )
        if not labels:
            return {"input_ids": encoding["input_ids"]}
        pairs = zip(encoding["input_ids"], encoding["assistant_masks"], strict=True)
        return {"input_ids": encoding["input_ids"], "labels": [token if mask else -100 for token, mask in pairs]}

    started = time.perf_counter()
    rows = datasets.load_dataset("json", data_files=str(source), split="train", cache_dir=str(folder / "cache"))
    rows.map(tokenise, remove_columns=rows.column_names)
    return time.perf_counter() - started


def by_step(source: Path, model: Path, folder: Path) -> float:
    """The component's step, with what it prints; returns seconds."""
    import numpy as np
    import orjson
    import pyarrow as pa  # imports that are not to be timed here, as little as those of the other ways
    from tokenizers import Tokenizer

    from chat_completion import preprocess

    del np, orjson, pa, Tokenizer
    started = time.perf_counter()
    preprocess.run(
        [
            "--model_selector_output",
            str(model),
            "--output_dir",
            str(folder / "tokens"),
            "--train_file_path",
            str(source),
        ]
    )
    return time.perf_counter() - started


def by_packing(tokens: Path) -> float:
    """An epoch's packed batches, 16 conversations a step, in batches of 32,768 tokens; returns seconds."""
    from chat_completion.data.tokens import TokenFile
    from chat_completion.trainer.batches import PackedDataset, StepSampler, pack_step

    started = time.perf_counter()
    for split in sorted(tokens.glob("*.arrow")):
        packed = PackedDataset(TokenFile(split))
        steps = StepSampler(packed.tokens.lengths, conversations=16, most_tokens=32_768, seed=0)
        for step in steps:
            pack_step([packed[rows] for rows in step])
    return time.perf_counter() - started


def run_way(way: str, source: Path, model: Path, folder: Path) -> None:
    """Measures one way in this process, and prints what it found as the last line."""
    before = sum(os.times()[:4])
    seconds = by_step(source, model, folder) if way == "ours" else by_map(source, model, folder, labels="+" in way)
    cpu_seconds = sum(os.times()[:4]) - before
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    workers = len(os.sched_getaffinity(0)) if usages[1].ru_maxrss else 0
    peak_kib = usages[0].ru_maxrss + workers * usages[1].ru_maxrss  # of children the largest is known
    measurement = {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mb": peak_kib * 1024 / 1e6}
    if way == "ours":
        report = json.loads((folder / "tokens" / "report.json").read_text())
        measurement["tokens"] = sum(split["tokens"] for split in report["splits"].values())
        measurement["packing_s"] = by_packing(folder / "tokens")
    print(json.dumps(measurement))


def measure(way: str, source: Path, model: Path, folder: Path) -> dict[str, float]:
    """Runs one way in a process of its own."""
    folder.mkdir()
    command = [sys.executable, __file__, "--child", way, str(source), str(model), str(folder)]
    env = {name: value for name, value in os.environ.items() if name != "CHAT_TOKENS_CACHE"}
    done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
    shutil.rmtree(folder)
    measurement: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measurement


def show(way: str, rows: int, measurement: dict[str, float]) -> None:
    """Prints a line of the table."""
    speed = rows / measurement["seconds"]
    columns = (
        f"{measurement['seconds']:10.1f}{speed:10,.0f}{measurement['cpu_seconds']:10.1f}{measurement['peak_mb']:10,.0f}"
    )
    print(f"{way:12}{rows:>9,}{columns}", flush=True)


def main() -> int:
    """Measures all ways and prints a table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8_000, help="that ours does in the end (default: 8,000)")
    parser.add_argument("--sample", type=int, default=4_000, help="rows that every way does (default: 4,000)")
    parser.add_argument("--rounds", type=int, default=2, help="in turns; the best of each counts (default: 2)")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        way, *paths = arguments.child
        run_way(way, *map(Path, paths))
        return 0
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        whole, sample, model = folder / "all.jsonl", folder / "sample.jsonl", folder / "model"
        write_rows(sample, arguments.sample)
        write_rows(whole, arguments.rows)
        size = whole.stat().st_size
        entries = write_model(model, sample)
        print(f"{arguments.rows:,} rows of {size / arguments.rows:,.0f} bytes; a tokenizer of {entries:,} entries")
        print(f"{'':12}{'rows':>9}{'seconds':>10}{'rows/s':>10}{'CPU s':>10}{'peak MB':>10}")
        best: dict[str, dict[str, float]] = {}
        for number in range(arguments.rounds):
            for way in ("map", "map+labels", "ours"):
                measurement = measure(way, sample, model, folder / f"work{number}")
                show(way, arguments.sample, measurement)
                best[way] = min(best.get(way, measurement), measurement, key=lambda each: each["seconds"])
        everything = measure("ours", whole, model, folder / "whole")
        show("ours", arguments.rows, everything)
    seconds = everything["seconds"] + everything["packing_s"]
    ratios = {
        way: arguments.rows / seconds / (arguments.sample / best[way]["seconds"]) for way in ("map", "map+labels")
    }
    growth = everything["peak_mb"] / best["ours"]["peak_mb"]
    print(
        f"{everything['tokens'] / arguments.rows:,.0f} tokens a row; all rows tokenised and packed in {seconds:.1f} s, "
        f"{everything['packing_s']:.1f} s of it the packing, on {len(os.sched_getaffinity(0))} cores: "
        f"{everything['tokens'] / seconds / 1e6:.2f} million tokens/s"
    )
    print(
        f"ours does {ratios['map+labels']:.1f} times as many rows a second as map+labels (goal {GOAL_RATIO}), "
        f"{ratios['map']:.1f} times as many as map; all rows take {growth:.2f} times the memory of the sample (goal "
        f"below {GOAL_GROWTH})"
    )
    return 0 if ratios["map+labels"] >= GOAL_RATIO and growth < GOAL_GROWTH else 1


if __name__ == "__main__":
    sys.exit(main())
