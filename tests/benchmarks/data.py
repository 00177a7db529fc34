"""Measures how fast chats are prepared: the tutorial's way and `mlops data prepare`, on the same rows.

    python tests/benchmarks/data.py                   20,000 rows of ultrachat_200k's size
    python tests/benchmarks/data.py --rows 207865     as many as its train_sft has, about 1.4 GB

Both begin with one file of JSON lines and end with train.jsonl and test.jsonl, cut 80/20. The tutorial's way is
`datasets.load_dataset`, `train_test_split`, and for each record a `json.dump` and a `write`; it checks nothing. Ours
checks every rule on every row. Each runs in a process of its own; imports are not timed, peak memory is the
process's. Exits with 1 if ours is less than four times as fast, or takes 600 MB or more.
"""

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
GOAL_RATIO = 4
GOAL_PEAK_MB = 600
TURN_CHARACTERS = (300, 1580)  # of a question and an answer; three or four pairs make a row of about 6.7 kB


def write_rows(path: Path, rows: int) -> None:
    """Writes rows of ultrachat_200k's schema and size; every text differs."""
    dice = random.Random(0)
    syllables = [a + b for a in "bdfgklmnprstvw" for b in "aeiou"]
    vocabulary = ["".join(dice.choices(syllables, k=dice.randint(1, 4))) for _ in range(4000)]
    # As in English text of the web: a quarter of the contents with a typographic sign, a paragraph every 40 words.
    vocabulary += ['"so"', "it's", "end.\n\n", "\n\n1.", "however,"] * 33 + ["it’s", "naïve"]
    # Slices of one long text are as good as fresh ones for all that is measured, and much faster to make.
    text = " ".join(dice.choices(vocabulary, k=200_000))
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            messages = []
            for turn in range(2 * dice.choice((3, 3, 3, 4))):
                length = int(TURN_CHARACTERS[turn % 2] * dice.uniform(0.4, 1.6))
                start = dice.randrange(len(text) - length)
                content = f"{number} {turn} {text[start : start + length]}"
                messages.append({"content": content, "role": ("user", "assistant")[turn % 2]})
            prompt = messages[0]["content"]
            row = {"prompt": prompt, "prompt_id": hashlib.sha256(prompt.encode()).hexdigest(), "messages": messages}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def tutorial(source: Path, folder: Path) -> float:
    """The tutorial's way; returns seconds."""
    import datasets

    datasets.disable_progress_bars()
    start = time.perf_counter()
    rows = datasets.load_dataset("json", data_files=str(source), split="train", cache_dir=str(folder / "cache"))
    for name, part in rows.train_test_split(test_size=0.2, seed=42).items():
        with (folder / f"{name}.jsonl").open("w") as file:
            for record in part:
                json.dump(record, file)
                file.write("\n")
    return time.perf_counter() - start


def ours(source: Path, folder: Path) -> float:
    """What `mlops data prepare --way cut` does; returns seconds."""
    from mlops.data import Request, prepare
    from mlops.data.rules import Checker  # noqa: F401 - an import that is not to be timed

    start = time.perf_counter()
    request = Request(dataset=str(source), way="cut", percent=100, seed=42)
    prepare(request, home=folder / "home", output=folder / "out")
    return time.perf_counter() - start


WAYS = {"tutorial": tutorial, "ours": ours}


def measure(way: str, source: Path, folder: Path) -> dict[str, Any]:
    """Runs one way in a process of its own."""
    folder.mkdir()
    os.sync()  # what the other way left to be written would be waited for by this one
    command = [sys.executable, __file__, "--child", way, str(source), str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def child(way: str, source: Path, folder: Path) -> None:
    """Measures one way in this process."""
    sys.path.insert(0, str(REPOSITORY))
    before = time.process_time()
    seconds = WAYS[way](source, folder)
    cpu_seconds = time.process_time() - before
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mb": peak_kib * 1024 / 1e6}))


def main() -> int:
    """Measures both ways and prints a table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3, help="in turns; the best of each counts (default: 3)")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        way, source, folder = arguments.child
        child(way, Path(source), Path(folder))
        return 0
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        source = Path(name) / "train_sft.jsonl"
        write_rows(source, arguments.rows)
        size = source.stat().st_size
        print(f"{arguments.rows:,} rows, {size / 1e6:,.0f} MB, {size / arguments.rows:,.0f} bytes a row")
        print(f"{'':10}{'seconds':>10}{'rows/s':>12}{'µs/row':>10}{'CPU s':>10}{'peak MB':>10}")
        results: dict[str, dict[str, Any]] = {}
        for number in range(arguments.rounds):
            for way in WAYS:
                measurement = measure(way, source, Path(name) / f"{way}{number}")
                speed = arguments.rows / measurement["seconds"]
                print(
                    f"{way:10}{measurement['seconds']:10.2f}{speed:12,.0f}{1e6 / speed:10.1f}"
                    f"{measurement['cpu_seconds']:10.2f}{measurement['peak_mb']:10.0f}",
                    flush=True,
                )
                best = results.get(way, measurement)
                results[way] = min(best, measurement, key=lambda each: each["seconds"])
                shutil.rmtree(Path(name) / f"{way}{number}")
    ratio = results["tutorial"]["seconds"] / results["ours"]["seconds"]
    print(f"ours is {ratio:.1f} times as fast (goal {GOAL_RATIO}) and takes at most {GOAL_PEAK_MB} MB")
    return 0 if ratio >= GOAL_RATIO and results["ours"]["peak_mb"] < GOAL_PEAK_MB else 1


if __name__ == "__main__":
    sys.exit(main())
