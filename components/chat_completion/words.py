"""Tokenises word by word, each distinct word once, where a tokenizer's own rules allow it: Phi-3's and Llama-2's do.

Such a tokenizer takes a whole message for one word and merges its characters pair by pair, at a price of a microsecond
per token. But no entry of its vocabulary goes on behind a space, so nothing is ever merged across one: the tokens of
a message are those of its words, one after the other. Chats repeat their words, so nearly all of them are looked up.
Whatever does not fit is left to the tokenizer itself, conversation by conversation.
"""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from chat_completion.template import Rendered
from chat_completion.tokens import IGNORED

SPACE = "▁"
"""What such a tokenizer writes for a space, and puts before a text."""

KEPT_WORDS = 200_000
"""In memory, some 60 MB of them; frequent words come early, so those that come later are not kept."""

LONGEST_KEPT = 64
"""In characters; longer ones do not come again."""

NORMALIZER = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": SPACE},
        {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
    ],
}

ODD_WHITE_SPACE = re.compile("[\x1c-\x1f]")
"""White space for Python and not for the tokenizer."""


class WordTokeniser:
    """The tokens of conversations, by their words."""

    def __init__(self, tokenizer: Any) -> None:
        """Takes a tokenizer for which `fits` holds."""
        from tokenizers import Tokenizer

        bare = json.loads(tokenizer.to_str())
        bare["normalizer"] = None
        self._bare = Tokenizer.from_str(json.dumps(bare))
        marks = tokenizer.get_added_tokens_decoder()
        self._marks = {token.content: index for index, token in marks.items()}
        by_length = sorted(marks.values(), key=lambda token: -len(token.content))
        # Groups would slow it down; a mark that takes the white space behind it is found without that space again.
        spelled = (re.escape(token.content) + (r"\s*" if token.rstrip else "") for token in by_length)
        self._split = re.compile("|".join(spelled))
        self._words: dict[str, list[int]] = {}

    @staticmethod
    def fits(tokenizer: Any) -> bool:
        """Whether a tokenizer's tokens are those of its words."""
        written = json.loads(tokenizer.to_str())
        model = written["model"]
        plain = (
            model["type"] == "BPE"
            and not model.get("dropout")
            and not model.get("ignore_merges")
            and not model.get("continuing_subword_prefix")
            and not model.get("end_of_word_suffix")
            and written["pre_tokenizer"] is None
            and written["normalizer"] == NORMALIZER
            and SPACE in model["vocab"]
        )
        marks = written["added_tokens"]
        if not plain or not marks or any(mark["lstrip"] or mark["single_word"] or mark["normalized"] for mark in marks):
            return False
        names = {mark["content"] for mark in marks}
        crossing = re.compile(f"[^{SPACE}]{SPACE}")
        return not any(crossing.search(word) for word in model["vocab"] if word not in names)

    def _parts(self, rendered: Rendered) -> Iterator[tuple[int, int, list[str] | int]]:
        """The text's marks and what stands between them: start, end, and the mark's token or the words."""
        position = 0
        text = rendered.text
        for mark in self._split.finditer(text):
            if mark.start() > position:
                yield position, mark.start(), words_of(text[position : mark.start()])
            spelled = mark.group()
            token = self._marks.get(spelled)
            yield mark.start(), mark.end(), self._marks[spelled.rstrip()] if token is None else token
            position = mark.end()
        if position < len(text):
            yield position, len(text), words_of(text[position:])

    def _learn(self, words: set[str]) -> list[str]:
        """Gets the tokens of words that are not known yet; returns those that are to be forgotten again."""
        missing = sorted(words - self._words.keys())
        # A word stands for itself with a space before it.
        spelled = [SPACE + word for word in missing]
        found = self._bare.encode_batch_fast(spelled, add_special_tokens=False)
        room = max(0, KEPT_WORDS - len(self._words))
        self._words.update((word, encoding.ids) for word, encoding in zip(missing, found, strict=True))
        short = [word for word in missing if len(word) < LONGEST_KEPT]
        return [*short[room:], *(word for word in missing if len(word) >= LONGEST_KEPT)]

    def encode(self, conversations: Sequence[Rendered]) -> list[tuple[Any, Any] | None]:
        """Tokens and labels, both as int32 arrays of NumPy's; None for a conversation that does not fit."""
        import numpy as np

        split = [
            None if ODD_WHITE_SPACE.search(rendered.text) else list(self._parts(rendered)) for rendered in conversations
        ]
        texts = [content for parts in split if parts for *_, content in parts if isinstance(content, list)]
        forgotten = self._learn(set().union(*texts))
        look_up = self._words.__getitem__
        results: list[tuple[Any, Any] | None] = []
        for rendered, parts in zip(conversations, split, strict=True):
            if parts is None or not ends_at_marks(parts, rendered.answers):
                results.append(None)
                continue
            ids: list[int] = []
            spans = []
            for start, _, content in parts:
                before = len(ids)
                ids.extend(chain.from_iterable(map(look_up, content)) if isinstance(content, list) else (content,))
                if any(first <= start < last for first, last in rendered.answers):
                    spans.append(slice(before, len(ids)))
            tokens = np.array(ids, dtype=np.int32)
            labels = np.full_like(tokens, IGNORED)
            for span in spans:
                labels[span] = tokens[span]
            results.append((tokens, labels))
        for word in forgotten:
            del self._words[word]
        return results


def words_of(text: str) -> list[str]:
    """A text's words, each without the space that stands before it, and with any further ones."""
    if "  " in text or SPACE in text or text[0] == " " or text[-1] == " ":
        pieces = re.findall(f"{SPACE}+[^{SPACE}]*", SPACE + text.replace(" ", SPACE))
        return [piece[1:] for piece in pieces]
    return text.split(" ")


def ends_at_marks(parts: Sequence[tuple[int, int, Any]], answers: Sequence[tuple[int, int]]) -> bool:
    """Whether no answer begins or ends inside a text, where its words would have to be counted."""
    edges = {edge for answer in answers for edge in answer}
    return not any(start < edge < end for start, end, content in parts if isinstance(content, list) for edge in edges)
