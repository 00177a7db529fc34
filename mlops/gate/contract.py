"""What an answer must look like, whatever it says: the first question of the gate, before how good it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mlops.gate.samples import Sample
    from mlops.scoring.client import Answer

Violation = Literal["shape", "empty", "echo", "repeats"]
"""shape: no text where one was agreed · empty · echo: begins with the prompt · repeats: ends in a run of repeats."""

TRANSPORT = frozenset({0, 401, 403, 408, 429})
"""Statuses that say nothing of an answer: not reached, no right, no answer in time, no room."""
NOT_ASKED = TRANSPORT - {408}
"""Those of them where the model was not asked at all; one that never answers in time was."""

REPEATS = 8
"""An answer that ends with the same one to four words so many times in a row has gone into a loop."""
LONGEST_PHRASE = 4
SAME_CHARACTER = 40
"""The same for one character; a rule of dashes in a table is shorter."""
ECHO_CHARACTERS = 20
"""A prompt shorter than this may well begin its answer (`Yes?` … `Yes, …`); only the whole of it is an echo then."""

EDGES = re.compile(r"^\W+|\W+$")


def contract_violation(answer: Answer, sample: Sample) -> Violation | None:
    """What an answered request (HTTP 200) breaks of the contract; None where it keeps it.

    An answer that equals its reference is right, even where the reference repeats the prompt or itself.
    """
    if not answer.ok or not answer.texts:
        return "shape"
    text = answer.texts[0]
    if not text.strip():
        return "empty"
    if normal(text) == normal(sample.reference):
        return None
    if is_echo(text, sample.prompt) and not is_echo(sample.reference, sample.prompt):
        return "echo"
    return "repeats" if is_degenerate(text) else None


def normal(text: str) -> str:
    """A text without case and with single spaces, as exact match compares it."""
    return " ".join(text.split()).casefold()


def is_echo(text: str, prompt: str) -> bool:
    """Whether a text is the prompt again, or begins with the whole of it."""
    said, asked = normal(text), normal(prompt)
    return bool(asked) and (said == asked or (len(asked) >= ECHO_CHARACTERS and said.startswith(asked)))


def is_degenerate(text: str) -> bool:
    """Whether a text ends in a run of repeats.

    That is: one character :data:`SAME_CHARACTER` times, or the same one to :data:`LONGEST_PHRASE` words
    :data:`REPEATS` times, case and the marks around a word aside. The last round may be cut anywhere, in the middle
    of a word too, as it is where the limit of tokens ended it.
    """
    end = text.rstrip()
    if len(end) >= SAME_CHARACTER and len(set(end[-SAME_CHARACTER:])) == 1:
        return True
    # No more words than a run needs, one phrase more for the round that was cut.
    words = [_bare(word) for word in end.casefold().split()[-LONGEST_PHRASE * (REPEATS + 1) :]]
    return any(_loops(words, size) for size in range(1, LONGEST_PHRASE + 1))


def _bare(word: str) -> str:
    return EDGES.sub("", word) or word


def _loops(words: Sequence[str], size: int) -> bool:
    """Whether the words end with :data:`REPEATS` rounds of ``size`` words, and perhaps a part of one more."""
    for rest in range(size + 1):
        whole = words[: len(words) - rest]
        tail = whole[-size * REPEATS :]
        if len(tail) < size * REPEATS:
            return False
        phrase = tail[:size]
        left = words[len(whole) :]
        cut = all(word == full for word, full in zip(left[:-1], phrase, strict=False)) and (
            not left or phrase[len(left) - 1].startswith(left[-1])
        )
        if cut and all(word == phrase[at % size] for at, word in enumerate(tail)):
            return True
    return False
