from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.chat import Conversation, Turn, store, usage
from mlops.chat.commands import State, is_command, question_of, run
from mlops.chat.context_window import ContextWindow, fitting, is_refusal, refused
from mlops.chat.conversation import parameter, whole
from mlops.chat.store import Chats
from mlops.chat.terminal import harmless
from mlops.core.errors import DataInvalid, MlopsError, PreconditionError, UsageError
from mlops.data.payload import check_text
from mlops.data.validation import validate
from mlops.scoring.client import Answer

TALK = Conversation(system="brief", turns=(Turn(question="a", answer="b"), Turn(question="c", answer="d")))
text = st.text(min_size=1, max_size=80)


def test_the_request_is_the_contract() -> None:
    payload = TALK.payload("e")
    assert check_text(json.dumps(payload).encode(), name="it")[1] == ()
    assert [message["content"] for message in payload["input_data"]["input_string"]] == [
        "brief",
        "a",
        "b",
        "c",
        "d",
        "e",
    ]
    assert [m["content"] for m in replace(TALK, left_out=1).messages("e")] == ["brief", "c", "d", "e"]


@given(st.lists(st.tuples(text, text), max_size=8), text, st.integers(10, 2000), st.floats(0.05, 3))
def test_what_is_left_out_is_as_little_as_fits(
    turns: list[tuple[str, str]], question: str, context: int, ratio: float
) -> None:
    talk = Conversation(turns=tuple(Turn(question=earlier, answer=answer) for earlier, answer in turns))
    window = ContextWindow(context, ratio)
    selection = fitting(talk, question, window)

    def fits(left_out: int) -> bool:
        free = min(200, context // 4)
        return replace(talk, left_out=left_out).characters(question) * ratio <= (context - free) * 0.95

    assert 0 <= selection.left_out <= len(turns)
    assert not any(fits(fewer) for fewer in range(selection.left_out))
    assert fits(selection.left_out) or selection.left_out == len(turns)
    assert fitting(selection, question, window).left_out == selection.left_out


@pytest.mark.parametrize(
    ("error", "window"),
    [
        ("HTTP 424: conversation 0 has 90 tokens; the model's context of 64 leaves no room", (64, 10.0)),
        ("This model's maximum context length is 64 tokens. However, your messages are 90 tokens.", (64, 10.0)),
        ("HTTP 424: out of memory", None),
        (None, None),
    ],
)
def test_a_refusal_tells_the_context(error: str | None, window: tuple[int, float] | None) -> None:
    actual = refused(error, Conversation(), "123456789")
    assert (actual and (actual.context, actual.per_character)) == window


def test_only_a_refusal_is_one() -> None:
    assert is_refusal(424, "HTTP 424: the context is full")
    assert not is_refusal(200, "the context is full")
    assert not is_refusal(424, "HTTP 424: boom")
    assert not is_refusal(424, None)


@pytest.mark.parametrize(
    ("given_", "value"),
    [("temperature=0.2", 0.2), ("do_sample=true", True), ('stop=["x"]', ["x"]), ("stop=x", "x"), ("top_p=", None)],
)
def test_a_parameters_value(given_: str, value: Any) -> None:
    assert parameter(given_)[1] == value


def test_one_of_the_names_of_one_parameter() -> None:
    assert Conversation().with_parameters({"max_tokens": 5}).parameters["max_tokens"] == 5
    assert "max_new_tokens" not in Conversation().with_parameters({"max_tokens": 5}).parameters


@pytest.mark.parametrize("wrong", [{"temprature": 1}, {"top_p": 2}, {"max_new_tokens": "many"}, {"stop": "x"}])
def test_parameters_that_no_server_takes_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Conversation().with_parameters(wrong)


@pytest.mark.parametrize("question", ["", " \n", "x" * 1_000_001])
def test_questions_that_no_server_takes_are_refused(question: str) -> None:
    with pytest.raises(DataInvalid, match="the question"):
        Conversation().checked(question)


@pytest.mark.parametrize("line", ["/nonsense", "/save", "/retry", "/params x", "/params temperature='", "/save a.doc"])
def test_a_command_that_cannot_be_done_changes_nothing(line: str) -> None:
    state = State(talk=Conversation())
    with pytest.raises(MlopsError):
        run(line, state, endpoint="e")
    assert state == State(talk=Conversation())


def test_retry_asks_what_is_open_and_else_the_last_question_without_its_answer() -> None:
    assert run("/retry", State(talk=TALK, open_question="x"), endpoint="e").question == "x"
    effect = run("/retry", State(talk=TALK), endpoint="e")
    assert (effect.question, len(effect.state.talk.turns)) == ("c", 1)
    assert run("/system off", State(talk=TALK), endpoint="e").state.talk.system is None
    assert run("/system", State(talk=TALK), endpoint="e").says == "brief"
    assert run("/clear", State(talk=TALK), endpoint="e").state.talk == replace(TALK, turns=())


def test_two_slashes_are_no_command() -> None:
    assert (is_command("/help"), is_command("//help"), question_of("//help")) == (True, False, "/help")


def test_chats_come_back_as_they_were(tmp_path: Path) -> None:
    chats = Chats(tmp_path / ".mlops")
    talk = replace(TALK, left_out=1, parameters={"temperature": 0})
    with pytest.raises(UsageError, match="no chat 'last'"):
        chats.load("last")
    chats.keep("one", talk, endpoint="e")
    assert chats.load("last") == ("one", talk)
    (chats.folder / "two.json").write_text("{}")
    with pytest.raises(DataInvalid, match="is no chat"):
        chats.load("two")
    with pytest.raises(UsageError, match="no chat"):
        chats.load("../one")
    assert chats.new_name() not in chats.names()


def test_a_saved_row_is_a_row_of_training_data(tmp_path: Path) -> None:
    file = tmp_path / "train_sft.jsonl"
    store.save(TALK, file, endpoint="e")
    store.save(TALK.answered(Turn(question="e", answer="f")), file, endpoint="e")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [len(row["messages"]) for row in rows] == [5, 7]
    assert rows[1]["messages"][-1] == {"role": "assistant", "content": "f"}
    assert validate([file]).violations == ()
    with pytest.raises(PreconditionError, match="nothing to save"):
        store.save(Conversation(), tmp_path / "x.md", endpoint="e")
    with pytest.raises(UsageError, match="cannot be written"):
        store.save(TALK, tmp_path / "none" / "x.md", endpoint="e")


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (
            Answer(status=200, latency_ms=412.4, slot="blue", completion_tokens=38),
            "blue · 412 ms · 38 tokens · 92 tokens/s",
        ),
        (Answer(status=200, latency_ms=12_340, completion_tokens=1), "12.3 s · 1 token · 0.1 tokens/s"),
        (Answer(status=200, latency_ms=5, slot="b", first_ms=2), "b · 5 ms · first word after 2 ms"),
    ],
)
def test_the_line_below_an_answer(answer: Answer, line: str) -> None:
    assert usage.line(answer) == line


def test_halves_of_characters_are_joined_or_replaced() -> None:
    assert whole("a\ud83d\ude00b\ud83d") == "a😀b\ufffd"
    with pytest.raises(DataInvalid, match="not UTF-8"):
        Conversation().checked("\ud83d")


def test_what_could_drive_a_terminal_is_made_visible() -> None:
    assert harmless("\ud83d") == "\\xd83d"
    assert harmless("a\x1b[2J\tb\n\x07\x9b\r") == "a\\x1b[2J\tb\n\\x07\\x9b\\x0d"
