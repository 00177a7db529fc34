"""What is known of machine sizes and catalogue models: retirements, allow-lists, model defaults.

The dates stand in ``mlops/machines/retired.yaml``, with their sources; this module only reads and applies them.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from mlops.core.errors import PreconditionError
from mlops.core.resources import ModelVersion, VmSize

NO_TAG_REFUSED = frozenset({"standard_nc6", "standard_nc12", "standard_nc24", "standard_nc24r"})
"""Sizes that cannot fine-tune, refused where a model brings no allow-list."""


@dataclass(frozen=True)
class Retired:
    """Something that Azure has switched off, or will; ``source`` is the notice that says so."""

    name: str
    since: date
    instead: str
    source: str


@functools.cache
def _table() -> dict[str, dict[str, Retired]]:
    import yaml

    raw = yaml.safe_load((Path(__file__).parent / "retired.yaml").read_text(encoding="utf-8"))
    return {
        kind: {
            str(name).lower(): Retired(str(name), entry["since"], entry["instead"], entry["source"])
            for entry in entries
            for name in entry["names"]
        }
        for kind, entries in raw.items()
    }


def retired_size(name: str, *, today: date | None = None) -> Retired | None:
    """The retirement of a machine size, if its day has come."""
    return _passed(_table()["sizes"].get(name.lower()), today)


def retired_model(name: str, *, today: date | None = None) -> Retired | None:
    """The retirement of a catalogue model, if its day has come."""
    return _passed(_table()["models"].get(name.lower()), today)


def retires_soon(name: str, *, today: date | None = None, within_days: int = 180) -> Retired | None:
    """The retirement of a machine size that is still to come, where it comes soon."""
    now, retirement = today or date.today(), _table()["sizes"].get(name.lower())
    return retirement if retirement and now < retirement.since <= now + timedelta(days=within_days) else None


def check_model(model: ModelVersion, *, today: date | None = None) -> None:
    """Refuse a catalogue model that is retired, by its published date or by what the registry says of it.

    Raises:
        PreconditionError: with the date, where it is known, and what to use.
    """
    retirement = retired_model(model.name, today=today)
    if retirement is None and (model.stage or "").lower() not in ("retired", "archived"):
        return
    when = f" on {retirement.since}" if retirement else ""
    raise PreconditionError(
        f"the model '{model.name}' was retired{when}",
        hint=f"use {retirement.instead}" if retirement else "choose another base_model in mlops.yaml",
    )


def check_offered(size: str, offered: Iterable[VmSize], *, setting: str) -> VmSize:
    """The size as the region offers it.

    Args:
        size: its name, in any case.
        offered: all that the region offers.
        setting: what of mlops.yaml names it.

    Raises:
        PreconditionError: it is not offered; with those with GPUs that are.
    """
    offered = list(offered)
    entry = next((item for item in offered if item.name.lower() == size.lower()), None)
    if entry is None:
        names = ", ".join(sorted(item.name for item in offered if item.gpus))
        raise PreconditionError(
            f"the region does not offer the size '{size}'",
            hint=f"choose another {setting} in mlops.yaml; with GPUs there are: {names}",
        )
    return entry


def _passed(retirement: Retired | None, today: date | None) -> Retired | None:
    return retirement if retirement and retirement.since <= (today or date.today()) else None


def check_size(size: str, *, today: date | None = None) -> None:
    """Refuse a retired size.

    Raises:
        PreconditionError: with the date and what to use.
    """
    retirement = retired_size(size, today=today)
    if retirement:
        raise PreconditionError(
            f"the size '{size}' was retired on {retirement.since}",
            hint=f"use {retirement.instead} instead, in mlops.yaml",
        )


def allowed_sizes(tags: Mapping[str, Any], properties: Mapping[str, Any], *, purpose: str) -> tuple[str, ...] | None:
    """A model's allow-list: from its tag (a string holding a Python list), or from its system metadata.

    Args:
        tags: the model's tags.
        properties: the model's properties, where newer models keep their lists.
        purpose: ``finetune`` or ``inference``.
    """
    for source in (tags, properties):
        for key in (f"{purpose}_compute_allow_list", f"{purpose}-compute-allow-list"):
            if source.get(key):
                sizes = literal(source[key], key)
                if not isinstance(sizes, (list, tuple)):
                    raise PreconditionError(f"the model's '{key}' is no list: '{source[key]}'")
                return tuple(str(item) for item in sizes)
    return None


def check_allowed(size: str, allowed: tuple[str, ...] | None, *, model: str, purpose: str) -> None:
    """Refuse a size that a model's allow-list leaves out; compared without case.

    Raises:
        PreconditionError: with the sizes that are allowed.
    """
    if allowed is None:
        if purpose == "finetune" and size.lower() in NO_TAG_REFUSED:
            raise PreconditionError(
                f"the size '{size}' cannot fine-tune '{model}'", hint="choose an A100 or newer under compute.size"
            )
        return
    if size.lower() not in {item.lower() for item in allowed}:
        raise PreconditionError(
            f"the size '{size}' is not on the {purpose} allow-list of the model '{model}'",
            hint="allowed are: " + ", ".join(allowed),
        )


def model_defaults(tags: Mapping[str, Any]) -> dict[str, Any]:
    """The tag ``model_specific_defaults``, a string holding a Python dict; empty where there is none."""
    text = tags.get("model_specific_defaults")
    if not text:
        return {}
    defaults = literal(text, "model_specific_defaults")
    if not isinstance(defaults, dict):
        raise PreconditionError(f"the model's 'model_specific_defaults' is no mapping: '{text}'")
    return {str(key): value for key, value in defaults.items()}


def literal(text: Any, name: str) -> Any:
    """Read a Python literal safely; values that are none already are taken as they are."""
    if not isinstance(text, str):
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise PreconditionError(f"the model's tag '{name}' cannot be read: '{text[:200]}'") from None
