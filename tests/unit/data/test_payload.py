"""Payloads: what is sent is what the schema allows, and what is wrong is named with its line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.core.errors import DataInvalid, UsageError
from mlops.data.payload import PARAMETERS, check_text, dotted, positions, read, sample
from tests.support.checkout import ROOT

PAYLOADS = sorted((ROOT / "data/payloads").glob("*.json"))
ASK = [{"role": "user", "content": "Which colour?"}]


def payload(messages: Any = None, **parameters: Any) -> dict[str, Any]:
    return {"input_data": {"input_string": ASK if messages is None else messages, "parameters": parameters}}


def problems(value: Any) -> list[str]:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return [f"{each.field} {each.message}".strip() for each in check_text(raw, name="p.json")[1]]


def run(*arguments: object, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mlops", "payload", *map(str, arguments)]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "MLOPS_SETTINGS": str(ROOT / "mlops.yaml")}
    return subprocess.run(command, cwd=cwd, env={**variables, **environment}, capture_output=True, text=True)


@pytest.mark.parametrize("path", PAYLOADS, ids=lambda path: path.stem)
def test_the_samples_are_valid(path: Path) -> None:
    assert read(path)["input_data"]["input_string"]


def test_there_are_samples_of_every_form() -> None:
    assert {path.stem for path in PAYLOADS} >= {"flat", "nested", "system"}


@pytest.mark.parametrize(
    "good",
    [
        payload(),
        payload([ASK]),
        payload([ASK, [*ASK, {"role": "assistant", "content": "Grey."}, *ASK]]),
        payload([{"role": "system", "content": "Be kind."}, *ASK]),
        payload(temperature=0, top_p=1, do_sample=False, max_new_tokens=4096),
        payload(max_tokens=1, repetition_penalty=1.2, seed=0, stop=["\n"], top_k=50),
        {"input_data": {"input_string": ASK}, "params": {}},
    ],
)
def test_what_is_allowed(good: Any) -> None:
    assert problems(good) == []


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({}, "has no 'input_data'"),
        ([], "is []; it must be an object"),
        ({"input_data": {}}, "input_data has no 'input_string'"),
        ({**payload(), "extra": 1}, "extra is not known; known are input_data, params"),
        (payload("hello"), 'input_data.input_string is "hello"; it must be a list'),
        (payload([]), "input_data.input_string is empty"),
        (payload([[]]), "input_data.input_string[0] is empty"),
        (payload([{"role": "user"}]), "input_data.input_string[0] has no 'content'"),
        (payload([{"role": "user", "content": ""}]), "input_data.input_string[0].content is empty"),
        (payload([{"role": "user", "content": 3}]), "input_data.input_string[0].content is 3; it must be a string"),
        (
            payload([{"role": "tool", "content": "a"}]),
            "[0].role is \"tool\"; allowed are 'system', 'user', 'assistant'",
        ),
        (payload([*ASK, {"role": "assistant", "content": "a"}]), '[1].role is "assistant"; the last message must'),
        (payload([ASK, [*ASK, *ASK, {"role": "system", "content": "a"}]]), "input_string[1][2].role"),
        (payload(temprature=1), "parameters.temprature is not known; did you mean 'temperature'?"),
        (payload(temperature=2.5), "input_data.parameters.temperature is 2.5; must be from 0 to 2"),
        (payload(top_p=0), "input_data.parameters.top_p is 0; must be from 1e-06 to 1"),
        (payload(top_p=True), "input_data.parameters.top_p is true; it must be a number"),
        (payload(max_new_tokens=0), "max_new_tokens is 0; must be a whole number from 1 to 4096"),
        (payload(max_new_tokens=1.5), "max_new_tokens is 1.5; it must be a whole number"),
        (payload(max_new_tokens=5, max_tokens=5), "max_new_tokens, max_tokens"),
        (payload(do_sample="yes"), 'do_sample is "yes"; it must be a boolean'),
        (payload(stop="\n"), "stop is"),
        (b"", "is empty"),
        (b"{", "is not JSON"),
        (b'{"input_data": NaN}', "NaN is no number"),
        (b'{"a": "\xff"}', "is not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_not_allowed(bad: Any, says: str) -> None:
    assert any(says in problem for problem in problems(bad)), problems(bad)


def test_a_key_that_stands_twice() -> None:
    assert problems(b'{"input_data": {"input_string": [{"role": "user", "role": "user", "content": "a"}]}}') == [
        "input_data.input_string[0].role stands there twice"
    ]


def test_a_problem_has_the_line_of_its_value(tmp_path: Path) -> None:
    value = payload([ASK, [*ASK, {"role": "robot", "content": 'a \n \\" ] } , b'}, *ASK]], top_p=7)
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(value, indent=2))
    lines = path.read_text().splitlines()
    with pytest.raises(DataInvalid) as caught:
        read(path)
    assert caught.value.location is not None
    assert caught.value.location.line is not None
    assert '"robot"' in lines[caught.value.location.line - 1]
    (second,) = caught.value.details
    assert '"top_p": 7' in lines[int(second.split(":")[1]) - 1]
    with pytest.raises(UsageError, match="cannot be read"):
        read(tmp_path / "nowhere.json")


keys = st.text(max_size=4)
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4))


def pointers(value: Any, pointer: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {pointer}.union(*(pointers(each, (*pointer, key)) for key, each in inner))


@given(values, st.sampled_from([None, 0, 2]))
def test_every_value_of_any_json_has_a_line(value: Any, indent: int | None) -> None:
    text = json.dumps(value, indent=indent)
    lines, twice = positions(text)
    assert set(lines) == pointers(value)
    assert not twice
    assert max(lines.values()) <= text.count("\n") + 1
    if indent is not None and isinstance(value, list):
        text_lines = text.split("\n")
        assert all(text_lines[lines[(index,)] - 1].strip() for index in range(len(value)))


@given(values)
def test_no_json_is_more_than_a_problem(value: Any) -> None:
    assert problems(value)


def test_pointers_are_shown_as_code_has_them() -> None:
    assert dotted(("input_data", "input_string", 0, 2, "role")) == "input_data.input_string[0][2].role"
    assert dotted(()) == ""


def test_a_sample_is_the_question_of_one_row() -> None:
    row = {"messages": [*ASK, {"role": "assistant", "content": "Grey."}]}
    asking = {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]}
    samples = [sample([row, asking], seed=seed) for seed in range(20)]
    assert samples == [sample([row, asking], seed=seed) for seed in range(20)]
    conversations = {json.dumps(each["input_data"]["input_string"]) for each in samples}
    assert conversations == {json.dumps([ASK]), json.dumps([asking["messages"]])}
    assert all(problems(each) == [] for each in samples)
    assert samples[0]["input_data"]["parameters"] == PARAMETERS
    assert samples[0]["params"] == {}
    with pytest.raises(DataInvalid):
        sample([{"messages": [{"role": "system", "content": "s"}]}], seed=1)


def test_build_writes_the_tutorials_file(tmp_path: Path) -> None:
    first = run("build", cwd=tmp_path, MLOPS_HOME=str(tmp_path / "home"))
    assert first.returncode == 0, first.stderr
    written = (tmp_path / "sample_score.json").read_bytes()
    document = json.loads(written)
    assert list(document) == ["input_data", "params"]
    assert document["input_data"]["parameters"] == {
        "temperature": 0.6,
        "top_p": 0.9,
        "do_sample": True,
        "max_new_tokens": 200,
    }
    (conversation,) = document["input_data"]["input_string"]
    assert conversation[-1]["role"] == "user"
    assert json.loads(first.stdout) == document
    assert run("build", cwd=tmp_path, MLOPS_HOME=str(tmp_path / "home")).returncode == 0
    assert (tmp_path / "sample_score.json").read_bytes() == written
    other = run("build", "--seed", "5", "--json", cwd=tmp_path, MLOPS_HOME=str(tmp_path / "home"))
    assert json.loads(other.stdout)["payload"] != document
    assert run("validate", tmp_path / "sample_score.json").returncode == 0
    assert run("build", "--split", "dev", cwd=tmp_path, MLOPS_HOME=str(tmp_path / "home")).returncode == 2


def test_validate_names_file_line_and_what_is_allowed(tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text('{"input_data": {"input_string": [{"role": "user", "content": "a"}],\n "parameters": {"top_p": 3}}}')
    done = run("validate", *PAYLOADS, bad)
    assert done.returncode == 4
    assert f"{bad}:2: input_data.parameters.top_p is 3; must be from 1e-06 to 1" in done.stdout
    assert done.stdout.count("✓") == len(PAYLOADS)
    as_json = run("validate", bad, "--json", GITHUB_ACTIONS="true")
    assert as_json.returncode == 4
    assert not json.loads(as_json.stdout)["valid"]
    assert f"::error file={bad},line=2::input_data.parameters.top_p is 3" in as_json.stderr
    assert run("validate", tmp_path / "nowhere.json").returncode == 2
