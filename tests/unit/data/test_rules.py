"""The rules, row by row: each is broken once, and a good row comes out in one form whatever it looked like."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.data.rules import BUCKETS, RULES, Checker, RowInvalid


def line(row: Any, **how: Any) -> bytes:
    return json.dumps(row, **how).encode() + b"\n"


def reason(raw: bytes, split: str = "train_sft") -> tuple[str, str]:
    with pytest.raises(RowInvalid) as caught:
        Checker().check(split, raw)
    assert caught.value.rule in RULES
    return caught.value.rule, caught.value.reason


def test_a_good_row_is_written_with_these_columns_in_this_order(chat: Any) -> None:
    row = chat(extra=1, source="web")
    row["messages"][0]["name"] = "someone"
    written = Checker().check("train_sft", line({"messages": row.pop("messages"), **row}))
    assert written.endswith(b'"}]}')
    assert list(json.loads(written)) == ["prompt", "prompt_id", "messages"]
    assert list(json.loads(written)["messages"][0]) == ["content", "role"]


@pytest.mark.parametrize(
    ("raw", "rule"),
    [
        (b"{]\n", "json"),
        (b"nonsense\n", "json"),
        (b'{"prompt": "a"} {}\n', "schema"),
        (b'{"prompt": "a\\ud800", "prompt_id": "i", "messages": []}\n', "json"),
        (b'{"prompt": "\xff", "prompt_id": "i", "messages": []}\n', "encoding"),
        (b"[1]\n", "schema"),
        (b'"text"\n', "schema"),
        (b"null\n", "schema"),
        (b"[" * 5000 + b"\n", "schema"),
    ],
)
def test_what_is_no_row(raw: bytes, rule: str) -> None:
    assert reason(raw)[0] in (rule, "json")


@pytest.mark.parametrize("column", ["prompt", "prompt_id", "messages"])
@pytest.mark.parametrize("value", ["absent", None, 5, ["a"], {"a": 1}])
def test_a_column_that_is_missing_or_of_another_type(chat: Any, column: Any, value: Any) -> None:
    row = chat()
    if value == "absent":
        del row[column]
    else:
        row[column] = value
    rule, why = reason(line(row))
    assert rule == "schema"
    assert column in why


ODD_MESSAGES: list[Any] = [None, "text", {}, {"role": "user"}, {"content": "a"}, {"role": 1, "content": "a"}]
ODD_MESSAGES += [{"role": "user", "content": None}, {"role": "user", "content": ["a"]}]


@pytest.mark.parametrize("message", ODD_MESSAGES)
def test_a_message_of_another_type(chat: Any, message: Any) -> None:
    row = chat()
    row["messages"][0] = message
    rule, why = reason(line(row))
    assert rule == "schema"
    assert "messages[0]" in why


@pytest.mark.parametrize(
    "roles",
    [
        [],
        ["user"],
        ["system"],
        ["assistant", "user"],
        ["user", "user"],
        ["user", "assistant", "assistant"],
        ["user", "assistant", "user"],
        ["user", "system", "assistant"],
        ["system", "system", "user", "assistant"],
        ["system", "assistant"],
        ["user", "tool"],
        ["User", "assistant"],
    ],
)
def test_roles(chat: Any, roles: Any) -> None:
    row = chat(messages=[{"role": role, "content": "q"} for role in roles], prompt="q")
    assert reason(line(row))[0] == "roles"


def test_a_gen_split_may_end_with_the_user(chat: Any) -> None:
    asks = line(chat("only a question"))
    assert Checker().check("test_gen", asks)
    assert Checker().check("train_gen", line(chat("q", "a", "q again")))
    assert reason(asks, "test_sft")[0] == "roles"


@pytest.mark.parametrize("content", ["", " ", "\n\t", "\u2003", "\u00a0 "])
def test_empty_contents(chat: Any, content: Any) -> None:
    assert reason(line(chat("q", content)))[0] == "empty_content"
    assert reason(line(chat(content, "a")))[0] == "empty_content"
    assert reason(line(chat(system=content)))[0] == "empty_content"


def test_the_prompt_is_the_first_user_message(chat: Any) -> None:
    assert reason(line(chat("q", "a", prompt="another")))[0] == "prompt"
    assert Checker().check("train", line(chat("q", "a", system="be kind")))
    assert Checker().check("train", line(chat("q ", "a", prompt="q")))


def test_a_prompt_id_may_stand_in_two_splits_but_not_twice_in_one(chat: Any) -> None:
    checker = Checker()
    checker.check("train_sft", line(chat("q", "a")))
    checker.check("train_gen", line(chat("q")))
    with pytest.raises(RowInvalid) as caught:
        checker.check("train_sft", line(chat("q", "b")))
    assert caught.value.rule == "duplicate_id"


def test_a_conversation_in_train_and_test(chat: Any) -> None:
    checker = Checker()
    checker.check("train_sft", line(chat("é", "a")))
    checker.check("train_gen", line(chat("é", "a", prompt_id="other")))
    with pytest.raises(RowInvalid) as caught:
        # Escaped otherwise, named otherwise: the same conversation.
        checker.check("test_sft", line(chat("é", "a", prompt_id="third"), ensure_ascii=False))
    assert caught.value.rule == "leak"


def test_missing_columns_are_derived_on_request(chat: Any) -> None:
    row = chat("q", "a", system="s")
    bare = line({"messages": row["messages"], "prompt": None})
    assert json.loads(Checker(derive=True).check("train", bare)) == row
    assert "--derive" in reason(bare)[1]


def test_characters_that_readers_take_for_a_line_end_are_escaped(chat: Any) -> None:
    row = chat("a\u2028b\u2029c\x85d", "é")
    written = Checker().check("train", line(row, ensure_ascii=False))
    assert len(written.decode().splitlines()) == 1
    assert json.loads(written) == row


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(lambda text: text.strip())


@given(texts, st.lists(texts, min_size=1, max_size=4), st.none() | texts, st.booleans(), st.sampled_from([None, 1]))
def test_whatever_is_good_comes_back_equal_and_in_one_form(
    prompt: str, rest: list[str], system: str | None, escaped: bool, indent: int | None
) -> None:
    rest = rest if len(rest) % 2 else rest[:-1] + ["x", "y"][: len(rest) % 2 + 1]
    turns = [prompt, *rest]
    messages = [{"content": text, "role": ("user", "assistant")[index % 2]} for index, text in enumerate(turns)]
    if system is not None:
        messages.insert(0, {"content": system, "role": "system"})
    row = {"prompt": prompt, "prompt_id": "id", "messages": messages}
    raw = json.dumps(row, ensure_ascii=escaped, indent=indent).encode()
    written = Checker().check("train_gen", raw)
    assert json.loads(written) == row
    assert len(written.decode().splitlines()) == 1
    # Written anew, and written by the careful way alone: the same bytes.
    assert Checker().check("train_gen", written) == written
    assert Checker(derive=True).check("train_gen", raw) == written


keys = st.sampled_from(["prompt", "prompt_id", "messages", "role", "content", "x"])
leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4))


@given(values)
def test_no_json_value_is_more_than_a_broken_rule(value: Any) -> None:
    assert reason(line(value))[0] in RULES


@given(st.binary(max_size=60))
def test_no_bytes_are_more_than_a_broken_rule(raw: bytes) -> None:
    with pytest.raises(RowInvalid):
        Checker().check("train", raw)


def test_lengths_are_counted_in_bytes_of_the_written_row(chat: Any) -> None:
    checker = Checker()
    small = checker.check("train", line(chat("q", "a")))
    big = checker.check("train", line(chat("q" * 300_000, "a")))
    counts = dict(zip((*BUCKETS, None), checker.lengths["train"], strict=True))
    assert counts[256] == 1, len(small)
    assert counts[None] == 1, len(big)
