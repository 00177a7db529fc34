"""A model of a few thousand random weights, random conversations, and the training step in processes of its own.

Processes are forked from one that has imported torch and transformers already: a start costs a second, not six.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import socket
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from chat_completion.data.tokens import IGNORED, Example, TokenWriter, batch_of
from tests.support.waiting import HANG_S

VOCABULARY = 61


def model(**shape: Any) -> Any:
    """A Phi-3 of random weights, the same in every call."""
    import torch
    from transformers import Phi3Config, Phi3ForCausalLM

    torch.set_num_threads(1)  # so small a model gains nothing from a second one
    torch.manual_seed(3)
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "original_max_position_embeddings": 64} | shape
    return Phi3ForCausalLM(
        Phi3Config(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=0,
            initializer_range=0.3,
            max_position_embeddings=64,
            **heads,
        )
    )


def conversations(count: int, *, seed: int = 1, longest: int = 24) -> list[Example]:
    """Random tokens, about half of them labelled; some conversations begin with a labelled one."""
    draw = random.Random(seed)
    examples = []
    for _ in range(count):
        ids = [draw.randrange(1, VOCABULARY) for _ in range(draw.randint(3, longest))]
        examples.append(Example(ids, [token if draw.random() < 0.5 else IGNORED for token in ids[:-1]] + ids[-1:]))
    return examples


def write_tokens(path: Path, examples: list[Example]) -> None:
    """A split, as the preprocess step writes it."""
    with TokenWriter(path) as writer:
        for start in range(0, len(examples), 8):
            part = examples[start : start + 8]
            truncated = [example.truncated for example in part]
            writer.add(batch_of([one.input_ids for one in part], [one.labels for one in part], truncated))


def write_inputs(folder: Path, *, train: int = 30) -> dict[str, Any]:
    """What the training step is given: tokens and a base model."""
    tokens, base = folder / "tokens", folder / "base"
    tokens.mkdir()
    for name, count in (("train", train), ("validation", 6), ("test", 6)):
        write_tokens(tokens / f"{name}.arrow", conversations(count, seed=count))
    report = {"rows": train, "tokens": 400, "truncated_rows": 3, "truncated_tokens": 40}
    (tokens / "report.json").write_text(
        json.dumps({"max_seq_length": 64, "pad_to": None, "splits": dict.fromkeys(("train", "validation"), report)})
    )
    model().save_pretrained(base)
    return {"preprocess_output": tokens, "model_selector_output": base}


def padded(examples: Sequence[Example]) -> dict[str, Any]:
    """The plain way: one conversation per row, filled up on the right, as transformers' own Trainer takes it."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    def rows(columns: Iterable[Sequence[int]], fill: int) -> Any:
        return pad_sequence([torch.tensor(column) for column in columns], batch_first=True, padding_value=fill)

    return {
        "input_ids": rows((one.input_ids for one in examples), 0),
        "labels": rows((one.labels for one in examples), IGNORED),
        "attention_mask": rows(([1] * len(one.input_ids) for one in examples), 0),
    }


@contextlib.contextmanager
def output_to(path: Path) -> Any:
    """A context in which this process's output goes to a file."""
    with path.open("ab") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
        yield


def step(argv: list[str], env: Mapping[str, str], log: Path, before: Callable[[], None] | None) -> None:
    """The training step, as the process of a job runs it."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "RANK", "WORLD_SIZE"):
        os.environ.pop(name, None)
    os.environ.update(env)
    if before is not None:
        before()
    with output_to(log):
        from chat_completion import finetune
        from chat_completion.common import refusal

        sys.argv = ["finetune", *argv]
        raise SystemExit(refusal.run_step("finetune", finetune.run))


def start(
    out: Path, *, env: Mapping[str, str] | None = None, before: Callable[[], None] | None = None, **inputs: Any
) -> BaseProcess:
    """Starts the training step; its log is `out` with the suffix `.log`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers", "transformers.trainer", "peft", "accelerate", "pyarrow"])
    inputs |= {"pytorch_model_folder": out}
    argv = [part for name, value in inputs.items() for part in (f"--{name}", str(value))]
    process = context.Process(target=step, args=(argv, dict(env or {}), out.with_suffix(".log"), before))
    process.start()
    return process


def start_ranks(out: Path, *, processes: int, env: Mapping[str, str] | None = None, **inputs: Any) -> list[BaseProcess]:
    """Starts the training step on several processes, as Azure ML's launcher does; they share one log."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    started = []
    for rank in range(processes):
        named = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(processes),
            "MASTER_PORT": port,
            "LOCAL_WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "GLOO_SOCKET_IFNAME": "lo",
        }
        started.append(start(out, env={**(env or {}), **named}, **inputs))
    return started


def finish(process: BaseProcess, out: Path, *, code: int = 0) -> str:
    """Waits for a training step; its log."""
    process.join(HANG_S)
    log = out.with_suffix(".log").read_text()
    assert process.exitcode == code, log
    return log


def train(out: Path, **inputs: Any) -> str:
    """Runs the training step to its end; its log."""
    return finish(start(out, **inputs), out)


def curve(out: Path) -> list[dict[str, float]]:
    """The lines that a training has logged."""
    lines: list[dict[str, float]] = json.loads((out / "training.json").read_text())["history"]
    return lines
