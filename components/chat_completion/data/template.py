"""How a conversation becomes text, and which of its characters the loss is taken on.

Phi-3's tokenizer has shipped several chat templates. One puts a start token first and cannot say which tokens
are the assistant's, another ends a training text with the padding token. So a model of Phi-3's family always
gets the template below, and every other model is asked through the template that it brings.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chat_completion.common.refusal import Refusal

Message = dict[str, str]

PHI3_ROLES = ("system", "user", "assistant")
PHI3_END = "<|end|>"
PHI3_ANSWER = "<|assistant|>"

PHI3_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}"
    "{{ message['content'] + '<|end|>\\n' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
"""Phi-3's format, with the mark by which `transformers` finds the assistant's tokens."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as text.

    Attributes:
        text: what the tokenizer reads.
        answers: start and end, in characters, of each assistant turn with its end token. The loss is taken
            there and nowhere else.
    """

    text: str
    answers: tuple[tuple[int, int], ...]


Render = Callable[[Sequence[Message]], Rendered]


def render_phi3(messages: Sequence[Message]) -> Rendered:
    """A conversation in Phi-3's format."""
    pieces: list[str] = []
    answers: list[tuple[int, int]] = []
    position = 0
    for message in messages:
        head = f"<|{message['role']}|>\n"
        body = message["content"] + PHI3_END
        if message["role"] == "assistant":
            answers.append((position + len(head), position + len(head) + len(body)))
        pieces += [head, body, "\n"]
        position += len(head) + len(body) + 1
    return Rendered("".join(pieces), tuple(answers))


def is_phi3_format(vocabulary: dict[str, int]) -> bool:
    """Whether a tokenizer has the tokens of Phi-3's format, by which its family is recognised."""
    return all(token in vocabulary for token in (PHI3_END, *(f"<|{role}|>" for role in PHI3_ROLES)))


def own_template(folder: Path) -> tuple[str, dict[str, str]]:
    """The chat template that a model folder brings, and the special tokens that it may use."""
    path = folder / "tokenizer_config.json"
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    tokens = {}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        value = settings.get(name)
        tokens[name] = value["content"] if isinstance(value, dict) else (value or "")
    file = folder / "chat_template.jinja"
    template = file.read_text(encoding="utf-8") if file.is_file() else settings.get("chat_template")
    if not isinstance(template, str):
        raise Refusal(f"the model in '{folder}' has no chat template; take one that was made for chat")
    return template, tokens


def render_with(template: str, tokens: dict[str, str]) -> Render:
    """A renderer for any template whose text of a conversation begins with the text of its first turns.

    Raises:
        Refusal: when rendering a conversation for which that does not hold, because the assistant's tokens
            could then not be told from the others.
    """
    from jinja2 import Environment
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def stop(message: str) -> None:
        raise Refusal(f"the model's chat template refuses a conversation: {message}")

    environment: Environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = stop
    # `{% generation %}` belongs to transformers; here the assistant's turns are found by their position.
    plain = template.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    compiled = environment.from_string(plain.replace("{%- generation -%}", "").replace("{%- endgeneration -%}", ""))
    eos = tokens.get("eos_token", "")

    def text_of(messages: Sequence[Message], *, prompt: bool) -> str:
        return compiled.render(messages=list(messages), add_generation_prompt=prompt, **tokens)

    def render(messages: Sequence[Message]) -> Rendered:
        whole = text_of(messages, prompt=False)
        answers = []
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = text_of(messages[:index], prompt=True)
            after = text_of(messages[: index + 1], prompt=False)
            if eos and after.endswith(eos):  # it closes a text, not a turn
                after = after[: -len(eos)]
            if not (after.startswith(before) and whole.startswith(after)):
                raise Refusal("the model's chat template rewrites earlier turns; it cannot be used for training")
            answers.append((len(before), len(after)))
        return Rendered(whole, tuple(answers))

    return render


def renderer_for(folder: Path, vocabulary: dict[str, int]) -> Render:
    """The renderer for the model in `folder`."""
    return render_phi3 if is_phi3_format(vocabulary) else render_with(*own_template(folder))
