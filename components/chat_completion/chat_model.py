"""The model that is deployed: an MLflow pyfunc that answers conversations.

MLflow copies this one file into the model and runs it there, so it needs nothing of the package around it.
What it takes is what scoring programs send: one conversation or many, as lists, as the numpy arrays into which
Azure ML's own scoring script turns every list, or as a data frame.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

Conversation = list[dict[str, str]]

ALIASES = {"max_tokens": "max_new_tokens", "max_gen_len": "max_new_tokens"}
MAX_BATCH_TOKENS = 65_536
"""Prompt and answer tokens of one call of generate; more conversations than that are answered in turn."""


class BadRequest(ValueError):
    """Input that the caller has to change; a scoring script answers it with 400."""

    bad_request = True


@dataclass(frozen=True)
class Completion:
    """One answer.

    Attributes:
        completion_tokens: what was generated, the token that ends the answer included.
        finish_reason: "stop" where the model or a stop text ended it, "length" where the limit of tokens did.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str

    @property
    def usage(self) -> dict[str, int]:
        """Its tokens, as scoring programs expect to be told."""
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens}


@dataclass(frozen=True)
class Generation:
    """How to generate.

    Attributes:
        do_sample: None leaves the choice to the temperature: 0 or none is greedy.
        temperature: 0 is greedy.
        top_k: 0 is no limit.
        stop: texts before which an answer ends.
    """

    max_new_tokens: int = 256
    do_sample: bool | None = None
    temperature: float | None = None
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    @property
    def samples(self) -> bool:
        """Whether answers are drawn, or each time the likeliest token is taken."""
        if self.temperature == 0:
            return False
        return self.temperature is not None if self.do_sample is None else self.do_sample

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for `generate`."""
        chosen: dict[str, Any] = {"do_sample": self.samples, "repetition_penalty": self.repetition_penalty}
        if self.samples:
            chosen |= {"temperature": self.temperature or 1.0, "top_p": self.top_p, "top_k": self.top_k}
        return chosen


LIMITS: dict[str, tuple[float, float]] = {
    "max_new_tokens": (1, 4096),
    "temperature": (0, 2),
    "top_p": (1e-6, 1),
    "top_k": (0, 1_000_000),
    "repetition_penalty": (1e-3, 10),
    "seed": (0, 2**32 - 1),
}
WHOLE = ("max_new_tokens", "top_k", "seed")


def plain(value: Any) -> Any:
    """Numpy arrays and scalars, data frames and tuples as Python's own lists, dicts and numbers."""
    if hasattr(value, "to_dict") and hasattr(value, "columns"):
        return plain(value.to_dict(orient="records"))
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def read_parameters(*sources: Mapping[str, Any] | None) -> Generation:
    """Generation parameters; a later source wins over an earlier one.

    Raises:
        BadRequest: for a name that is not known, or a value out of its range.
    """
    values: dict[str, Any] = {}
    for source in sources:
        for name, value in (source or {}).items():
            if value is not None:
                values[ALIASES.get(name, name)] = value
    for name, value in values.items():
        if name not in Generation.__dataclass_fields__:
            raise BadRequest(f"parameters.{name} is not known; known are {', '.join(Generation.__dataclass_fields__)}")
        if name in LIMITS:
            low, high = LIMITS[name]
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                raise BadRequest(f"parameters.{name} is {value!r}; expected a number from {low:g} to {high:g}")
            if name in WHOLE and value != int(value):
                raise BadRequest(f"parameters.{name} is {value!r}; expected a whole number")
            values[name] = int(value) if name in WHOLE else float(value)
        if name == "do_sample" and not isinstance(value, bool):
            raise BadRequest(f"parameters.do_sample is {value!r}; expected true or false")
        if name == "stop":
            texts = [value] if isinstance(value, str) else value
            if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
                raise BadRequest("parameters.stop must be a list of texts")
            values[name] = tuple(texts)
    return replace(Generation(), **values)


def read_conversation(value: Any, path: str) -> Conversation:
    """One conversation, checked; an answer at its end is dropped, since that answer is what is asked for.

    (Rows of a data set end with the answer, and people send them as they are.)

    Raises:
        BadRequest: with the place of what is wrong.
    """
    if not isinstance(value, list) or not value:
        raise BadRequest(f"{path} must be a list of messages")
    for index, message in enumerate(value):
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise BadRequest(f"{path}[{index}] must be an object with 'role' and 'content'")
        if message["role"] not in {"system", "user", "assistant"}:
            raise BadRequest(f"{path}[{index}].role is {message['role']!r}")
        if not isinstance(message["content"], str):
            raise BadRequest(f"{path}[{index}].content is no text")
    turns = value[:-1] if value[-1]["role"] == "assistant" else value
    if not turns or turns[-1]["role"] != "user":
        raise BadRequest(f"{path} does not end with a question: the last message must be 'user'")
    return [{"role": message["role"], "content": message["content"]} for message in turns]


def read_input(
    model_input: Any, params: Mapping[str, Any] | None = None
) -> tuple[list[Conversation], bool, Generation]:
    """Takes apart what `predict` was given.

    Returns:
        The conversations, whether there was only one outside any list, and how to generate.
    """
    value = plain(model_input)
    inner: Any = None
    outer: Any = None
    if isinstance(value, dict) and "input_data" in value:
        outer, value = value.get("params"), value["input_data"]
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict) and "input_string" in value[0]:
        value = value[0]  # a data frame with one row
    if isinstance(value, dict):
        inner = value.get("parameters")
        if "input_string" not in value:
            raise BadRequest("input_data.input_string is missing")
        value = value["input_string"]
    generation = read_parameters(plain(params), outer, inner)
    if not isinstance(value, list) or not value:
        raise BadRequest("input_data.input_string must be a list with at least one message")
    if isinstance(value[0], dict):
        return [read_conversation(value, "input_data.input_string")], True, generation
    paths = (f"input_data.input_string[{index}]" for index in range(len(value)))
    return [read_conversation(one, path) for one, path in zip(value, paths, strict=False)], False, generation


def rotation_border(config: Any) -> int | None:
    """The length beyond which a model turns its positions otherwise, all of a batch alike; None for most models.

    Phi-3's long-context models do ("longrope"): one long conversation in a batch would change the others.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    return rope.get("original_max_position_embeddings") if rope.get("rope_type") == "longrope" else None


class Answerer:
    """A causal language model with its tokenizer; answers batches of conversations."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", local_files_only=True)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True)
        self.model.to(self._device).eval()
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self._pad = self.tokenizer.pad_token_id
        if self._device == "cpu" and self.model.num_parameters() < 20_000_000:
            torch.set_num_threads(1)  # more would cost more in waiting than they bring
        # Defaults of the model's own would otherwise fill in whatever a request leaves open.
        self.model.generation_config.update(do_sample=False, temperature=None, top_p=None, top_k=None, max_length=None)
        self.context = int(self.model.config.max_position_embeddings)
        self._border = rotation_border(self.model.config)
        # One at a time: callers may be threads, and the seed is the process's.
        self._lock = threading.Lock()

    def prompt(self, conversation: Conversation) -> list[int]:
        """The token ids after which the answer begins."""
        text = self.tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def answer(self, conversations: Sequence[Conversation], generation: Generation) -> list[Completion]:
        """One answer per conversation, in their order.

        Raises:
            BadRequest: when a conversation leaves no room for an answer.
        """
        prompts = [self.prompt(conversation) for conversation in conversations]
        for index, prompt in enumerate(prompts):
            if len(prompt) >= self.context:
                raise BadRequest(
                    f"conversation {index} has {len(prompt)} tokens; the model's context of {self.context} "
                    "leaves no room for an answer"
                )
        return self.complete(prompts, generation)

    def complete(self, prompts: Sequence[Sequence[int]], generation: Generation) -> list[Completion]:
        """One continuation per prompt, in their order. Prompts of about equal lengths share a call.

        A call has one limit of new tokens. So a prompt that leaves less room than is asked for shares none with
        shorter ones: no answer is cut off for its company's sake. Nor does one whose positions are turned otherwise.
        """
        answers: dict[int, Completion] = {}
        limits = [min(generation.max_new_tokens, self.context - len(prompt)) for prompt in prompts]
        kinds = [
            (new_tokens, self._turned(len(prompt), new_tokens))
            for prompt, new_tokens in zip(prompts, limits, strict=True)
        ]
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]), reverse=True)
        while order:
            most = max(1, MAX_BATCH_TOKENS // (len(prompts[order[0]]) + generation.max_new_tokens))
            group = [index for index in order[:most] if kinds[index] == kinds[order[0]]]
            del order[: len(group)]
            with self._lock:
                completions = self._generate([list(prompts[index]) for index in group], generation)
            answers.update(zip(group, completions, strict=True))
        return [answers[index] for index in range(len(prompts))]

    def _turned(self, length: int, new_tokens: int) -> int:
        """What the positions of prompts have to have in common to share a call (`rotation_border`).

        Returns:
            0 below the border to the last token, -1 beyond it from the first, else the length: those cross it together.
        """
        if self._border is None or length + new_tokens <= self._border:
            return 0
        return -1 if length > self._border else length

    def _generate(self, prompts: list[list[int]], generation: Generation) -> list[Completion]:
        import torch

        width = max(map(len, prompts))
        ids = torch.tensor([[self._pad] * (width - len(prompt)) + prompt for prompt in prompts], device=self._device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self._device)
        if generation.seed is not None:
            torch.manual_seed(generation.seed)
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=min(generation.max_new_tokens, self.context - width),
                pad_token_id=self._pad,
                **({"stop_strings": list(generation.stop), "tokenizer": self.tokenizer} if generation.stop else {}),
                **generation.arguments(),
            )
        rows = output[:, width:].tolist()
        texts = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        return [
            self._completion(text, row, len(prompt), generation)
            for text, row, prompt in zip(texts, rows, prompts, strict=True)
        ]

    def _completion(self, text: str, row: list[int], prompt_tokens: int, generation: Generation) -> Completion:
        """An answer of a batch: what follows the token that ended it only fills its row up."""
        eos = self.model.generation_config.eos_token_id
        ends = set(eos if isinstance(eos, list) else [eos])
        last = next((position for position, token in enumerate(row) if token in ends or token == self._pad), len(row))
        by_text = any(stop in text for stop in generation.stop)  # it leaves no token of its own
        count = last + 1 if last < len(row) and row[last] in ends and not by_text else last
        stopped = by_text or last < len(row)
        return Completion(cut(text, generation.stop), prompt_tokens, count, "stop" if stopped else "length")


def cut(text: str, stops: Sequence[str]) -> str:
    """An answer up to the first of the texts that end it, without white space around it."""
    ends = [position for stop in stops if (position := text.find(stop)) >= 0]
    return text[: min(ends, default=len(text))].strip()


def define() -> Any:
    """The pyfunc's class. MLflow is imported here, so that this module can be read without it."""
    from mlflow.pyfunc import PythonModel

    class ChatCompletion(PythonModel):  # type: ignore[misc]
        """Answers `{"input_string": …, "parameters": …}` with `{"output": …, "usage": …, "finish_reason": …}`."""

        def load_context(self, context: Any) -> None:
            """Loads the weights."""
            self._answerer = Answerer(Path(context.artifacts["model"]))

        # Without type hints: MLflow would make a schema of them, and none says "flat or nested".
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, ARG002
            """One text for a conversation by itself, lists for a list of conversations, one item for each."""
            conversations, alone, generation = read_input(model_input, params)
            answers = self._answerer.answer(conversations, generation)
            columns: dict[str, list[Any]] = {
                "output": [answer.text for answer in answers],
                "usage": [answer.usage for answer in answers],
                "finish_reason": [answer.finish_reason for answer in answers],
            }
            return {name: values[0] for name, values in columns.items()} if alone else columns

    return ChatCompletion


# MLflow runs this file under a name of its own; imported as part of the package it only defines.
if not __name__.startswith("chat_completion."):
    from mlflow.models import set_model

    set_model(define()())
