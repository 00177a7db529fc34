"""What a line that begins with a slash does to a chat."""

from __future__ import annotations

import difflib
import json
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from mlops.chat import store
from mlops.chat.conversation import Conversation, parameter
from mlops.core.errors import UsageError

HELP = {
    "/system TEXT": "set the system message; 'off' takes it away, no text shows it",
    "/params NAME=VALUE …": "set parameters; NAME= takes one away, none shows them",
    "/retry": "ask the last question again",
    "/save FILE": "write the chat: .md, .json, or .jsonl (a training row)",
    "/clear": "forget what was said, not system message and parameters",
    "/help": "this list",
    "/quit": "end, as Ctrl-D does",
}
KEYS = "Ctrl-C stops an answer · Alt-Enter begins a new line · // begins a line with a slash"
NAMES = [usage.partition(" ")[0] for usage in HELP]
OFF = "off"


@dataclass(frozen=True, kw_only=True)
class State:
    """A chat between two questions.

    Attributes:
        talk: what was said.
        open_question: the last question, where it has no answer.
    """

    talk: Conversation
    open_question: str | None = None


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What a line has brought about.

    Attributes:
        state: the chat afterwards.
        question: what is to be asked now.
        says: what is to be shown.
        ends: whether the chat is over.
    """

    state: State
    question: str | None = None
    says: str | None = None
    ends: bool = False


def is_command(line: str) -> bool:
    """Whether a line is a command and not a question."""
    return line.startswith("/") and not line.startswith("//")


def question_of(line: str) -> str:
    """The question in a line; two slashes at its beginning stand for one."""
    return line[1:] if line.startswith("//") else line


def run(line: str, state: State, *, endpoint: str) -> Effect:
    """Do what a command says.

    Raises:
        MlopsError: it cannot be done; the chat is as it was.
    """
    name, _, rest = line.strip().partition(" ")
    rest = rest.strip()
    if name == "/system":
        return _system(rest, state)
    if name == "/params":
        return _params(rest, state)
    if name == "/retry":
        return _retry(state)
    if name == "/save":
        return _save(rest, state, endpoint)
    if name == "/clear":
        return Effect(state=State(talk=replace(state.talk, turns=(), left_out=0)), says="forgotten")
    if name == "/help":
        width = max(map(len, HELP))
        return Effect(state=state, says="\n".join([*(f"{u:<{width}}  {what}" for u, what in HELP.items()), KEYS]))
    if name == "/quit":
        return Effect(state=state, ends=True)
    close = difflib.get_close_matches(name, NAMES, n=1)
    raise UsageError(f"'{name}' is no command", hint=f"did you mean {close[0]}?" if close else "/help lists them")


def _system(text: str, state: State) -> Effect:
    if not text:
        return Effect(state=state, says=state.talk.system or "there is no system message")
    system = None if text == OFF else text
    talk = replace(state.talk, system=system)
    if system is not None:
        talk.checked(system)
    changed = replace(state, talk=talk)
    return Effect(state=changed, says="the system message is set" if system else "the system message is taken away")


def _params(text: str, state: State) -> Effect:
    talk = state.talk
    if text:
        try:
            given = dict(parameter(item) for item in shlex.split(text))
        except ValueError as error:
            raise UsageError(f"'{text}' cannot be read: {error}") from None
        talk = talk.with_parameters(given)
    listing = "  ".join(f"{name}={json.dumps(value)}" for name, value in talk.parameters.items())
    return Effect(state=replace(state, talk=talk), says=listing or "none: the model's own hold")


def _retry(state: State) -> Effect:
    if state.open_question is not None:
        return Effect(state=state, question=state.open_question)
    if not state.talk.turns:
        raise UsageError("there is no question to ask again")
    question = state.talk.turns[-1].question
    return Effect(state=State(talk=state.talk.without_last()), question=question)


def _save(text: str, state: State, endpoint: str) -> Effect:
    if not text:
        raise UsageError("/save needs the name of a file", hint="/save chat.md")
    return Effect(state=state, says=store.save(state.talk, Path(text).expanduser(), endpoint=endpoint))
