"""Step 3: turns chats into tokens, with the loss on the assistant's words alone.

The files are read in chunks, several processes tokenise them, and the results are written in the order of the rows:
memory stays flat, and the tokens are the same for any number of processes. PyTorch is not needed for this, so it is
not imported.
"""

import json
import multiprocessing
import os
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from chat_completion.common.arguments import parse
from chat_completion.common.model_folder import context_length, write_json
from chat_completion.common.refusal import Refusal, run_step
from chat_completion.data.chats import chunks, draw_splits, split_plan
from chat_completion.data.token_cache import CACHE_VARIABLE, REPORT, TokenCache, content_key
from chat_completion.data.tokenising import Tokenised, Tokeniser, Work
from chat_completion.data.tokens import TokenWriter

SPLITS = ("train", "validation", "test")

ONE_PROCESS_BYTES = 8_000_000
"""Files that are together no larger are tokenised before other processes have started."""

PROGRESS_S = 15.0


@dataclass(frozen=True)
class Inputs:
    """The model whose tokenizer is used, the chats, and how to cut them.

    Attributes:
        batch_size: rows that are tokenised at a time.
        max_seq_length: in tokens; -1 is the model's own length.
    """

    model_selector_output: Path
    output_dir: Path
    train_file_path: Path | None = None
    validation_file_path: Path | None = None
    test_file_path: Path | None = None
    batch_size: int = 1000
    pad_to_max_length: bool = False
    max_seq_length: int = -1

    @property
    def files(self) -> dict[str, Path]:
        """The files that are given, by split."""
        given = (self.train_file_path, self.validation_file_path, self.test_file_path)
        return {split: path for split, path in zip(SPLITS, given, strict=True) if path is not None}


@dataclass
class SplitReport:
    """What happened to the rows of one split.

    Attributes:
        rows: rows that were written.
        tokens: tokens in them.
        loss_tokens: those that the loss is taken on.
        truncated_rows: rows whose end was cut off.
        truncated_tokens: tokens lost by that.
        rows_without_answer: rows left out, since they hold no word of the assistant's, or none after truncation.
        rows_with_control_tokens: rows left out, since a message spells one of the template's own tokens.
    """

    rows: int = 0
    tokens: int = 0
    loss_tokens: int = 0
    truncated_rows: int = 0
    truncated_tokens: int = 0
    rows_without_answer: int = 0
    rows_with_control_tokens: int = 0


def sequence_limit(inputs: Inputs) -> int:
    """The longest sequence to write, in tokens."""
    longest = context_length(inputs.model_selector_output)
    if inputs.max_seq_length == -1:
        return longest
    if not 1 < inputs.max_seq_length <= longest:
        raise Refusal(f"max_seq_length {inputs.max_seq_length} is not between 2 and the model's {longest}, nor -1")
    return inputs.max_seq_length


def work_of(inputs: Inputs) -> Iterator[Work]:
    """All files in chunks, with the split of every row."""
    for name, path in inputs.files.items():
        plan = split_plan(validation="validation" in inputs.files, test="test" in inputs.files)
        splits = draw_splits(plan if name == "train" else (name,))
        for chunk in chunks(path, rows=inputs.batch_size):
            yield Work(chunk, tuple(islice(splits, chunk.rows)))


def process_count(files: Iterable[Path]) -> int:
    """How many processes to tokenise with: one per core that this one may use, one for little data."""
    if sum(path.stat().st_size for path in files) <= ONE_PROCESS_BYTES:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_tokeniser: Tokeniser
"""A worker process's own."""


def start_worker(model: Path, limit: int) -> None:
    """Gets a worker process ready."""
    global _tokeniser
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is a process for every core already
    _tokeniser = Tokeniser(model, limit)


def tokenise_in_worker(work: Work) -> Tokenised:
    """What a worker process does, again and again."""
    return _tokeniser.tokenise(work)


def tokenise_all(works: Iterator[Work], *, model: Path, limit: int, processes: int) -> Iterator[Tokenised]:
    """The results of all chunks, in order; never more of them in memory than two per process."""
    if processes == 1:
        os.environ["TOKENIZERS_PARALLELISM"] = "true"
        yield from map(Tokeniser(model, limit).tokenise, works)
        return
    context = multiprocessing.get_context("spawn")  # nothing of this process's threads is copied
    with ProcessPoolExecutor(processes, context, start_worker, (model, limit)) as pool:
        waiting: deque[Future[Tokenised]] = deque()
        try:
            for work in works:
                waiting.append(pool.submit(tokenise_in_worker, work))
                if len(waiting) == 2 * processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise Refusal(
                f"one of {processes} processes was ended from outside, most likely because memory ran out: "
                "set a smaller batch_size, or preprocess on a larger machine"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def write_splits(inputs: Inputs, *, limit: int) -> dict[str, dict[str, int]]:
    """Tokenises all files into the output folder.

    Returns:
        By split, what `SplitReport` counts.

    Raises:
        Refusal: when no row is left for one of them.
    """
    counts: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    processes = process_count(inputs.files.values())
    print(f"tokenising with {processes} process{'es' if processes > 1 else ''}", flush=True)
    began = reported = time.monotonic()
    done = 0
    with ExitStack() as stack:
        writers = {split: stack.enter_context(TokenWriter(inputs.output_dir / f"{split}.arrow")) for split in SPLITS}
        results = tokenise_all(work_of(inputs), model=inputs.model_selector_output, limit=limit, processes=processes)
        for result in results:
            for split, count in result.counts.items():
                counts[split].update(count)
            for split, batch in result.batches.items():
                writers[split].add(batch)
                done += batch.num_rows
            now = time.monotonic()
            if now - reported >= PROGRESS_S:
                print(f"{done:,} rows, {done / (now - began):,.0f} rows/s", flush=True)
                reported = now
    reports = {split: asdict(SplitReport(**count)) for split, count in counts.items()}
    for split, report in reports.items():
        if not report["rows"]:
            raise Refusal(f"no row is left for the split '{split}': {json.dumps(report)}")
    return reports


def show(report: dict[str, Any]) -> None:
    """Prints what happened to the rows, and what was lost."""
    limit = report["max_seq_length"]
    for split, counts in report["splits"].items():
        print(f"{split}: {json.dumps(counts)}")
        if counts["truncated_rows"]:
            print(
                f"{split}: {counts['truncated_rows']} of {counts['rows']} rows are longer than {limit} tokens; "
                f"{counts['truncated_tokens']} tokens were cut off their ends"
            )


def run(argv: list[str]) -> None:
    """Preprocesses the chats."""
    inputs = parse(Inputs, argv, description="Turn chats into tokens and labels.")
    if inputs.train_file_path is None:
        raise Refusal("train_file_path is missing")
    for path in inputs.files.values():
        if not path.is_file():
            raise Refusal(f"no file at '{path}'")
    inputs.output_dir.mkdir(parents=True, exist_ok=True)
    limit = sequence_limit(inputs)
    key = content_key(inputs.model_selector_output, inputs.files, limit=limit)
    cache = TokenCache(os.environ.get(CACHE_VARIABLE), key)
    names = [f"{split}.arrow" for split in SPLITS]
    cached_report = cache.fetch(inputs.output_dir, names)
    splits = cached_report["splits"] if cached_report else write_splits(inputs, limit=limit)
    report = {
        "max_seq_length": limit,
        "pad_to": limit if inputs.pad_to_max_length else None,
        "content": key,
        "splits": splits,
    }
    show(report)
    write_json(inputs.output_dir / REPORT, report)
    if not cached_report:
        cache.keep(inputs.output_dir, names)


if __name__ == "__main__":
    raise SystemExit(run_step("preprocess", run))
