from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.checkout import ROOT

USER = {"role": "user", "content": "Hi."}
SYSTEM = {"role": "system", "content": "Be kind."}
ASSISTANT = {"role": "assistant", "content": "Yes?"}


@pytest.fixture(scope="module")
def payload() -> Iterator[ModuleType]:
    """The scoring script's own validator, imported from its folder as the server does it."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("serve_payload", ROOT / "environments" / "serve" / "payload.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["serve_payload"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["serve_payload"]


def body(input_string: Any, **parameters: Any) -> dict[str, Any]:
    return {"input_data": {"input_string": input_string, "parameters": parameters}}


@pytest.mark.parametrize(
    "good",
    [
        {"input_data": {"input_string": [USER]}},
        body([SYSTEM, USER, ASSISTANT, USER]),
        body([[USER], [USER, ASSISTANT, USER]]),
        {**body([[USER]], temperature=0.6, top_p=0.9, do_sample=True, max_new_tokens=200), "params": {}},
        body([USER], temperature=0, top_k=0, repetition_penalty=1.1, seed=0, stop=["\n"], max_tokens=1),
    ],
)
def test_good_payloads(payload: ModuleType, good: Any) -> None:
    assert payload.complaint(good) is None


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ([], "the payload: "),
        ({}, "the payload: 'input_data' is a required"),
        ({"input_data": []}, "input_data: "),
        ({"input_data": {}}, "input_data: 'input_string' is a required"),
        ({**body([USER]), "extra": 1}, "the payload: "),
        (body([]), "input_data.input_string: "),
        (body("Hi."), "input_data.input_string: "),
        (body([[]]), "input_data.input_string[0]: "),
        (body([[USER], USER]), "input_data.input_string[1]: "),
        (body([USER, [USER]]), "input_data.input_string[1]: "),
        (body([{"role": "user"}]), "input_data.input_string[0]: 'content' is a required"),
        (body([{**USER, "role": "bot"}, USER]), "input_data.input_string[0].role: "),
        (body([{**USER, "content": ""}]), "input_data.input_string[0].content: "),
        (body([{**USER, "content": None}]), "input_data.input_string[0].content: "),
        (body([USER, SYSTEM, USER]), "input_data.input_string[1].role: "),
        (body([USER, ASSISTANT]), "input_data.input_string[1].role: the last message must have the role 'user'"),
        (body([[USER], [USER, ASSISTANT]]), "input_data.input_string[1][1].role: "),
        (body([USER], temperature=-1), "input_data.parameters.temperature: "),
        (body([USER], temperature="hot"), "input_data.parameters.temperature: "),
        (body([USER], top_p=0), "input_data.parameters.top_p: "),
        (body([USER], do_sample="yes"), "input_data.parameters.do_sample: "),
        (body([USER], max_new_tokens=0), "input_data.parameters.max_new_tokens: "),
        (body([USER], max_new_tokens=1.5), "input_data.parameters.max_new_tokens: "),
        (body([USER], max_new_tokens=True), "input_data.parameters.max_new_tokens: "),
        (body([USER], max_new_tokens=2, max_tokens=2), "input_data.parameters: max_new_tokens and max_tokens"),
        (body([USER], colour="red"), "input_data.parameters: "),
        ({**body([USER]), "params": {"top_k": -1}}, "params.top_k: "),
    ],
)
def test_the_field_that_is_wrong_is_named(payload: ModuleType, bad: Any, field: str) -> None:
    complaint = payload.complaint(bad)
    assert complaint is not None
    assert complaint.startswith(field)


def test_a_complaint_stays_short(payload: ModuleType) -> None:
    assert len(payload.complaint(body("x" * 1_000_000))) < 400


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "x"]), inner),
    max_leaves=8,
)


@given(json_values)
def test_no_payload_breaks_the_check(payload: ModuleType, value: Any) -> None:
    for candidate in (value, {"input_data": value}, body(value)):
        problem = payload.complaint(candidate)
        assert problem is None or isinstance(problem, str)


def test_the_model_takes_what_the_schema_lets_through() -> None:
    from chat_completion.chat_model import ALIASES, Generation

    schema = json.loads((ROOT / "environments" / "serve" / "payload.schema.json").read_text())
    named = set(schema["$defs"]["parameters"]["properties"])
    assert {ALIASES.get(name, name) for name in named} == set(Generation.__dataclass_fields__)
