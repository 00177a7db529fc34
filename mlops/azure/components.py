"""Pipeline components, of a registry or of a file, and the inputs that they take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlops.azure.errors import NotFoundError, translated
from mlops.azure.session import Session, text
from mlops.core.errors import PreconditionError
from mlops.core.resources import PipelineInput

ComponentSource = tuple[str, str, str] | Path
"""A registry's ``(registry, name, version)``, or the file of a pipeline component."""


def read(session: Session, source: ComponentSource) -> Any:
    """The component, for a job to be built of.

    Raises:
        PreconditionError: the registry has no such component.
    """
    from azure.ai.ml import load_component

    if isinstance(source, Path):
        with translated(f"read the pipeline component '{source.name}'"):
            return load_component(source=str(source))
    registry, name, version = source
    where = {"label": version} if version == "latest" else {"version": version}
    try:
        with translated(f"read the pipeline component '{name}', version '{version}'"):
            return session.registry(registry).components.get(name, **where)
    except NotFoundError:
        raise PreconditionError(
            f"the registry '{registry}' has no component '{name}', version '{version}'",
            hint="choose another training.component_version in mlops.yaml; latest takes the newest",
        ) from None


def inputs(component: Any) -> dict[str, PipelineInput]:
    """What a component takes, by name."""
    return {name: _input(name, item) for name, item in component.inputs.items()}


def _input(name: str, item: Any) -> PipelineInput:
    # Which attributes the SDK's inputs have depends on their type.
    return PipelineInput(
        name=name,
        type=text(getattr(item, "type", "")),
        required=not getattr(item, "optional", False) and getattr(item, "default", None) is None,
        values=tuple(str(value) for value in getattr(item, "enum", None) or ()),
        least=_number(getattr(item, "min", None)),
        most=_number(getattr(item, "max", None)),
    )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
