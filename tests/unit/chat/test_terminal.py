"""`mlops chat` as it is used: in a terminal, against an endpoint of a local workspace over real HTTPS."""

from __future__ import annotations

import io
import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from mlops.cli import main
from tests.support.waiting import until
from tests.unit.chat.conftest import NAME, Chatting
from tests.unit.chat.pseudo_terminal import ALT_ENTER, CTRL_C, CTRL_D, PseudoTerminal

pytestmark = [pytest.mark.slow]
Open = Callable[..., PseudoTerminal]


def test_a_chat_of_several_turns_and_what_is_kept_of_it(chat: Open, endpoint_home: Path) -> None:
    open_ = chat()
    assert f"{NAME} (local) · blue 100 %, version 7" in open_.text
    open_.say("hello")
    open_.expect("you said 'hello'\n")
    open_.expect(r"blue · \d+ ms · 16 tokens · \d+ tokens/s\n")
    open_.say("messages")
    open_.expect('\\[\\["user", "hello"\\], \\["assistant", "you said \'hello\'"\\]\\]')
    open_.expect("tokens/s")
    open_.expect("›")
    open_.type("two" + ALT_ENTER + "lines\r")
    open_.expect(r"you said 'two\\nlines'")
    open_.expect("›")
    open_.type(CTRL_D)
    name = open_.expect(r"--resume (\S+)\n")[1]
    assert open_.ended() == 0

    folder = endpoint_home / "chats"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for file in (folder / "typed", folder / f"{name}.json"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "+messages" in (folder / "typed").read_text()
    again = chat("--resume", name)
    assert f"going on with {name}: 3 turns so far" in again.text
    again.say("/retry")
    again.expect(r"you said 'two\\nlines'")
    again.say("/quit")
    assert again.ended() == 0
    assert len(json.loads((folder / f"{name}.json").read_text())["turns"]) == 3


def test_an_answer_is_shown_while_it_is_written(chat: Open, endpoint_home: Path) -> None:
    open_ = chat()
    open_.say("tell held")
    open_.expect("word0 ")
    assert "word1" not in open_.text
    (endpoint_home / "go").touch()
    open_.expect("word1 word2 word3")
    usage = open_.expect(r"blue · (\d+) ms · first word after (\d+) ms · 4 tokens · [\d.]+ tokens/s")
    assert int(usage[1]) > int(usage[2])
    open_.say("messages")
    open_.expect("word0 word1 word2 word3")


@pytest.mark.parametrize("question", ["slow", "tell long"])
def test_ctrl_c_stops_an_answer_and_the_chat_goes_on(chat: Open, endpoint_home: Path, question: str) -> None:
    open_ = chat()
    open_.say("first")
    open_.expect("you said 'first'")
    open_.expect("›")
    open_.say(question)
    if question == "slow":
        until((endpoint_home / "asked").exists, what="the question's arrival")
    else:
        open_.expect("word1 ")
    open_.type(CTRL_C)
    open_.expect("stopped; /retry asks again")  # while the server goes on for days
    open_.say("messages")
    open_.expect('\\[\\["user", "first"\\], \\["assistant", "you said \'first\'"\\]\\]\n')
    open_.expect("›")
    open_.type("never sent" + CTRL_C)  # at the prompt it throws away what was typed
    open_.say("still here")
    open_.expect("you said 'still here'")


def test_an_answer_that_fails_can_be_asked_for_again(chat: Open) -> None:
    open_ = chat()
    open_.say("fail")
    open_.expect("✕ no answer: HTTP 424")
    open_.expect("/retry asks again; mlops endpoint logs")
    open_.say("/retry")
    open_.expect("✕ no answer: HTTP 424")
    open_.say("tell half")
    open_.expect("half an\n")
    open_.expect("✕ no answer: the answer broke off")
    open_.say("messages")
    open_.expect(r"\[\]\n")  # nothing of what failed was kept


def test_what_does_not_fit_is_left_out_and_said(chat: Open) -> None:
    open_ = chat("--system", "brief")
    for number in range(3):
        open_.say(f"{number}" * 60)
        open_.expect("tokens/s")
    open_.expect("›")
    open_.say("4" * 60)
    open_.expect("no longer sent: the model's context is full")
    open_.expect("tokens/s")
    open_.say("messages")
    output = open_.expect(r"\[\[.system., .brief.\],.*\]\]\n")[0]
    assert "000" not in output
    assert "444" in output
    open_.say("9" * 400)
    open_.expect("✕ no answer: HTTP 424: conversation 0 has")
    open_.expect("the question alone is too long")


def test_the_commands(chat: Open, tmp_path: Path) -> None:
    open_ = chat("--slot", "green", "--parameter", "temperature=0.1", "--max-new-tokens", "5")
    open_.say("who")
    open_.expect("green\n")
    open_.say("parameters")
    open_.expect('{"do_sample": true, "max_new_tokens": 5, "temperature": 0.1, "top_p": 0.9}')
    open_.say("/params temperature=9")
    open_.expect("✕ temperature is 9; must be from 0 to 2")
    open_.say("/params temperature=0 top_p= seed=3")
    open_.expect("do_sample=true  max_new_tokens=5  temperature=0  seed=3\n")
    open_.say("/system Answer briefly.")
    open_.expect("the system message is set")
    open_.say("messages")
    open_.expect('\\[\\["system", "Answer briefly."\\]')
    open_.say("/sav x")
    open_.expect("'/sav' is no command")
    open_.expect("did you mean /save")
    open_.say("/help")
    open_.expect("/params NAME=VALUE")
    open_.say("//help")
    open_.expect("you said '/help'")
    for ending in ("md", "json", "jsonl"):
        open_.say(f"/save {tmp_path}/chat.{ending}")
        open_.expect("turns (written|appended) to")
    open_.say(f"/save {tmp_path}/chat.md")
    open_.expect("exists already")
    open_.say("/clear")
    open_.expect("forgotten")
    open_.say("messages")
    open_.expect('\\[\\["system", "Answer briefly."\\]\\]\n')
    open_.say("cut")
    open_.expect("cut off: /params max_new_tokens=")
    open_.say("/quit")
    assert open_.ended() == 0
    assert "you said '/help'" in (tmp_path / "chat.md").read_text()
    row = json.loads((tmp_path / "chat.jsonl").read_text())
    assert [message["role"] for message in row["messages"][:3]] == ["system", "user", "assistant"]


def test_a_models_words_do_not_drive_the_terminal(chat: Open) -> None:
    open_ = chat()
    open_.say("escape")
    open_.expect(r"\\x1b\]0;renamed\\x07 and \[red\]brackets\[/red\]\n")


def test_one_piped_question_gets_one_answer(chatting: Chatting) -> None:
    done = chatting.piped("hello\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "you said 'hello'\n", "")
    done = chatting.piped("who", "--json", "--deployment", "green")
    document = json.loads(done.stdout)
    assert (document["answer"], document["slot"], document["completion_tokens"], document["finish_reason"]) == (
        "green",
        "green",
        5,
        "stop",
    )
    assert document["tokens_per_s"] > 0


@pytest.mark.parametrize(
    ("question", "arguments", "code", "says"),
    [
        ("fail", [], 8, "did not answer: HTTP 424"),
        (" \n", [], 4, "the question is empty"),
        ("x", ["--slot", "red"], 3, "has no slot 'red'"),
        ("x", ["--endpoint", "nowhere"], 3, "there is no endpoint 'nowhere'"),
        ("x", ["--parameter", "temprature=1"], 2, "did you mean 'temperature'"),
        ("x", ["--parameter", "temperature"], 2, "'temperature' is no parameter"),
        ("x", ["--resume", "yesterday"], 2, "there is no chat 'yesterday'"),
    ],
)
def test_what_cannot_be_done_is_said_and_has_its_exit_code(
    endpoint_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    question: str,
    arguments: list[str],
    code: int,
    says: str,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(question))
    assert main(["chat", "--endpoint", NAME, *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert says in captured.err


def test_a_terminal_without_a_pipe_cannot_be_json(chatting: Chatting) -> None:
    open_ = chatting.open("--json")
    open_.expect("a chat needs a terminal")
    assert open_.ended() == 2
