"""Step 3: turns chats into tokens, with the loss on the assistant's words alone.

PyTorch is not needed for this, so it is not imported: the step starts in a fraction of a second.
"""

import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chat_completion.arguments import parse
from chat_completion.chats import Chat, assign_splits, read_chats, split_plan
from chat_completion.model_folder import context_length, write_json
from chat_completion.refusal import Refusal, run_step
from chat_completion.template import Render, Rendered, renderer_for
from chat_completion.tokens import IGNORED, Example, TokenWriter

REPORT = "report.json"
SPLITS = ("train", "validation", "test")


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


def label(rendered: Rendered, encoding: Any, *, limit: int) -> tuple[Example, int]:
    """The example of a rendered conversation.

    Args:
        rendered: the text and where its answers are.
        encoding: the tokenizer's ids and offsets for that text.
        limit: most tokens to keep.

    Returns:
        The example, and how many tokens were cut off.
    """
    ids: list[int] = encoding.ids
    labels = [IGNORED] * len(ids)
    spans = iter(rendered.answers)
    start, end = next(spans, (None, None))
    for index, (first, last) in enumerate(encoding.offsets):
        # A token that stands for no character of its own (a prefix that the tokenizer adds) belongs to the
        # text that it precedes.
        position = first if last > first else last
        while end is not None and position >= end:
            start, end = next(spans, (None, None))
        if start is None:
            break
        if position >= start:
            labels[index] = ids[index]
    lost = max(0, len(ids) - limit)
    return Example(ids[:limit], labels[:limit], truncated=lost > 0), lost


def tokenise(
    chats: Iterable[Chat], *, tokenizer: Any, render: Render, controls: tuple[str, ...], limit: int, batch_rows: int
) -> Iterator[tuple[Example | None, Counter[str]]]:
    """Examples for chats, in order; None for a row that cannot be learnt from, with the counts that say why."""
    rows = iter(chats)
    while batch := list(itertools.islice(rows, batch_rows)):
        safe = [not any(token in m["content"] for m in chat.messages for token in controls) for chat in batch]
        rendered = [render(chat.messages) for chat, good in zip(batch, safe, strict=True) if good]
        encodings = tokenizer.encode_batch([one.text for one in rendered], add_special_tokens=False)
        ready = iter(zip(rendered, encodings, strict=True))
        for good in safe:
            if not good:
                yield None, Counter(rows_with_control_tokens=1)
                continue
            example, lost = label(*next(ready), limit=limit)
            answer = sum(token != IGNORED for token in example.labels)
            if not answer:
                yield None, Counter(rows_without_answer=1)
                continue
            yield (
                example,
                Counter(
                    rows=1,
                    tokens=len(example.input_ids),
                    loss_tokens=answer,
                    truncated_rows=int(lost > 0),
                    truncated_tokens=lost,
                ),
            )


def sources(inputs: Inputs) -> Iterator[tuple[Iterator[tuple[str, Chat]], str]]:
    """Each file's rows with the split of every row, and the file's name."""
    given = {"validation": inputs.validation_file_path, "test": inputs.test_file_path}
    if inputs.train_file_path is None:
        raise Refusal("train_file_path is missing")
    plan = split_plan(validation=given["validation"] is not None, test=given["test"] is not None)
    yield assign_splits(read_chats(inputs.train_file_path), plan), inputs.train_file_path.name
    for split, path in given.items():
        if path is not None:
            yield ((split, chat) for chat in read_chats(path)), path.name


def sequence_limit(inputs: Inputs) -> int:
    """The longest sequence to write, in tokens."""
    longest = context_length(inputs.model_selector_output)
    if inputs.max_seq_length == -1:
        return longest
    if not 1 < inputs.max_seq_length <= longest:
        raise Refusal(f"max_seq_length {inputs.max_seq_length} is not between 2 and the model's {longest}, nor -1")
    return inputs.max_seq_length


def write_splits(inputs: Inputs, *, limit: int) -> dict[str, SplitReport]:
    """Tokenises all files into the output folder, and counts."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(inputs.model_selector_output / "tokenizer.json"))
    # A tokenizer file may carry settings of whoever saved it last.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    render = renderer_for(inputs.model_selector_output, tokenizer.get_vocab(with_added_tokens=True))
    controls = tuple(token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special)
    counts: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(TokenWriter(inputs.output_dir / f"{split}.arrow", batch_rows=inputs.batch_size))
            for split in SPLITS
        }
        for rows, _ in sources(inputs):
            splits: list[str] = []

            def chats(rows: Iterator[tuple[str, Chat]] = rows, splits: list[str] = splits) -> Iterator[Chat]:
                for split, chat in rows:
                    splits.append(split)
                    yield chat

            examples = tokenise(
                chats(),
                tokenizer=tokenizer,
                render=render,
                controls=controls,
                limit=limit,
                batch_rows=inputs.batch_size,
            )
            for example, count in examples:
                split = splits.pop(0)
                counts[split].update(count)
                if example is not None:
                    writers[split].add(example)
    return {split: SplitReport(**count) for split, count in counts.items()}


def run(argv: list[str]) -> None:
    """Preprocesses the chats."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true"  # no process is forked here, so threads do no harm
    inputs = parse(Inputs, argv, description="Turn chats into tokens and labels.")
    inputs.output_dir.mkdir(parents=True, exist_ok=True)
    limit = sequence_limit(inputs)
    reports = write_splits(inputs, limit=limit)
    for split, report in reports.items():
        print(f"{split}: {json.dumps(asdict(report))}")
        if report.truncated_rows:
            print(
                f"{split}: {report.truncated_rows} of {report.rows} rows are longer than {limit} tokens; "
                f"{report.truncated_tokens} tokens were cut off their ends"
            )
        if not report.rows:
            raise Refusal(f"no row is left for the split '{split}': {json.dumps(asdict(report))}")
    write_json(
        inputs.output_dir / REPORT,
        {
            "max_seq_length": limit,
            "pad_to": limit if inputs.pad_to_max_length else None,
            "splits": {split: asdict(report) for split, report in reports.items()},
        },
    )


if __name__ == "__main__":
    raise SystemExit(run_step("preprocess", run))
