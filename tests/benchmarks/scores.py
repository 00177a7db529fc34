"""What the stand-in scores before and after its fine-tune, by instruction set and seed: how wide the margins are.

    python tests/benchmarks/scores.py [--seeds 42 1 2] [--model FOLDER] [--set avx2 sse4] [--control]

Processors add up in different orders, so the same training ends in other weights on each kind, and every threshold that
a test or mlops.yaml's local target sets for a score needs a margin over that. This plays other processors on this one
by the switches of ATen, oneDNN and MKL, runs the pipeline's steps with mlops.yaml's local settings on each, and prints
a line per training: exact match and ROUGE-L on `test_gen`, whose wordings no training has seen. With --control the
answers of the training chats are dealt out anew first, as a broken data set does. A set that this processor does not
have is left out.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "components")]

from standin.layouts import write_hub_cache  # noqa: E402
from tests.unit.components.conftest import REPO, TUNING, Tuned, run_all, shuffle_answers, split  # noqa: E402

SETS = {
    "own": {},
    "avx512": {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "MKL_CBWR": "AVX512"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"},
    "sse4": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "SSE4_2"},
    "oldest": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"},
}
"""Switches: pytorch.org/docs (ATEN_CPU_CAPABILITY), oneDNN's "CPU dispatcher control", oneMKL's "conditional numerical
reproducibility" (MKL_CBWR)."""
NEEDED = {"avx512": "avx512f", "avx2": "avx2"}
"""The processor's flag without which a set cannot be played."""
SCORES = ("base_exact_match", "tuned_exact_match", "base_rouge_l", "tuned_rouge_l", "base_loss", "tuned_loss")


def main() -> int:
    """Trains, scores and prints; returns the exit status."""
    parser = argparse.ArgumentParser(description="The stand-in's scores by instruction set and seed.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 1, 2], help="of the fine-tune")
    parser.add_argument("--model", type=Path, default=ROOT / "components" / "standin" / "model", help="the base model")
    parser.add_argument("--set", nargs="+", choices=SETS, default=list(SETS), help="instruction sets")
    parser.add_argument("--control", action="store_true", help="train on shuffled answers")
    arguments = parser.parse_args()
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    scores_by_name: dict[str, list[float]] = {name: [] for name in SCORES}
    print("set     seed  " + "  ".join(f"{name:>17}" for name in SCORES), flush=True)
    for name in arguments.set:
        if NEEDED.get(name, flags[0]) not in flags:
            print(f"{name:<7} not on this processor", flush=True)
            continue
        for switch in SETS["oldest"]:
            os.environ.pop(switch, None)
        os.environ.update(SETS[name])
        for seed in arguments.seeds:
            start = time.monotonic()
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch)
                train = split("train_sft")
                if arguments.control:
                    train = folder / "train.jsonl"
                    shuffle_answers(split("train_sft"), train)
                write_hub_cache(arguments.model, hf_home=folder / "hub", repo=REPO)
                settings = {**TUNING, "seed": str(seed)}
                run_all(folder, hub=folder / "hub", train=train, test=split("test_gen"), settings=settings)
                scores = Tuned(folder).scores
            for score, values in scores_by_name.items():
                values.append(scores[score])
            line = "  ".join(f"{scores[each]:17.4f}" for each in SCORES)
            print(f"{name:<7} {seed:>4}  {line}  {time.monotonic() - start:5.0f} s", flush=True)
    for what, of in (("lowest", min), ("median", statistics.median), ("highest", max)):
        print(f"{what:<12}  " + "  ".join(f"{of(values):17.4f}" for values in scores_by_name.values() if values))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
