"""A step's inputs as a frozen dataclass, read from the command that the component's file spells out."""

import argparse
import types
import typing
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

Arguments = TypeVar("Arguments")


def boolean(text: str) -> bool:
    """Azure ML passes booleans of these components as the strings 'true' and 'false'."""
    lowered = text.strip().lower()
    if lowered not in {"true", "false"}:
        raise argparse.ArgumentTypeError(f"'{text}' is neither 'true' nor 'false'")
    return lowered == "true"


def integer(text: str) -> int:
    """A whole number; '3.0' is one, for Azure ML may pass an integer as a number."""
    value = float(text)
    if not value.is_integer():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number")
    return int(value)


CONVERTERS: dict[Any, Any] = {bool: boolean, int: integer, float: float, str: str, Path: Path}


def parse(kind: type[Arguments], argv: Sequence[str], *, description: str) -> Arguments:
    """Reads `--name value` pairs into `kind`.

    Args:
        kind: a dataclass; a field with a default is an optional argument. Fields are `str`, `int`, `float`,
            `bool`, `Path`, or one of these with `| None`.
        argv: the command line, without the program.
        description: what the step does, for `--help`.

    Returns:
        The values. A wrong command line ends the process with status 2 and a message.
    """
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    hints = typing.get_type_hints(kind)
    for field in fields(kind):  # type: ignore[arg-type]
        hint = hints[field.name]
        if typing.get_origin(hint) in (types.UnionType, typing.Union):
            (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
        required = field.default is MISSING
        parser.add_argument(
            f"--{field.name}",
            type=CONVERTERS[hint],
            required=required,
            default=None if required else field.default,
        )
    return kind(**vars(parser.parse_args(argv)))
