from __future__ import annotations

import json
from pathlib import Path

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat_completion.common.refusal import Refusal
from chat_completion.data.template import (
    PHI3_TEMPLATE,
    is_phi3_format,
    own_template,
    render_phi3,
    render_with,
    renderer_for,
)

# The format that the model card of Phi-3-mini-4k-instruct documents.
DOCUMENTED = "<|system|>\nYou are kind.<|end|>\n<|user|>\nHow?<|end|>\n<|assistant|>\nSo.<|end|>\n"
CONVERSATION = [
    {"role": "system", "content": "You are kind."},
    {"role": "user", "content": "How?"},
    {"role": "assistant", "content": "So."},
]
# A template in the manner of the newer hub revisions: the end token closes a text that is no prompt.
NEWER = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1, max_size=30)
turns = st.lists(st.tuples(texts, texts), min_size=1, max_size=4)


def conversation(pairs: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [
        {"role": role, "content": content}
        for pair in pairs
        for role, content in zip(("user", "assistant"), pair, strict=True)
    ]


def test_text_is_the_documented_format() -> None:
    assert render_phi3(CONVERSATION).text == DOCUMENTED


@given(turns)
def test_answers_are_the_assistants_words_and_their_end(pairs: list[tuple[str, str]]) -> None:
    rendered = render_phi3(conversation(pairs))
    assert [rendered.text[start:end] for start, end in rendered.answers] == [f"{answer}<|end|>" for _, answer in pairs]


@given(turns)
def test_a_models_own_template_gives_the_same_answers(pairs: list[tuple[str, str]]) -> None:
    rendered = render_with(NEWER, {"eos_token": "<|endoftext|>"})(conversation(pairs))
    assert rendered.text == render_phi3(conversation(pairs)).text + "<|endoftext|>"
    ends = [f"{answer}<|end|>\n" for _, answer in pairs]
    assert [rendered.text[start:end] for start, end in rendered.answers] == ends


def test_the_saved_template_is_the_renderer(standin: object) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(standin.model)  # type: ignore[attr-defined]
    assert tokenizer.chat_template == PHI3_TEMPLATE
    rendered = render_phi3(CONVERSATION)
    encoded = tokenizer.apply_chat_template(
        CONVERSATION, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    assert tokenizer.decode(encoded["input_ids"]) == rendered.text
    answer_tokens = [t for t, mask in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if mask]
    (start, end), *_ = rendered.answers
    assert tokenizer.decode(answer_tokens) == rendered.text[start:end]
    prompt = tokenizer.apply_chat_template(CONVERSATION[:2], tokenize=False, add_generation_prompt=True)
    assert rendered.text.startswith(prompt)


def test_a_template_that_rewrites_earlier_turns_is_refused() -> None:
    last_only = "{{ messages[-1]['content'] }}{% if add_generation_prompt %}>{% endif %}"
    with pytest.raises(Refusal, match="rewrites earlier turns"):
        render_with(last_only, {})(conversation([("a", "b"), ("c", "d")]))


def test_a_template_cannot_reach_out_of_its_sandbox() -> None:
    with pytest.raises(jinja2.exceptions.SecurityError):
        render_with("{{ messages.__class__.__mro__[1].__subclasses__() }}", {})(CONVERSATION)


def test_what_the_template_refuses_is_refused() -> None:
    with pytest.raises(Refusal, match="no system here"):
        render_with("{{ raise_exception('no system here') }}", {})(CONVERSATION)


def test_the_family_is_recognised_by_its_tokens(tmp_path: Path) -> None:
    phi3 = {"<|end|>": 1, "<|user|>": 2, "<|assistant|>": 3, "<|system|>": 4}
    assert is_phi3_format(phi3)
    assert renderer_for(tmp_path, phi3) is render_phi3
    assert not is_phi3_format({"<|im_end|>": 1})


def test_a_model_without_template_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "</s>"}}))
    with pytest.raises(Refusal, match="no chat template"):
        own_template(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("x")
    assert own_template(tmp_path) == ("x", {"bos_token": "", "eos_token": "</s>", "pad_token": "", "unk_token": ""})
