"""GitHub's filter patterns for branches and paths.

https://docs.github.com/actions/reference/workflow-syntax-for-github-actions#filter-pattern-cheat-sheet
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

PARTS = re.compile(r"\*\*/|\*\*|\*|\?|\+|\[[^\]]*\]|\\.|.", re.DOTALL)
MEANS = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "?", "+": "+"}
"""`?` and `+` repeat the character before them, unlike in a shell."""


def regex(pattern: str) -> re.Pattern[str]:
    """A pattern as a regular expression over a whole name."""
    out = []
    for part in PARTS.findall(pattern):
        if part in MEANS:
            out.append(MEANS[part])
        elif part.startswith("[") and len(part) > 1:
            out.append(part)
        else:
            out.append(re.escape(part.removeprefix("\\") or part))
    return re.compile("".join(out))


def matches(patterns: Sequence[str], name: str) -> bool:
    """Whether a name is selected: the last pattern that matches decides, one with `!` takes it out."""
    included = False
    for pattern in patterns:
        if regex(pattern.removeprefix("!")).fullmatch(name):
            included = not pattern.startswith("!")
    return included


def any_of(patterns: Sequence[str], names: Iterable[str]) -> bool:
    """Whether one of the names is selected."""
    return any(matches(patterns, name) for name in names)
