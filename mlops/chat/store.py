"""Chats on disk: each one kept under its name for this user's eyes alone, and written out in other forms on request."""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from mlops.chat.conversation import Conversation, Turn
from mlops.core.errors import DataInvalid, PreconditionError, UsageError

MAX_CHATS = 100
"""Chats; the oldest go first."""
NAME = re.compile(r"^[\w.-]{1,80}$")
LAST = "last"


class Chats:
    """The folder of chats below ``.mlops``."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "chats"

    @property
    def history(self) -> Path:
        """The file of what was typed; readable by its owner alone."""
        self._made()
        file = self.folder / "typed"
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600))
        return file

    def names(self) -> list[str]:
        """The chats there are, the newest first."""
        files = list(self.folder.glob("*.json"))
        return [file.stem for file in sorted(files, key=lambda file: (file.stat().st_mtime_ns, file.name))[::-1]]

    def has(self, name: str) -> bool:
        """Whether a chat was kept under this name."""
        return (self.folder / f"{name}.json").exists()

    def new_name(self) -> str:
        """A name that no chat has."""
        name = base = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
        number = 1
        while self.has(name):
            number += 1
            name = f"{base}-{number}"
        return name

    def load(self, name: str) -> tuple[str, Conversation]:
        """A chat and its whole name.

        Raises:
            UsageError: there is no such chat.
            DataInvalid: its file is none.
        """
        names = self.names()
        if name == LAST and names:
            name = names[0]
        if name not in names or not NAME.match(name):
            listing = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
            raise UsageError(f"there is no chat '{name}'", hint=f"there are: {listing or 'none yet'}")
        file = self.folder / f"{name}.json"
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
            talk = Conversation(
                system=document["system"],
                turns=tuple(Turn(**turn) for turn in document["turns"]),
                left_out=int(document["left_out"]),
            )
            return name, talk.with_parameters(dict.fromkeys(talk.parameters) | dict(document["parameters"]))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataInvalid(f"'{file}' is no chat: {error}", hint="delete it") from None

    def keep(self, name: str, talk: Conversation, *, endpoint: str) -> Path:
        """Write a chat under its name, whole or not at all."""
        self._made()
        file = self.folder / f"{name}.json"
        beside = file.with_suffix(f".{os.getpid()}")
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump({"endpoint": endpoint, **asdict(talk)}, stream, indent=1, ensure_ascii=False)
        beside.replace(file)
        for old in self.names()[MAX_CHATS:]:
            with contextlib.suppress(OSError):
                (self.folder / f"{old}.json").unlink()
        return file

    def _made(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)


def save(talk: Conversation, file: Path, *, endpoint: str) -> str:
    """Write a chat for people (``.md``), for machines (``.json``) or as a training row (``.jsonl``, appended).

    Returns:
        what was done, for people.

    Raises:
        UsageError: the file is there already, cannot be written, or has another ending.
        PreconditionError: nothing was said yet.
    """
    if not talk.turns:
        raise PreconditionError("there is nothing to save yet")
    kind = file.suffix.lower()
    if kind not in (".md", ".json", ".jsonl"):
        raise UsageError(f"'{file}' has no known ending", hint=".md for people, .json, or .jsonl for a training row")
    text = {".md": markdown, ".json": document, ".jsonl": row}[kind](talk, endpoint)
    try:
        with file.open("a" if kind == ".jsonl" else "x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise UsageError(f"'{file}' exists already", hint="choose another name") from None
    except OSError as error:
        raise UsageError(f"'{file}' cannot be written: {error.strerror}") from None
    turns = f"{len(talk.turns)} turn{'s' if len(talk.turns) != 1 else ''}"
    return f"{turns} appended to {file} as one row" if kind == ".jsonl" else f"{turns} written to {file}"


def markdown(talk: Conversation, endpoint: str) -> str:
    """A chat to be read."""
    paragraphs = [f"# A chat with {endpoint}", *([f"> system: {talk.system}"] if talk.system else [])]
    for turn in talk.turns:
        paragraphs += [f"**{turn.question}**", turn.answer, *([f"*{turn.slot}*"] if turn.slot else [])]
    return "\n\n".join(paragraphs) + "\n"


def document(talk: Conversation, endpoint: str) -> str:
    """A chat for machines."""
    return json.dumps({"endpoint": endpoint, **asdict(talk)}, indent=2, ensure_ascii=False) + "\n"


def row(talk: Conversation, _endpoint: str) -> str:
    """A chat as a line of a split file: prompt, messages, prompt_id."""
    import hashlib

    whole = Conversation(system=talk.system, turns=talk.turns[:-1]).messages(talk.turns[-1].question)
    messages: list[dict[str, Any]] = [*whole, {"role": "assistant", "content": talk.turns[-1].answer}]
    prompt = talk.turns[0].question
    chat_row = {
        "prompt": prompt,
        "messages": messages,
        "prompt_id": hashlib.sha256(json.dumps(messages).encode()).hexdigest(),
    }
    return json.dumps(chat_row, ensure_ascii=False) + "\n"
