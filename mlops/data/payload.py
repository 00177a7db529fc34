"""Scoring requests: made from a row, and checked against the one schema that the server uses too."""

from __future__ import annotations

import difflib
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mlops.core.errors import DataInvalid, FileLocation, PreconditionError, UsageError

SCHEMA = Path("environments/serve/payload.schema.json")
PARAMETERS: dict[str, Any] = {"temperature": 0.6, "top_p": 0.9, "do_sample": True, "max_new_tokens": 200}
"""Of the sample request."""

Pointer = tuple[str | int, ...]
MARK = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\s\[\]{},:"]+|\n')


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a payload.

    Attributes:
        field: the path of what is wrong, `input_data.parameters.top_p`; empty for the payload itself.
        message: what is wrong with it, with its value and what is allowed.
    """

    place: FileLocation
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {f'{self.field} ' if self.field else ''}{self.message}"


def sample(rows: Sequence[Mapping[str, Any]], *, seed: int, parameters: Mapping[str, Any] | None = None) -> Any:
    """Makes a request of one random row.

    Args:
        rows: chats; an answer at the end of the one that is drawn is left out.
        seed: draws the row.
        parameters: for the generation; PARAMETERS when None.

    Raises:
        DataInvalid: no row asks anything.
    """
    asking = [questions for row in rows if (questions := _question(row))]
    if not asking:
        raise DataInvalid("no row holds a question")
    messages = random.Random(seed).choice(asking)  # noqa: S311 - a sample, no secret
    chosen = dict(PARAMETERS if parameters is None else parameters)
    return {"input_data": {"input_string": [messages], "parameters": chosen}, "params": {}}


def _question(row: Mapping[str, Any]) -> list[dict[str, str]]:
    messages = [{"role": message["role"], "content": message["content"]} for message in row["messages"]]
    while messages and messages[-1]["role"] != "user":
        messages.pop()
    return messages


def read(path: Path) -> Any:
    """Returns the payload that a file holds.

    Raises:
        UsageError: there is no such file.
        DataInvalid: it is not a valid payload.
    """
    value, problems = check(path)
    if problems:
        first = problems[0]
        raise DataInvalid(
            f"{first.field} {first.message}".strip(), location=first.place, details=[str(each) for each in problems[1:]]
        )
    return value


def check(path: Path) -> tuple[Any, tuple[Problem, ...]]:
    """Returns what a file holds and what is wrong with it.

    Raises:
        UsageError: there is no such file.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"'{path}' cannot be read: {error.strerror}") from None
    return check_text(raw, name=str(path))


def check_text(raw: bytes, *, name: str) -> tuple[Any, tuple[Problem, ...]]:
    """Returns the value of a payload's text and what is wrong with it, in the order of the text.

    Args:
        raw: JSON in UTF-8.
        name: what messages call it.
    """

    def problem(message: str, line: int | None = None) -> tuple[Any, tuple[Problem, ...]]:
        return None, (Problem(FileLocation(file=name, line=line), "", message),)

    if not raw.strip():
        return problem("is empty", 1)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return problem(f"is not UTF-8: the byte 0x{raw[error.start]:02x}", raw.count(b"\n", 0, error.start) + 1)
    try:
        value = json.loads(text, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        return problem(f"is not JSON: {error.msg[0].lower()}{error.msg[1:]}, column {error.colno}", error.lineno)
    except RecursionError:
        return problem("is nested too deeply", 1)
    except ValueError as error:
        return problem(f"is not JSON: {error}", 1)
    lines, twice = positions(text)
    findings = [(pointer, "stands there twice") for pointer in twice]
    findings += [finding for error in _validator().iter_errors(value) for finding in _explain(error)]
    findings.sort(key=lambda finding: _line(lines, finding[0]))
    problems = [
        Problem(FileLocation(file=name, line=_line(lines, pointer)), dotted(pointer), message)
        for pointer, message in findings
    ]
    return value, tuple(problems)


def dotted(pointer: Pointer) -> str:
    """Returns `input_data.input_string[0].role` for a pointer."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in pointer)
    return text.removeprefix(".")


def positions(text: str) -> tuple[dict[Pointer, int], list[Pointer]]:
    """Says on which line each value of a JSON text begins (a member: its key), and which keys stand twice.

    The text must be valid JSON.
    """
    lines: dict[Pointer, int] = {(): 1}
    twice: list[Pointer] = []
    line = 1
    path: list[str | int] = []  # of the value that comes next
    kinds: list[str] = []  # "{" or "[" for each container that is open
    key_next = False
    for match in MARK.finditer(text):
        mark = match[0]
        if mark == "\n":
            line += 1
        elif mark in "{[":
            if kinds and kinds[-1] == "[":
                lines[tuple(path)] = line
            kinds.append(mark)
            path.append(0 if mark == "[" else "")
            key_next = mark == "{"
        elif mark in "}]":
            kinds.pop()
            path.pop()
        elif mark == ",":
            key_next = kinds[-1] == "{"
            if kinds[-1] == "[":
                path[-1] = int(path[-1]) + 1
        elif mark == ":":
            key_next = False
        elif key_next:
            path[-1] = json.loads(mark)
            if tuple(path) in lines:
                twice.append(tuple(path))
            lines[tuple(path)] = line
        elif kinds and kinds[-1] == "[":
            lines[tuple(path)] = line
    return lines, twice


def _line(lines: Mapping[Pointer, int], pointer: Pointer) -> int:
    while pointer not in lines:
        pointer = pointer[:-1]
    return lines[pointer]


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number in JSON")


def schema_file() -> Path:
    """Returns the schema's file: in this program's checkout, else under the working directory.

    Raises:
        PreconditionError: it is in neither.
    """
    for root in (Path(__file__).resolve().parents[2], Path.cwd()):
        if (root / SCHEMA).is_file():
            return root / SCHEMA
    raise PreconditionError(f"there is no '{SCHEMA}' here", hint="run mlops inside the checkout")


@cache
def _validator() -> Any:
    import jsonschema

    schema = json.loads(schema_file().read_bytes())
    keywords = {"x-lastRole": _last_role, "x-oneOfNames": _one_of_names}
    return jsonschema.validators.extend(jsonschema.Draft202012Validator, keywords)(schema)


def _last_role(_validator: Any, role: str, value: Any, _schema: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    last = value[-1] if isinstance(value, list) and value else None
    if isinstance(last, dict) and "role" in last and last["role"] != role:
        yield ValidationError(
            f"is {_shown(last['role'])}; the last message must have the role '{role}'",
            validator="x-lastRole",
            path=(len(value) - 1, "role"),
        )


def _one_of_names(_validator: Any, names: list[str], value: Any, _schema: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    given = [name for name in names if isinstance(value, dict) and name in value]
    if len(given) > 1:
        yield ValidationError(f"mean the same: {', '.join(given)}; give one of them", validator="x-oneOfNames")


def _explain(error: Any) -> Iterator[tuple[Pointer, str]]:
    """Yields what a jsonschema error says in this program's words."""
    path: Pointer = tuple(error.absolute_path)
    value, limit, schema = error.instance, error.validator_value, error.schema
    if error.validator == "additionalProperties":
        known = list(schema.get("properties", {}))
        for name in value:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                advice = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(known)}"
                yield (*path, name), f"is not known; {advice}"
    elif error.validator == "required":
        for name in limit:
            if name not in value:
                yield path, f"has no '{name}'"
                break
    elif error.validator in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
        yield path, f"is {_shown(value)}; must be {_range(schema)}"
    elif error.validator == "type":
        kinds = {"object": "an object", "array": "a list", "integer": "a whole number"}
        yield path, f"is {_shown(value)}; it must be {kinds.get(limit, f'a {limit}')}"
    elif error.validator == "enum":
        yield path, f"is {_shown(value)}; allowed are {', '.join(repr(each) for each in limit)}"
    elif error.validator in ("minItems", "minLength"):
        yield path, "is empty" if limit == 1 else f"has {len(value)}; at least {limit} are needed"
    elif error.validator in ("maxItems", "maxLength"):
        unit = "items" if error.validator == "maxItems" else "characters"
        yield path, f"has {len(value):,} {unit}; allowed are {limit:,}"
    else:
        yield path, str(error.message)


def _range(schema: Mapping[str, Any]) -> str:
    whole = "a whole number " if schema.get("type") == "integer" else ""
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high = schema.get("maximum")
    bottom = f"above {above}" if low is None else f"from {low}"
    return whole + (bottom if high is None else f"{bottom} to {high}")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:59] + "…"
