"""Checks a scoring payload against `payload.schema.json`, the one schema of what the endpoint takes."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, relevance
from jsonschema.validators import extend

SCHEMA = Path(__file__).with_name("payload.schema.json")


def last_role(_validator: Any, role: str, messages: Any, _schema: Mapping[str, Any]) -> Iterator[ValidationError]:
    """Our keyword `x-lastRole`: whose turn the last message of a conversation must be."""
    if isinstance(messages, list) and messages and isinstance(messages[-1], dict):
        actual = messages[-1].get("role")
        if actual != role:
            message = f"the last message must have the role {role!r}, not {actual!r}"
            yield ValidationError(message, path=[len(messages) - 1, "role"])


def one_of_names(
    _validator: Any, names: Sequence[str], value: Any, _schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    """Our keyword `x-oneOfNames`: names of one thing, of which a payload may use one."""
    if isinstance(value, dict) and len(aliases := [name for name in names if name in value]) > 1:
        yield ValidationError(f"{' and '.join(aliases)} mean the same; give one of them")


@cache
def validator() -> Any:
    """The schema, read once."""
    kind = extend(Draft202012Validator, {"x-lastRole": last_role, "x-oneOfNames": one_of_names})
    return kind(json.loads(SCHEMA.read_text(encoding="utf-8")))


def field(path: Sequence[str | int]) -> str:
    """A place in a payload, as a person writes it: `input_data.input_string[0].role`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".") or "the payload"


def complaint(payload: Any) -> str | None:
    """What is wrong with a payload, beginning with the field; None when nothing is."""
    errors = sorted(validator().iter_errors(payload), key=relevance)
    if not errors:
        return None
    error = errors[0]
    # A value is quoted, and a text of a megabyte must not come back in the answer.
    message = error.message if len(error.message) <= 300 else f"{error.message[:150]} … {error.message[-120:]}"
    return f"{field(list(error.absolute_path))}: {message}"
