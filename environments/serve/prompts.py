"""Chats as vLLM's `/v1/completions` takes them: token ids, and its names for how to generate.

What a parameter means is told by the deployed model's own code (`chat_model.py`), which the other server runs; here
the same is said in vLLM's words. The schema has checked types and limits before.
"""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from contract import Payload, Refused, read

ALIASES = {"max_tokens": "max_new_tokens", "max_gen_len": "max_new_tokens"}
NEW_TOKENS = 256
"""Where a request does not say."""


def generation(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a request to `/v1/completions`; of several names for one thing the last counts."""
    settings = {ALIASES.get(name, name): value for name, value in parameters.items()}
    temperature = settings.get("temperature")
    samples = temperature != 0 and settings.get("do_sample", temperature is not None)
    fields: dict[str, Any] = {
        "max_tokens": int(settings.get("max_new_tokens", NEW_TOKENS)),
        "temperature": (temperature or 1.0) if samples else 0,
        "repetition_penalty": settings.get("repetition_penalty", 1.0),
    }
    if samples:
        fields |= {"top_p": settings.get("top_p", 1.0), "top_k": int(settings.get("top_k", 0))}
    if "seed" in settings:
        fields["seed"] = int(settings["seed"])
    if settings.get("stop"):
        fields["stop"] = settings["stop"]
    return fields


def no_room(size: str, context: int) -> Refused:
    """The refusal of a conversation of this size."""
    return Refused(f"has {size}; the model's context of {context} leaves no room for an answer")


class Prompts:
    """A model's tokenizer with its chat template."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._longest = max(map(len, self._tokenizer.get_vocab()))
        # A tokenizer is not made for several threads, and a long text must not hold up the event loop.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prompts")

    def ids(self, conversation: list[dict[str, str]], *, context: int) -> list[int]:
        """The tokens after which the answer begins.

        Raises:
            Refused: they leave no room for it in the context.
        """
        text = self._tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        # Megabytes take the tokenizer many seconds, in which nobody else's question would be read.
        if len(text) > context * self._longest:
            raise no_room(f"{len(text)} characters", context)
        tokens: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(tokens) >= context:
            raise no_room(f"{len(tokens)} tokens", context)
        return tokens

    async def requests(self, body: bytes, *, context: int) -> tuple[Payload, list[dict[str, Any]]]:
        """A payload, and the request to `/v1/completions` for each of its conversations.

        Args:
            body: as it came.
            context: tokens that the model takes, the answer's included.

        Raises:
            Refused: the payload is wrong, or a conversation leaves no room for an answer.
        """
        loop = asyncio.get_running_loop()
        payload = await loop.run_in_executor(None, read, body)
        fields = generation(payload.parameters)
        requests = []
        for index, conversation in enumerate(payload.conversations):  # other requests' take turns with them
            try:
                prompt = await loop.run_in_executor(self._thread, partial(self.ids, conversation, context=context))
            except Refused as refused:
                raise Refused(f"conversation {index} {refused}") from refused
            max_tokens = min(fields["max_tokens"], context - len(prompt))
            requests.append({**fields, "prompt": prompt, "max_tokens": max_tokens})
        return payload, requests
