"""A container's log as Azure hands it out, and what a person needs of it.

``getLogs`` answers three blocks: the state of the instance, the pod's events, and the last lines of one container.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\r\n]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
BEGIN = "Traceback (most recent call last):"
CHAINED = re.compile(r"^(The above exception was the direct cause|During handling of the above exception)")
FRAME = re.compile(r'^\s+File "(?P<file>[^"]+)", line (?P<line>\d+)(?:, in (?P<function>.+))?$')
LIBRARY = re.compile(r"site-packages|dist-packages|^<|/lib/python\d|\.pyx$")
PROCESS = re.compile(r"^\(\w[\w-]* pid=\d+\) (?:[A-Z]+ \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] ?)?", re.MULTILINE)
"""What vLLM's processes put before each of their lines, a traceback's too."""
ELSEWHERE = re.compile(r"See (root cause|stack trace)")
"""An exception that only says that another process has raised one, whose traceback stands above it."""
TITLES = ("Instance status:", "Container events:", "Container logs:")
EVENT = re.compile(r"Name: (?P<name>[^,]+), Type: Warning\b.*?Message: (?P<message>.*)$")
LINE_CHARACTERS = 400


def plain(text: str) -> str:
    """The text without colours, cursor movements and other control characters."""
    return UNPRINTABLE.sub("", ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))


def blocks(log: str) -> tuple[str, str]:
    """The events and the container's own lines; a log without titles is all the container's."""
    text = PROCESS.sub("", plain(log))
    head, title, own = text.partition(TITLES[2] + "\n") if TITLES[2] + "\n" in text else ("", "", text)
    if not title:
        return "", own
    return head.partition(TITLES[1] + "\n")[2], own


def warnings(log: str) -> list[str]:
    """The events that warn, each message once, in the order of their first time."""
    matches = (EVENT.search(line) for line in blocks(log)[0].splitlines())
    return list(dict.fromkeys(f"{event['name']}: {event['message']}" for event in matches if event))


@dataclass(frozen=True)
class RootException:
    """The exception at the root of a log's last traceback, and where it was raised outside the libraries."""

    exception: str
    location: str
    start: int
    end: int
    """Lines of the log: the traceback's first and the exception's own."""


def raised(log: str) -> RootException | None:
    """The root of the last chain of tracebacks in a log."""
    lines = blocks(log)[1].splitlines()
    begins = [index for index, line in enumerate(lines) if line.rstrip().endswith(BEGIN)]
    root: RootException | None = None
    for start in reversed(begins):
        if root and not ELSEWHERE.search(root.exception) and not _leads_to(lines, start, root.start):
            break
        root = _read(lines, start) or root
    return root


def _leads_to(lines: list[str], start: int, after: int) -> bool:
    """Whether the traceback that begins here caused the one that begins after it."""
    return any(CHAINED.match(line) for line in lines[start + 1 : after])


def _read(lines: list[str], start: int) -> RootException | None:
    places: list[tuple[str, str]] = []
    for index in range(start + 1, len(lines)):
        line = lines[index]
        frame = FRAME.match(line)
        if frame:
            name = re.sub(r"^.*/(?:azureml-app|azureml-models|structure)/", "", frame["file"])
            inside = f", in {frame['function']}" if frame["function"] else ""
            places.append((frame["file"], f"{name}, line {frame['line']}{inside}"))
        elif line.strip() and not line[0].isspace():
            ours = [location for file, location in places if not LIBRARY.search(file)]
            nearest = ours[-1] if ours else (places[-1][1] if places else "")
            # pydantic says what is wrong on the lines after it
            more = " ".join(lines[index + 1 : index + 2]).strip() if "validation error" in line else ""
            return RootException(f"{line.strip()} {more}".rstrip()[:LINE_CHARACTERS], nearest, start, index)
    return None


def excerpt(log: str, *, lines: int = 30) -> list[str]:
    """The lines that matter: around the exception where there is one, else the last ones."""
    own = blocks(log)[1].rstrip().splitlines()
    root = raised(log)
    end = len(own)
    if root is not None and root.end < len(own) - lines:
        end = min(len(own), root.end + 1 + lines // 5)
    return [line.rstrip()[:LINE_CHARACTERS] for line in own[max(0, end - lines) : end]]
