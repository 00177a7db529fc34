"""The expressions of jobs: ``${{parent.inputs.x}}``, ``${{inputs.x}}``, ``${{outputs.y}}`` and ``$[[ … ]]``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

EXPRESSION = re.compile(r"\$\{\{\s*([^{}]+?)\s*\}\}")
OPTIONAL = re.compile(r"\$\[\[(.*?)\]\]", re.DOTALL)


class ExpressionError(ValueError):
    """An expression names something that does not exist."""


@dataclass(frozen=True)
class Reference:
    """What an expression points at: an input of the pipeline, or an output of another of its jobs."""

    input: str | None = None
    job: str | None = None
    output: str | None = None


def reference(text: str) -> Reference | None:
    """A binding such as ``${{parent.jobs.train.outputs.model}}``; None where the text is not one expression."""
    match = EXPRESSION.fullmatch(text.strip())
    return None if match is None else parse(match[1])


def parse(inner: str) -> Reference:
    """What stands between the braces of a binding.

    Raises:
        ExpressionError: it is not a binding that pipelines have.
    """
    segments = inner.split(".")
    if segments[:2] == ["parent", "inputs"] and len(segments) > 2:
        return Reference(input=".".join(segments[2:]))
    if segments[:2] == ["parent", "jobs"] and len(segments) == 5 and segments[3] == "outputs":
        return Reference(job=segments[2], output=segments[4])
    if segments[:2] == ["parent", "outputs"] and len(segments) > 2:
        return Reference(output=".".join(segments[2:]))
    raise ExpressionError(f"The expression '${{{{{inner}}}}}' is not supported.")


def interpolate(text: str, values: Mapping[str, str | None]) -> str:
    """Replace ``${{parent.inputs.x}}`` inside a longer text; an absent input leaves nothing."""

    def value(found: re.Match[str]) -> str:
        name = parse(found[1]).input
        if name is None:
            raise ExpressionError(f"The expression '{found[0]}' cannot stand inside a longer text.")
        return values.get(name) or ""

    return EXPRESSION.sub(value, text)


def command_line(command: str, inputs: Mapping[str, str | None], outputs: Mapping[str, str]) -> str:
    """The command with its inputs and outputs in place.

    Args:
        command: as the component has it.
        inputs: value or path of each declared input, None for an optional one that is absent.
        outputs: path of each output.

    Raises:
        ExpressionError: an unknown name, or an absent input outside ``$[[ … ]]``.
    """

    def names(text: str) -> list[str]:
        return [found.strip() for found in EXPRESSION.findall(text)]

    def absent(name: str) -> bool:
        return name.startswith("inputs.") and inputs.get(name.removeprefix("inputs.")) is None

    def optional(found: re.Match[str]) -> str:
        return "" if any(absent(name) for name in names(found[1])) else found[1].strip()

    def value(found: re.Match[str]) -> str:
        name = found[1]
        kind, _, key = name.partition(".")
        if kind == "inputs":
            # an input of type folder may be followed by a path: ${{inputs.data.path}} is not Azure's, so no more here
            if key not in inputs:
                raise ExpressionError(f"The command refers to the input '{key}', which is not declared.")
            given = inputs[key]
            if given is None:
                raise ExpressionError(f"The command needs the input '{key}', which has no value.")
            return given
        if kind == "outputs":
            if key not in outputs:
                raise ExpressionError(f"The command refers to the output '{key}', which is not declared.")
            return outputs[key]
        raise ExpressionError(f"The expression '{found[0]}' is not supported in a command.")

    return EXPRESSION.sub(value, OPTIONAL.sub(optional, command))
