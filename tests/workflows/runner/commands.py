"""Workflow commands in a step's log, and the files through which a step speaks."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from tests.workflows.runner.files import Unknown
from tests.workflows.runner.record import Annotation

COMMAND = re.compile(r"^\s*::([A-Za-z-]+)(?: (.*?))?::(.*)$")
LEVELS = ("error", "warning", "notice")
QUIET = ("group", "endgroup", "debug", "add-matcher", "remove-matcher", "echo")
HIDDEN = "***"


@dataclass
class Log:
    """Reads a job's output line by line; masks hold for the whole job.

    Attributes:
        copy: where the whole job's output is kept as it comes, for looking at a run that hangs.
    """

    copy: Path | None = None
    masks: set[str] = field(default_factory=set)
    lines: list[str] = field(default_factory=list)
    annotations: list[Annotation] = field(default_factory=list)
    _stopped: str | None = None

    def reset(self) -> None:
        """A new step's log."""
        self.lines, self.annotations, self._stopped = [], [], None

    def mask(self, secret: str) -> None:
        """Hide a text from here on; GitHub hides each line of it by itself."""
        self.masks |= {line for line in secret.splitlines() if line.strip()}

    def feed(self, line: str) -> None:
        """One line of output."""
        line = line.rstrip("\r\n")
        if self._stopped is not None:
            if line.strip() == f"::{self._stopped}::":
                self._stopped = None
            self.keep(line)
            return
        match = COMMAND.match(line)
        if match is None:
            self.keep(line)
            return
        name, properties, message = match[1], _properties(match[2] or ""), _unescape(match[3])
        if name == "add-mask":
            self.mask(message)
        elif name == "stop-commands":
            self._stopped = message
        elif name in LEVELS:
            self.annotations.append(self._annotation(name, properties, message))
            self.keep(f"{name.capitalize()}: {message}")
        elif name in QUIET:
            self.keep(line)
        else:
            raise Unknown(f"the runner does not know the workflow command '::{name}::'")

    def keep(self, line: str) -> None:
        """A line as the log shows it."""
        masked_line = self.hide(line)
        self.lines.append(masked_line)
        if self.copy is not None:
            with self.copy.open("a", encoding="utf-8") as file:
                file.write(f"{masked_line}\n")

    def hide(self, text: str) -> str:
        """The text with what is masked taken out, the longest first."""
        for secret in sorted(self.masks, key=len, reverse=True):
            text = text.replace(secret, HIDDEN)
        return text

    def _annotation(self, level: str, properties: dict[str, str], message: str) -> Annotation:
        line = properties.get("line")
        return Annotation(
            level=level,
            message=self.hide(message),
            file=properties.get("file"),
            line=int(line) if line else None,
            title=properties.get("title"),
        )


def _properties(text: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in text.split(",") if "=" in part)
    return {name.strip(): _unescape(value, also=True) for name, _, value in pairs}


def _unescape(text: str, *, also: bool = False) -> str:
    if also:
        text = text.replace("%3A", ":").replace("%2C", ",")
    return text.replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%")


def read_pairs(path: Path) -> dict[str, str]:
    """What a step wrote into GITHUB_ENV, GITHUB_OUTPUT or GITHUB_STATE: `name=value`, or `name<<FENCE` … `FENCE`."""
    pairs: dict[str, str] = {}
    lines = iter(path.read_text(encoding="utf-8").splitlines())
    for line in lines:
        if not line.strip():
            continue
        equals, fence = line.find("="), line.find("<<")
        if fence >= 0 and (equals < 0 or fence < equals):
            name, end = line[:fence], line[fence + 2 :]
            block: list[str] = []
            for inner in lines:
                if inner == end:
                    break
                block.append(inner)
            else:
                raise ValueError(f"'{name}' has no closing '{end}' in {path.name}")
            pairs[name] = "\n".join(block)
        elif equals > 0:
            pairs[line[:equals]] = line[equals + 1 :]
        else:
            raise ValueError(f"'{line}' is no name=value in {path.name}")
    return pairs
