"""The chat in a terminal: reads a line, asks, shows the answer while it comes, and what it cost."""

from __future__ import annotations

import sys
import unicodedata
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mlops.chat import commands, usage
from mlops.chat.ask import Asked, Asker
from mlops.chat.commands import State
from mlops.chat.store import Chats
from mlops.core.errors import MlopsError

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from rich.console import Console as RichConsole

PROMPT = "› "


def harmless(text: str) -> str:
    """A model's words for a terminal: control characters, which could move its cursor or rename it, become visible."""
    return "".join(
        char if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cs") else f"\\x{ord(char):02x}"
        for char in text
    )


@dataclass
class Terminal:
    """One chat in a terminal.

    Attributes:
        asker: the line to the endpoint.
        chats: where the chat is kept.
        name: the chat's own.
        endpoint: the endpoint's name, for what is kept.
        logs: the command that shows the server's log.
        state: the chat so far.
    """

    asker: Asker
    chats: Chats
    name: str
    endpoint: str
    logs: str
    state: State
    console: RichConsole
    _midline: bool = field(default=False, init=False)

    def run(self) -> None:
        """Go on until the user ends it."""
        session = self._session()
        while True:
            try:
                line = session.prompt(PROMPT)
            except KeyboardInterrupt:  # what was typed is thrown away, as in a shell
                continue
            except EOFError:
                return
            if line.strip() and not self.take(line):
                return

    def take(self, line: str) -> bool:
        """Do what a line asks for; False where it ends the chat."""
        try:
            if not commands.is_command(line):
                self.ask(self.state.talk.checked(commands.question_of(line)))
                return True
            effect = commands.run(line, self.state, endpoint=self.endpoint)
        except MlopsError as error:
            self._failure(error.message, error.hint)
            return True
        self.state = effect.state
        if effect.says:
            self._dim(effect.says)
        if effect.question is not None:
            self.ask(effect.question)
        return not effect.ends

    def ask(self, question: str) -> None:
        """Ask and show; the question stays open where no answer comes."""
        self.state = replace(self.state, open_question=question)
        try:
            outcome = self._answer(question)
        except KeyboardInterrupt:
            self._end_line()
            self._dim("stopped; /retry asks again")
            return
        self._end_line()
        if not outcome.answer.ok:
            self._failure(f"no answer: {outcome.answer.error}", self._advice(outcome))
            return
        self.state = State(talk=outcome.conversation)
        if outcome.newly_left_out:
            out = outcome.conversation.left_out
            turns = "oldest turn is" if out == 1 else f"{out} oldest turns are"
            self._dim(f"the {turns} no longer sent: the model's context is full")
        self._dim(usage.line(outcome.answer) + "\n")
        try:
            self.chats.keep(self.name, self.state.talk, endpoint=self.endpoint)
        except OSError as error:
            self._failure(f"the chat cannot be kept in '{self.chats.folder}': {error.strerror}", None)

    def _answer(self, question: str) -> Asked:
        """The answer, shown as it comes or, where the server does not stream, whole."""
        waiting = self.console.status("[dim]…[/dim]", spinner="dots")
        chunks: list[str] = []

        def on_chunk(text: str) -> None:
            if not chunks:
                waiting.stop()
            chunks.append(text)
            self._write(text)

        with waiting:
            outcome = self.asker.ask(self.state.talk, question, on_chunk=on_chunk)
        if outcome.answer.ok and not chunks:
            self._write(outcome.answer.texts[0])
        return outcome

    def _advice(self, outcome: Asked) -> str:
        from mlops.chat.context_window import is_refusal

        if is_refusal(outcome.answer.status, outcome.answer.error):
            return "the question alone is too long: shorten it, or take the system message away (/system off)"
        if outcome.answer.status == 401:
            return f"the endpoint's key has changed: end this chat and go on with --resume {self.name}"
        return f"/retry asks again; {self.logs} shows the server's own words"

    def _session(self) -> PromptSession[str]:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.history import FileHistory
        from prompt_toolkit.key_binding import KeyBindings

        keys = KeyBindings()

        @keys.add("escape", "enter")
        def _new_line(event: Any) -> None:
            event.current_buffer.insert_text("\n")

        return PromptSession(
            history=FileHistory(str(self.chats.history)),
            completer=WordCompleter(commands.NAMES, sentence=True),
            complete_while_typing=False,
            key_bindings=keys,
        )

    def _write(self, text: str) -> None:
        printable = harmless(text)
        sys.stdout.write(printable)
        sys.stdout.flush()
        if printable:
            self._midline = not printable.endswith("\n")

    def _end_line(self) -> None:
        if self._midline:
            sys.stdout.write("\n")
            self._midline = False
        sys.stdout.flush()

    def _dim(self, text: str) -> None:
        self._say(text, "dim")

    def _failure(self, message: str, hint: str | None) -> None:
        self._say(f"✕ {message}", "red")
        if hint:
            self._say(f"→ {hint}", "dim")

    def _say(self, text: str, style: str) -> None:
        self.console.print(harmless(text), style=style, markup=False, highlight=False, soft_wrap=True)
