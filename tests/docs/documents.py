"""The Markdown of the checkout: its console blocks, headings and links."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.checkout import ROOT

FENCE = re.compile(r"^(?P<fence>`{3,})(?P<language>\w*)\s*$")
CODE = re.compile(r"#\s*exit code (\d+)")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<goal>[^)\s]+)\)|!\[[^\]]*\]\((?P<picture>[^)\s]+)\)")


CODE_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
PYTHON_FILE = re.compile(r"[\w./-]+\.py")
PLACEHOLDER = re.compile(
    r"\b(?!README|CHANGELOG|CONTRIBUTING|SECURITY|ARCHITECTURE|TUTORIAL|ON-CALL)[A-Z]{2,}\b|[*{…:=]"
)


@dataclass(frozen=True)
class Command:
    """One line of a console block that begins with ``$``, and the exit code that it must end with."""

    file: str
    line: int
    text: str
    code: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


def tracked(*patterns: str) -> list[str]:
    """The files that a commit would hold, by their paths from the top."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *patterns]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [name for name in sorted(filter(None, listed.split("\0"))) if (ROOT / name).is_file()]


def documents() -> list[Path]:
    """Every Markdown file that a commit would hold."""
    return [ROOT / name for name in tracked("*.md")]


def blocks(text: str) -> Iterator[tuple[str, int, list[str]]]:
    """The fenced blocks: language, number of their first line, lines."""
    fence, language, first, inside = "", "", 0, list[str]()
    for number, line in enumerate(text.splitlines(), start=1):
        match = FENCE.match(line)
        if not fence and match:
            fence, language, first, inside = match["fence"], match["language"], number + 1, []
        elif fence and line.strip() == fence:
            yield language, first, inside
            fence = ""
        elif fence:
            inside.append(line)


def commands(path: Path) -> list[Command]:
    """The commands of a document's console blocks, in their order; a backslash at the end goes on in the next line."""
    items: list[Command] = []
    name = path.relative_to(ROOT).as_posix()
    for language, first, lines in blocks(path.read_text(encoding="utf-8")):
        if language != "console":
            continue
        goes_on = False
        for number, line in enumerate(lines, start=first):
            assert goes_on or line.startswith("$ "), f"{name}:{number}: a console block holds commands only: {line!r}"
            part = line.strip() if goes_on else line[2:]
            if goes_on:
                last = items.pop()
                part, number = f"{last.text.removesuffix(chr(92))}{part}", last.line
            code = CODE.search(part)
            items.append(Command(name, number, part, int(code[1]) if code else 0))
            goes_on = part.endswith("\\")
    return items


def outside_fences(text: str) -> list[str]:
    """A document's lines without its fenced blocks."""
    lines, fence = [], ""
    for line in text.splitlines():
        match = FENCE.match(line)
        if not fence and match:
            fence = match["fence"]
        elif fence:
            fence = "" if line.strip() == fence else fence
        else:
            lines.append(line)
    return lines


def prose(text: str) -> str:
    """A document without its fenced blocks and inline code."""
    return "\n".join(re.sub(r"(?<!\[)`[^`]*`(?!\])", "", line) for line in outside_fences(text))


def paths(text: str, folders: Collection[str]) -> list[str]:
    """The files and folders of the checkout that inline code names.

    Args:
        text: a document.
        folders: names at the top of the checkout; a path that begins with one of them belongs to the checkout.

    Returns:
        Those paths, and every ``*.py``. Patterns and placeholders (``*``, ``…``, ``NAME``) are left out.
    """
    names = [word for span in CODE_SPAN.findall("\n".join(outside_fences(text))) for word in span.split()]
    return [
        word
        for word in names
        if not PLACEHOLDER.search(word)
        and (("/" in word and word.partition("/")[0] in folders) or PYTHON_FILE.fullmatch(word))
    ]


def anchors(text: str) -> set[str]:
    """The anchors of the headings, as GitHub makes them."""
    counts: dict[str, int] = {}
    names = set()
    fence = ""
    for line in text.splitlines():
        fenced = FENCE.match(line)
        if fence or fenced:
            fence = "" if fence and line.strip() == fence else fence or (fenced["fence"] if fenced else "")
            continue
        heading = re.match(r"#{1,6} (.+)", line)
        if heading:
            slug = re.sub(r"[^\w\- ]", "", heading[1].replace("`", "").lower()).replace(" ", "-")
            again = counts.get(slug, 0)
            counts[slug] = again + 1
            names.add(slug if not again else f"{slug}-{again}")
    return names


def links(text: str) -> list[str]:
    """Where a document's links and pictures lead."""
    return [match["goal"] or match["picture"] for match in LINK.finditer(prose(text))]
