"""How much of a conversation fits into the model's context.

Nothing says beforehand how large it is. An endpoint that refuses a conversation says how many tokens it has and how
many there may be; from then on both are known well enough to leave the oldest turns out before asking.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from mlops.chat.conversation import SAME, Conversation

REFUSALS = (
    # our own scoring server's
    re.compile(r"has (?P<tokens>\d+) tokens; the model's context of (?P<context>\d+)"),
    # OpenAI-style servers'
    re.compile(r"context length (?:is|of) (?P<context>\d+)(?: tokens)?.*?(?P<tokens>\d+) tokens", re.DOTALL),
)
UNCERTAIN = re.compile(r"context|too many tokens|sequence length|too long", re.IGNORECASE)
ANSWER_SHARE = 0.25
"""Of the context at most is kept free for the answer, however long it may get by the parameters."""
MARGIN = 0.95
"""The number of tokens is estimated from that of characters; what fits by so much does fit."""


@dataclass(frozen=True)
class ContextWindow:
    """The model's context, and how many tokens a character takes."""

    context: int
    per_character: float


def refused(error: str | None, conversation: Conversation, question: str) -> ContextWindow | None:
    """What a refusal tells of the context; None where it says nothing of it."""
    for pattern in REFUSALS:
        match = pattern.search(error or "")
        if match:
            tokens = int(match["tokens"])
            return ContextWindow(int(match["context"]), tokens / max(1, conversation.characters(question)))
    return None


def is_refusal(status: int, error: str | None) -> bool:
    """Whether an endpoint says that a conversation is too long, with numbers or without."""
    return status in (400, 413, 424) and bool(UNCERTAIN.search(error or ""))


def fitting(conversation: Conversation, question: str, window: ContextWindow | None) -> Conversation:
    """The conversation with as many of its oldest turns left out as must be; none where no room is known."""
    if window is None:
        return conversation
    max_tokens = next((int(conversation.parameters[name]) for name in SAME if name in conversation.parameters), 0)
    free = min(max_tokens, int(window.context * ANSWER_SHARE))
    for shorter in shortened(conversation):
        if shorter.characters(question) * window.per_character <= (window.context - free) * MARGIN:
            return shorter
    return replace(conversation, left_out=len(conversation.turns))


def shortened(conversation: Conversation) -> Iterable[Conversation]:
    """The conversation as it is, and with one more of its turns left out each time."""
    for left_out in range(conversation.left_out, len(conversation.turns) + 1):
        yield replace(conversation, left_out=left_out)
