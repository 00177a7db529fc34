"""From chats to labelled tokens, a chunk of a file at a time: the work of one process.

Nearly all of the time is the tokenizer's own, a quarter of it for the characters that each token stands for. Where a
token of its own begins an answer and another ends it, as in Phi-3's format, those two say which tokens are learnt;
elsewhere an answer's first and last token are looked up by their characters. Its labels are one slice either way.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chat_completion.data.chats import Chunk, read_chunk
from chat_completion.data.template import PHI3_ANSWER, PHI3_END, Rendered, render_phi3, renderer_for
from chat_completion.data.tokens import IGNORED, batch_of

ENCODED_ROWS = 64
"""Conversations that the tokenizer gets at once: its answer takes a hundred bytes per token."""


@dataclass(frozen=True)
class Work:
    """A chunk, and the split of each of its rows."""

    chunk: Chunk
    splits: tuple[str, ...]


@dataclass(frozen=True)
class Tokenised:
    """What became of a chunk.

    Attributes:
        batches: by split, a record batch of the rows that are kept.
        counts: by split, what `preprocess.SplitReport` counts.
    """

    batches: dict[str, Any]
    counts: dict[str, Counter[str]]


def token_at(encoding: Any, position: int, *, characters: int) -> int:
    """The first token that begins at or behind a character.

    Args:
        encoding: the tokenizer's, of a text.
        position: the character.
        characters: length of the text.
    """
    # Not every character has a token: some tokenizers drop white space.
    tokens = (encoding.char_to_token(character) for character in range(position, characters))
    token: int = next((one for one in tokens if one is not None), len(encoding))

    def start_of(index: int) -> int:
        # A token that stands for no character of its own (a prefix that the tokenizer adds) belongs to the text
        # that it precedes.
        first, last = encoding.token_to_chars(index)
        return int(first if last > first else last)

    # The character may be inside a token that begins before it, and the first of several that begin there.
    while token < len(encoding) and start_of(token) < position:
        token += 1
    while token and start_of(token - 1) >= position:
        token -= 1
    return token


def label(encoding: Any, answers: Sequence[tuple[int, int]], *, characters: int) -> tuple[Any, Any]:
    """The tokens of a text and their labels, both as int32 arrays of NumPy's.

    Args:
        encoding: the tokenizer's, of the text.
        answers: start and end, in characters, of what the loss is taken on.
        characters: length of the text.
    """
    import numpy as np

    ids = np.array(encoding.ids, dtype=np.int32)
    labels = np.full_like(ids, IGNORED)
    for start, end in answers:
        tokens = slice(*(token_at(encoding, position, characters=characters) for position in (start, end)))
        labels[tokens] = ids[tokens]
    return ids, labels


@dataclass(frozen=True)
class Marks:
    """Tokens that no message can spell: the one before an answer, and the one that ends any turn."""

    before: int
    end: int


def marks_of(tokenizer: Any) -> Marks | None:
    """The tokens around an answer in Phi-3's format; None where they alone do not say where it begins.

    They do where the token before an answer takes the white space behind it along (`rstrip`), and both are found in
    the text as it is: what follows is then tokenised as the answer, by itself.
    """
    added = {token.content: (number, token) for number, token in tokenizer.get_added_tokens_decoder().items()}
    pair = [added.get(PHI3_ANSWER), added.get(PHI3_END)]
    special = [one for one in pair if one is not None and one[1].special and not one[1].normalized]
    return Marks(special[0][0], special[1][0]) if len(special) == 2 and special[0][1].rstrip else None


def label_by(marks: Marks, encoding: Any) -> tuple[Any, Any]:
    """What `label` gives, from the tokens alone; every turn of the text has to end with its token."""
    import numpy as np

    ids = np.array(encoding.ids, dtype=np.int32)
    labels = np.full_like(ids, IGNORED)
    starts, ends = (np.flatnonzero(ids == mark) + 1 for mark in (marks.before, marks.end))
    for start, end in zip(starts, ends[np.searchsorted(ends, starts, side="right")], strict=True):
        labels[start:end] = ids[start:end]
    return ids, labels


class Tokeniser:
    """A model's tokenizer and chat template, and how long a conversation may be."""

    def __init__(self, model: Path, limit: int) -> None:
        """Loads them.

        Args:
            model: folder with tokenizer.json and what goes with it.
            limit: most tokens of a conversation; the rest is cut off.
        """
        from tokenizers import Tokenizer

        self.limit = limit
        self.tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        # A tokenizer file may carry settings of whoever saved it last.
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.render = renderer_for(model, self.tokenizer.get_vocab(with_added_tokens=True))
        added = self.tokenizer.get_added_tokens_decoder().values()
        self.controls = tuple(token.content for token in added if token.special)
        self.marks = marks_of(self.tokenizer) if self.render is render_phi3 else None

    def is_safe(self, messages: Sequence[dict[str, str]]) -> bool:
        """Whether no message spells one of the template's own tokens."""
        return not any(token in message["content"] for message in messages for token in self.controls)

    def encode(self, rendered: Sequence[Rendered]) -> list[tuple[Any, Any]]:
        """The tokens and labels of each conversation, as `label` gives them."""
        texts = [one.text for one in rendered]
        if self.marks is not None:
            encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            return [label_by(self.marks, encoding) for encoding in encodings]
        encodings = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        pairs = zip(encodings, rendered, strict=True)
        return [label(encoding, one.answers, characters=len(one.text)) for encoding, one in pairs]

    def tokenise(self, work: Work) -> Tokenised:
        """Tokenises a chunk's rows, in order; those that cannot be learnt from are counted and left out."""
        counts: dict[str, Counter[str]] = {split: Counter() for split in work.splits}
        columns: dict[str, tuple[list[Any], list[Any], list[bool]]] = {split: ([], [], []) for split in work.splits}
        rows = zip(read_chunk(work.chunk), work.splits, strict=True)
        while some := list(itertools.islice(rows, ENCODED_ROWS)):
            safe = [(chat, split) for chat, split in some if self.is_safe(chat.messages)]
            for split, number in Counter(split for _, split in some).items():
                left_out = number - sum(other == split for _, other in safe)
                counts[split]["rows_with_control_tokens"] += left_out
            encoded_rows = self.encode([self.render(chat.messages) for chat, _ in safe])
            for (_, split), (ids, labels) in zip(safe, encoded_rows, strict=True):
                excess = max(0, len(ids) - self.limit)
                ids, labels = ids[: self.limit], labels[: self.limit]
                loss_tokens = int((labels != IGNORED).sum())
                if not loss_tokens:
                    counts[split]["rows_without_answer"] += 1
                    continue
                counts[split].update(
                    rows=1,
                    tokens=len(ids),
                    loss_tokens=loss_tokens,
                    truncated_rows=int(excess > 0),
                    truncated_tokens=excess,
                )
                for column, value in zip(columns[split], (ids, labels, excess > 0), strict=True):
                    column.append(value)
        return Tokenised(
            {split: batch_of(*split_columns) for split, split_columns in columns.items() if split_columns[0]}, counts
        )
