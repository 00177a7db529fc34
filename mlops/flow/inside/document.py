"""One JSON document in by stdin, one out by stdout; whatever else a program says goes to stderr."""

import json
import os
import sys
from collections.abc import Callable
from typing import Any


def answer(work: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Do the work of a program; what it raises becomes ``{"error": message}``."""
    result = os.dup(1)
    os.dup2(2, 1)  # Prompt flow logs to stdout
    try:
        output = work(json.load(sys.stdin))
    except Exception as error:
        inner = getattr(error, "inner_exception", None) or error
        output = {"error": innermost_message(inner)}
    with os.fdopen(result, "w", encoding="utf-8") as stream:
        json.dump(output, stream)


def innermost_message(error: BaseException) -> str:
    """An error's own words: the innermost of those that Prompt flow has wrapped."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__
