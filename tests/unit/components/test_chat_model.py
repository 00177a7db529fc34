"""The packed model's contract, with the inputs of every scoring program that may load it."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from chat_completion.chat_model import (
    Answerer,
    BadRequest,
    Generation,
    cut,
    plain,
    read_input,
    read_parameters,
)
from tests.unit.components.conftest import StandIn, Tuned, child_environment, split

FLAT = [{"role": "user", "content": "Hi."}]
LONG = [
    {"role": "user", "content": "Hi."},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "So."},
]


def as_azures_no_code_script_parses(body: dict[str, Any], *, whole: bool) -> tuple[Any, Any]:
    """What Azure's own script for MLflow models makes of a request before it calls `predict`.

    A dictionary becomes one of numpy arrays, value by value. `whole` is its other branch, for models that it knows
    to be language models with parameters of their own: those get the dictionary as it came.
    """
    data = body["input_data"]
    return data if whole else {name: np.asarray(value) for name, value in data.items()}, body.get("params")


def objects(*conversations: list[dict[str, str]]) -> Any:
    """Conversations of unequal lengths as a numpy array of lists."""
    array = np.empty(len(conversations), dtype=object)
    array[:] = list(conversations)
    return array


@pytest.mark.parametrize(
    ("value", "conversations", "alone"),
    [
        (FLAT, [FLAT], True),
        ([FLAT], [FLAT], False),
        ([FLAT, LONG], [FLAT, LONG], False),
        ({"input_string": LONG}, [LONG], True),
        ({"input_data": {"input_string": [LONG]}, "params": {}}, [LONG], False),
        (np.asarray(LONG), [LONG], True),
        (np.asarray([FLAT, FLAT]), [FLAT, FLAT], False),
        (objects(FLAT, LONG), [FLAT, LONG], False),
        ({"input_string": np.asarray([LONG, LONG])}, [LONG, LONG], False),
        ({"input_string": objects(LONG, FLAT), "parameters": np.asarray({"top_k": 3})}, [LONG, FLAT], False),
        (pd.DataFrame(LONG), [LONG], True),
        (pd.DataFrame([{"input_string": LONG, "parameters": {}}]), [LONG], True),
        (pd.DataFrame([{"input_string": [FLAT, LONG]}]), [FLAT, LONG], False),
    ],
)
def test_inputs(value: Any, conversations: list[object], alone: bool) -> None:
    read, was_alone, _ = read_input(value)
    assert (read, was_alone) == (conversations, alone)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("input_string", [FLAT, LONG, [FLAT], [FLAT, FLAT], [LONG, LONG]])
def test_inputs_as_azures_no_code_script_passes_them(input_string: list[Any], whole: bool) -> None:
    parameters = {"temperature": 0.6, "top_p": 0.9, "do_sample": True, "max_new_tokens": 20}
    body = {"input_data": {"input_string": input_string, "parameters": parameters}, "params": {}}
    value, params = as_azures_no_code_script_parses(json.loads(json.dumps(body)), whole=whole)
    conversations, alone, generation = read_input(value, params)
    assert alone is isinstance(input_string[0], dict)
    assert conversations == ([input_string] if alone else input_string)
    assert generation == Generation(max_new_tokens=20, do_sample=True, temperature=0.6, top_p=0.9)


def test_unequal_lengths_fail_in_azures_no_code_script_already() -> None:
    # Numpy refuses them; the scoring script of this project has no such step, and that is why there is one.
    with pytest.raises(ValueError, match="inhomogeneous"):
        as_azures_no_code_script_parses({"input_data": {"input_string": [FLAT, LONG]}}, whole=False)


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ({}, "input_string is missing"),
        ([], "at least one message"),
        ("Hi.", "must be a list"),
        ([[]], r"input_string\[0\] must be a list"),
        ([{"role": "user"}], r"\[0\] must be an object with 'role' and 'content'"),
        ([{"role": "bot", "content": "x"}], r"\[0\].role is 'bot'"),
        ([{"role": "user", "content": 1}], r"\[0\].content is no text"),
        ([{"role": "system", "content": "x"}], "does not end with a question: the last message must be 'user'"),
        ([FLAT, LONG[1:2]], r"input_string\[1\] does not end with a question"),
    ],
)
def test_inputs_that_are_refused(value: Any, complaint: str) -> None:
    with pytest.raises(BadRequest, match=complaint):
        read_input(value)


def test_an_answer_at_the_end_is_what_is_asked_for() -> None:
    assert read_input([LONG[:2]]) == read_input([LONG[:1]])


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_tokens": 4097}, "max_new_tokens"),
        ({"max_new_tokens": 1.5}, "max_new_tokens"),
        ({"do_sample": 1}, "do_sample"),
        ({"stop": [1]}, "stop"),
        ({"return_full_text": True}, "return_full_text"),
    ],
)
def test_parameters_that_are_refused(parameters: dict[str, Any], name: str) -> None:
    with pytest.raises(BadRequest, match=name):
        read_parameters(parameters)


def test_later_parameters_win_and_aliases_count() -> None:
    assert read_parameters({"max_new_tokens": 5, "seed": 1.0}, {"max_gen_len": 7}) == Generation(7, seed=1)
    assert read_parameters(None, {"stop": "x"}).stop == ("x",)


@pytest.mark.parametrize(
    ("parameters", "samples"),
    [
        ({}, False),
        ({"temperature": 0}, False),
        ({"temperature": 0, "do_sample": True}, False),
        ({"temperature": 0.7}, True),
        ({"temperature": 0.7, "do_sample": False}, False),
        ({"do_sample": True}, True),
        ({"top_p": 0.9}, False),
    ],
)
def test_when_answers_are_drawn(parameters: dict[str, Any], samples: bool) -> None:
    assert read_parameters(parameters).samples is samples


def test_cut() -> None:
    assert cut(" one two three ", ("three", "two")) == "one"
    assert cut(" one ", ()) == "one"


def test_plain() -> None:
    assert plain({"a": np.float32(1), "b": (np.asarray([1, 2]),), "c": None}) == {"a": 1.0, "b": [[1, 2]], "c": None}


@pytest.fixture(scope="module")
def answerer(standin: StandIn) -> Answerer:
    return Answerer(standin.model)


def questions(count: int) -> list[list[dict[str, str]]]:
    lines = split("test_gen").read_text(encoding="utf-8").splitlines()[:count]
    return [[m for m in json.loads(line)["messages"] if m["role"] != "assistant"][:1] for line in lines]


def test_a_batch_answers_as_one_by_one(answerer: Answerer) -> None:
    asked = questions(6)
    asked[1] = [{"role": "user", "content": "Hello, " * 30 + "and now?"}]
    together = answerer.answer(asked, Generation(max_new_tokens=16))
    alone = [answerer.answer([one], Generation(max_new_tokens=16))[0] for one in asked]
    assert together == alone
    assert all(answer.text for answer in together)


def test_tokens_are_counted_up_to_the_end_of_each_answer(answerer: Answerer) -> None:
    short, long = (
        answerer.answer(questions(1) * 2, Generation(max_new_tokens=2))[0],
        answerer.answer(questions(1), Generation(max_new_tokens=200))[0],
    )
    assert (short.completion_tokens, short.finish_reason) == (2, "length")
    assert long.finish_reason == "stop"
    assert 2 < long.completion_tokens < 200
    again = answerer.tokenizer(long.text, add_special_tokens=False)["input_ids"]
    assert abs(long.completion_tokens - len(again) - 1) <= 1  # the token that ends it is not in the text
    assert long.usage == {
        "prompt_tokens": len(answerer.prompt(questions(1)[0])),
        "completion_tokens": long.completion_tokens,
    }


def test_seeds_and_stops(answerer: Answerer) -> None:
    drawn = Generation(max_new_tokens=16, temperature=1.5, seed=3)
    assert answerer.answer(questions(2), drawn) == answerer.answer(questions(2), drawn)
    whole = answerer.answer(questions(1), Generation(max_new_tokens=16))[0]
    stop = whole.text.split()[2]
    stopped = answerer.answer(questions(1), Generation(max_new_tokens=16, stop=(stop,)))[0]
    assert stopped.text == whole.text.partition(stop)[0].strip()
    assert stopped.finish_reason == "stop"
    assert stopped.completion_tokens < whole.completion_tokens


def test_a_stop_text_counts_the_same_alone_and_in_company(answerer: Answerer) -> None:
    stop = answerer.answer(questions(1), Generation(max_new_tokens=16))[0].text.split()[2]
    generation = Generation(max_new_tokens=16, stop=(stop,))
    together = answerer.answer(questions(4), generation)
    assert {answer.finish_reason for answer in together} >= {"stop"}
    assert together == [answerer.answer([asked], generation)[0] for asked in questions(4)]


def test_a_conversation_that_fills_the_context_is_refused(answerer: Answerer) -> None:
    with pytest.raises(BadRequest, match="leaves no room"):
        answerer.answer([[{"role": "user", "content": "why " * 2000}]], Generation())


def test_a_short_one_beside_it_still_ends_within_the_context(answerer: Answerer) -> None:
    almost = [{"role": "user", "content": "why " * 200}]
    answers = answerer.answer([almost, *questions(1)], Generation(max_new_tokens=4096, stop=("unlikely",)))
    assert len(answers) == 2


def test_a_long_one_beside_it_cuts_no_answer_off(answerer: Answerer) -> None:
    (asked,) = (answerer.prompt(conversation) for conversation in questions(1))
    filled = asked * (answerer.context // len(asked) + 1)
    (alone,) = answerer.complete([asked], Generation(max_new_tokens=64))
    nearly, beside = answerer.complete([filled[: answerer.context - 2], asked], Generation(max_new_tokens=64))
    assert nearly.completion_tokens <= 2 < alone.completion_tokens
    assert beside == alone


def test_a_long_one_beside_it_turns_no_positions(standin: StandIn, tmp_path: Path) -> None:
    """As with Phi-3's long-context models, but with a border that small prompts reach, and cross while answered."""
    for path in standin.model.iterdir():
        (tmp_path / path.name).symlink_to(path)
    config = json.loads((standin.model / "config.json").read_text())
    half = config["hidden_size"] // config["num_attention_heads"] // 2
    rope = config["rope_parameters"] | {
        "rope_type": "longrope",
        "short_factor": [1.0] * half,
        "long_factor": [8.0] * half,
        "original_max_position_embeddings": 40,
        "factor": 25.6,
    }
    (tmp_path / "config.json").unlink()
    written = config | {"rope_parameters": rope, "original_max_position_embeddings": 40}
    (tmp_path / "config.json").write_text(json.dumps(written))
    answerer = Answerer(tmp_path)
    text = [token for conversation in questions(12) for token in answerer.prompt(conversation)]
    prompts = [text[start : start + length] for start, length in enumerate((8, 20, 30, 30, 36, 39, 40, 41, 60, 90))]
    twelve = Generation(max_new_tokens=12)
    assert answerer.complete(prompts, twelve) == [answerer.complete([prompt], twelve)[0] for prompt in prompts]


@pytest.mark.slow
def test_the_packed_model(tuned: Tuned, tmp_path: Path) -> None:
    weights = [path for path in tuned.mlflow.rglob("*") if path.suffix in {".safetensors", ".bin", ".pkl", ".pt"}]
    assert [path.name for path in weights] == ["model.safetensors"]
    definition = (tuned.mlflow / "MLmodel").read_text()
    assert str(Path.home()) not in definition
    assert "/tmp" not in definition
    assert "model_code_path: chat_model.py" in definition
    requirements = (tuned.mlflow / "requirements.txt").read_text()
    assert "transformers==" in requirements
    assert "+" not in requirements
    program = f"""
import json, sys
import mlflow.pyfunc, numpy as np
assert "chat_completion" not in sys.modules
model = mlflow.pyfunc.load_model({str(tuned.mlflow)!r})
flat = [{{"role": "user", "content": "Hi."}}]
parameters = {{"max_new_tokens": 8}}
one = model.predict({{"input_string": flat, "parameters": parameters}})
array = model.predict({{"input_string": np.asarray(flat), "parameters": np.asarray(parameters)}})
many = model.predict({{"input_string": np.asarray([flat, flat]), "parameters": np.asarray(parameters)}}, params={{}})
print(json.dumps([one, array, many]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=child_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    one, array, many = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(one["output"], str)
    assert one == array
    assert set(one) == {"output", "usage", "finish_reason"}
    assert many == {name: [value] * 2 for name, value in one.items()}


def test_no_warning_is_given_while_answering(answerer: Answerer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for parameters in ({}, {"temperature": 0.5, "top_p": 0.5, "top_k": 5}, {"repetition_penalty": 1.2}):
            answerer.answer(questions(1), read_parameters({**parameters, "max_new_tokens": 2}))
