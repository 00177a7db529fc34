"""Tokens that are made once: found again by what decides them, in the step's own output or in a folder of results.

The output is looked at first: a step that a cluster starts again after it had finished has nothing to do. The folder
is kept only where the environment variable `CHAT_TOKENS_CACHE` names one, a disk that outlives the job.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from chat_completion.common.model_folder import read_json

CACHE_VARIABLE = "CHAT_TOKENS_CACHE"

MAX_ENTRIES = 4
"""Results that the folder holds at most; the one that was used longest ago goes first."""

SOURCES = ("preprocess.py", "data/chats.py", "data/template.py", "data/tokenising.py", "data/tokens.py")
"""This package's files that decide what the tokens are."""

MODEL_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")

REPORT = "report.json"
"""Written last into an output: the tokens beside it are whole, and of the key that it names."""


def content_key(model: Path, files: Mapping[str, Path], *, limit: int) -> str:
    """A name for the tokens of these chats: a hash of all that decides them.

    Args:
        model: folder of the tokenizer and the chat template.
        files: the chats, by split.
        limit: longest sequence, in tokens.
    """
    import tokenizers

    inputs: dict[str, Any] = {"limit": limit, "tokenizers": tokenizers.__version__}
    # A row is named by its file in messages alone, so a file's name decides nothing.
    named = {f"chats {split}": path for split, path in files.items()}
    named |= {f"model {name}": model / name for name in MODEL_FILES}
    named = {name: path for name, path in named.items() if path.is_file()}
    named |= {f"source {name}": Path(__file__).parents[1] / name for name in SOURCES}
    for name, path in named.items():
        with path.open("rb") as file:
            inputs[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


class TokenCache:
    """The results of one key."""

    def __init__(self, folder: str | None, key: str) -> None:
        """Nothing is looked up yet.

        Args:
            folder: where results are kept for other jobs, if anywhere.
            key: `content_key` of what is wanted.
        """
        self._key = key
        self._folder = Path(folder) if folder else None

    def fetch(self, output: Path, names: Iterable[str]) -> dict[str, Any] | None:
        """Puts the kept files into `output`.

        Returns:
            The report that was written when they were made, or None when there are none: then `output` has none
            either.
        """
        report, files = output / REPORT, list(names)
        if self._is_of_key(report) and all((output / name).is_file() for name in files):
            print("the output holds these tokens already", flush=True)
            return read_json(report)
        report.unlink(missing_ok=True)
        if self._folder is None or not self._is_of_key(self._folder / self._key / REPORT):
            return None
        entry = self._folder / self._key
        os.utime(entry)
        for name in files:
            link_or_copy(entry / name, output / name)
        print(f"taken from '{entry}'", flush=True)
        return read_json(entry / REPORT)

    def _is_of_key(self, report: Path) -> bool:
        try:
            return report.is_file() and read_json(report).get("content") == self._key
        except ValueError:
            return False

    def keep(self, output: Path, names: Iterable[str]) -> None:
        """Remembers what was just made, its report included.

        A folder that cannot be written to is told, and fails nothing.
        """
        if self._folder is None:
            return
        temporary = self._folder / f".{self._key}.{os.getpid()}"
        try:
            temporary.mkdir(parents=True)
            for name in (*names, REPORT):
                link_or_copy(output / name, temporary / name)
            # Another process may have been faster; both have the same files.
            if not (self._folder / self._key).exists():
                temporary.rename(self._folder / self._key)
            for old in sorted(self._folder.glob("[0-9a-f]*"), key=lambda path: -path.stat().st_mtime)[MAX_ENTRIES:]:
                shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            print(f"note: the tokens are not kept in '{self._folder}': {error}", flush=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """One file under two names where the disk can do that, two files elsewhere; `target` appears whole or not."""
    temporary = target.with_name(f".{target.name}.part")
    temporary.unlink(missing_ok=True)
    try:
        temporary.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, temporary)
    temporary.rename(target)
    temporary.unlink(missing_ok=True)  # renaming does nothing where both are one file already
