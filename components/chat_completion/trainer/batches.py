"""Which conversations an optimiser step sees, and how they are dealt to processes and packed.

A step holds as many conversations as the user's settings say (per device x accumulation x processes). They are dealt
so that every process gets the same number of tokens, not of rows, in as few packed batches as memory allows. Which
conversations belong to a step depends on the seed and the epoch alone, so a run on two processes takes the same
steps as one on a single process, and so does transformers' own Trainer with the same seed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from chat_completion.data.tokens import IGNORED, TokenFile

Rows = tuple[int, ...]
Conversation = tuple[Any, Any]
"""The tokens of one conversation and its labels, as NumPy's vectors or plain sequences."""


def shard(rows: Sequence[int], lengths: Sequence[int], count: int) -> list[list[int]]:
    """Splits rows into parts of about equally many tokens: the longest first, each to the part that has least."""
    shards: list[list[int]] = [[] for _ in range(count)]
    tokens = [0] * count
    for row in sorted(rows, key=lambda row: (-lengths[row], row)):
        least = min(range(count), key=lambda part: (tokens[part], len(shards[part]), part))
        shards[least].append(row)
        tokens[least] += lengths[row]
    return shards


def deal(
    rows: Sequence[int], lengths: Sequence[int], *, processes: int, most_tokens: int, separate_above: int | None = None
) -> list[list[Rows]]:
    """Packs a step's conversations for every process.

    Args:
        rows: the step's conversations.
        lengths: of all conversations, in tokens.
        processes: how many share the step.
        most_tokens: tokens in a packed batch, at most; a conversation that is longer goes alone.
        separate_above: conversations of more tokens share no batch with shorter ones (`rotation_border`).

    Returns:
        For each process its packed batches. All have the same number of them, since processes wait for each other;
        where there are too few conversations, a batch is empty.
    """
    shares = shard(rows, lengths, processes)
    packed: list[list[Rows]] = [[] for _ in shares]
    for long in (False, True):
        groups = [
            [row for row in share if (separate_above is not None and lengths[row] > separate_above) == long]
            for share in shares
        ]
        if any(groups):
            for batches, more in zip(packed, pack_alike(groups, lengths, most_tokens=most_tokens), strict=True):
                batches += more
    return packed


def pack_alike(shares: Sequence[Sequence[int]], lengths: Sequence[int], *, most_tokens: int) -> list[list[Rows]]:
    """Packs each process's share into batches, in as few as it takes: the same number for all."""
    count = max(1, *(-(-sum(lengths[row] for row in share) // most_tokens) for share in shares))
    while True:
        packed = [shard(share, lengths, count) for share in shares]
        crowded = any(
            len(batch) > 1 and sum(lengths[row] for row in batch) > most_tokens
            for batches in packed
            for batch in batches
        )
        if not crowded:
            return [[tuple(sorted(batch)) for batch in batches] for batches in packed]
        count += 1


class StepSampler(torch.utils.data.Sampler[list[Rows]]):  # type: ignore[misc]
    """The steps of an epoch, as one process sees them: for each, its packed batches.

    Attributes:
        epoch: which epoch's order comes next; transformers' Trainer sets it.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        conversations: int,
        most_tokens: int,
        process: int = 0,
        processes: int = 1,
        seed: int | None = None,
        separate_above: int | None = None,
    ) -> None:
        """Plans nothing yet.

        Args:
            lengths: of all conversations, in tokens.
            conversations: in a step, over all processes.
            most_tokens: in a packed batch, at most.
            process: which of the processes this is.
            processes: how many there are.
            seed: of the order; None keeps the order of the file.
            separate_above: as `deal` takes it.
        """
        self.lengths = lengths
        self.conversations = conversations
        self.most_tokens = most_tokens
        self.process = process
        self.processes = processes
        self.seed = seed
        self.separate_above = separate_above
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.conversations)

    def order(self) -> list[int]:
        """All conversations, in the order of this epoch: the one that accelerate's seedable sampler draws."""
        if self.seed is None:
            return list(range(len(self.lengths)))
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        drawn: list[int] = torch.randperm(len(self.lengths), generator=generator).tolist()
        return drawn

    def __iter__(self) -> Iterator[list[Rows]]:
        order = self.order()
        for start in range(0, len(order), self.conversations):
            step = order[start : start + self.conversations]
            batches = deal(
                step,
                self.lengths,
                processes=self.processes,
                most_tokens=self.most_tokens,
                separate_above=self.separate_above,
            )
            yield batches[self.process]


class PackedDataset(torch.utils.data.Dataset[list[Conversation]]):  # type: ignore[misc]
    """A split whose items are packed batches: the conversations of some rows."""

    def __init__(self, tokens: TokenFile) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: Rows) -> list[Conversation]:
        return [self.tokens.arrays(row) for row in rows]


@dataclass(frozen=True)
class PackedBatch:
    """Conversations in one row, as the model's forward takes them, and what it has to predict."""

    inputs: dict[str, Any]
    targets: torch.Tensor


def pack(conversations: Sequence[Conversation]) -> PackedBatch:
    """Lays conversations behind each other.

    Args:
        conversations: of each its tokens and, as long, its labels.

    Returns:
        Inputs `input_ids` and `position_ids` (1, tokens), `logits_to_keep` (targets,), the positions that a labelled
        token follows, the conversations' lengths in the two forms that attention functions take, and the targets
        (targets,). The first token of a conversation is never a target: what precedes it is another's.
    """
    if not conversations:
        conversations = [((0,), (IGNORED,))]  # a process without a conversation keeps step with the others
    lengths = tuple(len(ids) for ids, _ in conversations)
    ends = np.cumsum(lengths)
    following = np.append(np.concatenate([labels for _, labels in conversations])[1:], IGNORED)
    following[ends - 1] = IGNORED
    label_positions = np.flatnonzero(following != IGNORED)
    ids = np.concatenate([ids for ids, _ in conversations])
    positions = np.concatenate([np.arange(length) for length in lengths])
    return PackedBatch(
        inputs={
            "input_ids": torch.from_numpy(ids.astype(np.int64)).unsqueeze(0),
            "position_ids": torch.from_numpy(positions).unsqueeze(0),
            "logits_to_keep": torch.from_numpy(label_positions),
            "lengths": lengths,
            "cu_seq_lens_q": torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32)),
        },
        targets=torch.from_numpy(following[label_positions].astype(np.int64)),
    )


def pack_step(batches: Sequence[Sequence[Conversation]]) -> dict[str, list[dict[str, Any]]]:
    """What a data loader hands out: one process's share of a step, as tensors in plain containers."""
    packed = [pack(batch) for batch in batches]
    return {"packed": [{"inputs": one.inputs, "targets": one.targets} for one in packed]}
