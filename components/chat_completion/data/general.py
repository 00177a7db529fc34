"""A small set of general chats: what a model could do before it was fine-tuned, and should still be able to do.

`general.jsonl` beside this file is the set: facts, arithmetic, translation, answers in a given form, a little
reasoning, a few free texts, all written for this repository. It travels with the code, so that every training is asked
the same.
"""

import json
from pathlib import Path

from chat_completion.data.chats import check_messages
from chat_completion.data.tokenising import Tokeniser
from chat_completion.data.tokens import Example

CHATS = Path(__file__).with_name("general.jsonl")


def general_examples(model: Path, *, limit: int) -> list[Example]:
    """The general chats as tokens of a model, with the answers labelled; those longer than the context are left out.

    Args:
        model: the folder with the tokenizer and the chat template.
        limit: the model's context, in tokens.
    """
    tokeniser = Tokeniser(model, limit)
    lines = enumerate(CHATS.read_text(encoding="utf-8").splitlines(), start=1)
    chats = [check_messages(json.loads(line)["messages"], f"{CHATS.name}:{number}") for number, line in lines]
    encoded_rows = tokeniser.encode([tokeniser.render(chat) for chat in chats])
    return [Example(ids.tolist(), labels.tolist()) for ids, labels in encoded_rows if len(ids) <= limit]
