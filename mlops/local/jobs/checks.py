"""The values that jobs give to inputs, and whether they fit what a component declares."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from mlops.local.jobs.components import Component, Port, text
from mlops.local.state.store import Document


class PlanError(Exception):
    """The service refuses the job: ``BadRequest`` with this sentence."""

    def __init__(self, message: str, *, code: str = "UserError") -> None:
        super().__init__(message)
        self.message = message
        self.code = code


@dataclass(frozen=True)
class Given:
    """A value of an input."""

    def json(self) -> Document:
        """As plain values; ``is`` tells which kind."""
        return {"is": type(self).__name__.lower(), **asdict(self)}


@dataclass(frozen=True)
class Absent(Given):
    """Nothing was given."""


@dataclass(frozen=True)
class Literal(Given):
    """A text, which may stand for a number or a truth value."""

    value: str


@dataclass(frozen=True)
class Asset(Given):
    """Files."""

    uri: str
    type: str


@dataclass(frozen=True)
class Output(Given):
    """What another step writes."""

    step: str
    output: str
    type: str


def given(raw: Any) -> Given:
    """A value as jobs (``jobInputType``), nodes (``job_input_type``) and components (plain or ``path``) write it."""
    if raw is None:
        return Absent()
    if not isinstance(raw, dict):
        return Literal(text(raw))
    kind = str(raw.get("jobInputType") or raw.get("job_input_type") or raw.get("type") or "literal").lower()
    uri = raw.get("uri") or raw.get("path")
    if uri:
        return Asset(str(uri), kind if kind != "literal" else "uri_folder")
    value = raw.get("value")
    return Absent() if value is None else Literal(text(value))


def checked(component: Component, values: dict[str, Given], *, where: str) -> dict[str, Given]:
    """A component's inputs with defaults filled in.

    Raises:
        PlanError: an input is unknown, missing or does not fit.
    """
    label = f"component '{component.name}' (job '{where}')"
    for name in values:
        if name not in component.inputs:
            raise PlanError(f"Unknown input '{name}' for {label}.")
    result: dict[str, Given] = {}
    for name, declared in component.inputs.items():
        value = values.get(name, Absent())
        if isinstance(value, Absent) and declared.default is not None:
            value = Literal(declared.default)
        if isinstance(value, Absent) and not declared.optional:
            raise PlanError(f"Required input '{name}' for {label} is not provided.")
        result[name] = fit(name, value, declared, label)
    return result


def fit(name: str, value: Given, declared: Port, label: str) -> Given:
    """A value that a port accepts, in the port's type."""
    if isinstance(value, Absent):
        return value
    if declared.is_asset:
        if isinstance(value, Asset):
            return Asset(value.uri, declared.type)
        if isinstance(value, Output):
            return Output(value.step, value.output, declared.type)
        if isinstance(value, Literal) and re.match(r"^(azureml:|https?://|runs:/)", value.value):
            return Asset(value.value, declared.type)
        raise PlanError(f"Input '{name}' of {label} is of type {declared.type}; a literal value was given.")
    if not isinstance(value, Literal):
        raise PlanError(f"Input '{name}' of {label} is of type {declared.type}; files were given.")
    return Literal(literal(name, value.value, declared, label))


def literal(name: str, value: str, declared: Port, label: str) -> str:
    """A literal that fits its port.

    Raises:
        PlanError: it does not, with the bounds or the choices.
    """
    wrong = f"Parameter '{name}' of {label} has the invalid value '{value}'"
    if declared.enum and value not in declared.enum:
        raise PlanError(f"{wrong}. Allowed values: {', '.join(declared.enum)}.")
    if declared.type == "boolean":
        if value.lower() not in ("true", "false", "1", "0"):
            raise PlanError(f"{wrong}: a boolean is expected.")
        return str(value.lower() in ("true", "1"))
    if declared.type in ("integer", "number"):
        try:
            number = float(value)
            whole = number == int(number)
        except (ValueError, OverflowError):
            number, whole = 0.0, False
            if declared.type == "number":
                raise PlanError(f"{wrong}: a number is expected.") from None
        if declared.type == "integer" and not whole:
            raise PlanError(f"{wrong}: an integer is expected.")
        if declared.minimum is not None and number < declared.minimum:
            raise PlanError(f"{wrong}: it is less than the minimum {declared.minimum:g}.")
        if declared.maximum is not None and number > declared.maximum:
            raise PlanError(f"{wrong}: it is greater than the maximum {declared.maximum:g}.")
    return value


def seconds(value: Any) -> float | None:
    """A timeout in seconds, given as a number or as ISO 8601 (``PT1H30M``)."""
    if value in (None, ""):
        return None
    raw = str(value)
    try:
        return float(raw)
    except ValueError:
        pass
    match = re.fullmatch(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:([\d.]+)S)?)?", raw)
    if not match:
        raise PlanError(f"The timeout '{raw}' is not a duration.")
    days, hours, minutes, rest = (float(part or 0) for part in match.groups())
    return days * 86400 + hours * 3600 + minutes * 60 + rest
