"""Values of a request's body, or Azure's 400 where they are of another kind."""

from __future__ import annotations

from typing import Any

from mlops.local.arm.errors import bad_request
from mlops.local.state.store import Document


def mapping(value: Any, what: str) -> Document:
    """An object without its null values, which mean the default; an empty one where nothing was sent."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise bad_request(f"The request is invalid: '{what}' must be a JSON object.")
    return {key: item for key, item in value.items() if item is not None}


def sequence(value: Any, what: str) -> list[Any]:
    """A list; an empty one where nothing was sent."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise bad_request(f"The request is invalid: '{what}' must be a list.")
    return value


def integer(value: Any, what: str, *, default: int) -> int:
    """A whole number."""
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise bad_request(f"The request is invalid: '{what}' must be a whole number, not '{value}'.")
    return value


def text(value: Any, what: str, *, default: str | None = None) -> str | None:
    """A string."""
    if value is None:
        return default
    if not isinstance(value, str):
        raise bad_request(f"The request is invalid: '{what}' must be a string.")
    return value


def tags(value: Any) -> dict[str, str]:
    """Names and values, both of them strings."""
    labels = mapping(value, "tags")
    for name, item in labels.items():
        text(item, f"tags.{name}")
    return labels
