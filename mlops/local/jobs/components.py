"""Component specifications as values, and where they are found: the workspace, a registry, anonymous ones."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from mlops.local.state.config import Config
from mlops.local.state.store import Document, Store

ASSETS = ("uri_file", "uri_folder", "mltable", "mlflow_model", "custom_model", "triton_model", "path")
REGISTRY = re.compile(
    r"^azureml://registries/(?P<registry>[^/]+)/(?P<kind>\w+)/(?P<name>[^/]+)/(?P<how>versions|labels)/(?P<version>[^/]+)"
)


@dataclass(frozen=True)
class Port:
    """A declared input or output."""

    type: str
    optional: bool = False
    default: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    enum: tuple[str, ...] = ()

    @property
    def is_asset(self) -> bool:
        """Whether its value is files."""
        return self.type in ASSETS


@dataclass(frozen=True)
class Component:
    """A component as the runner needs it."""

    id: str
    name: str
    version: str
    kind: str
    display_name: str
    inputs: dict[str, Port] = field(default_factory=dict)
    outputs: dict[str, Port] = field(default_factory=dict)
    command: str = ""
    code: str | None = None
    environment: str | None = None
    distribution: Document | None = None
    limits: Document | None = None
    environment_variables: dict[str, str] = field(default_factory=dict)
    jobs: dict[str, Document] = field(default_factory=dict)


def truth(value: Any) -> bool:
    """A boolean that may travel as the text ``True``."""
    return str(value).strip().lower() == "true"


def text(value: Any) -> str:
    """A literal as the service keeps it."""
    return value if isinstance(value, str) else str(value)


def port(spec: Any) -> Port:
    """A port of a specification; a bare text is its type."""
    if not isinstance(spec, dict):
        return Port(type=str(spec))
    kind = spec.get("type", "string")
    kind = kind if isinstance(kind, str) else "string"
    default = spec.get("default")
    return Port(
        type=kind.lower(),
        optional=truth(spec.get("optional", False)),
        default=None if default is None else text(default),
        minimum=number(spec.get("min")),
        maximum=number(spec.get("max")),
        enum=tuple(text(item) for item in spec.get("enum") or ()),
    )


def number(value: Any) -> float | None:
    """A bound that may travel as a text."""
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None


def component(spec: Document, *, identity: str) -> Component:
    """A component of a ``componentSpec`` document."""
    kind = str(spec.get("type") or ("pipeline" if spec.get("jobs") else "command")).lower()
    name = str(spec.get("name", ""))
    return Component(
        id=identity,
        name=name,
        version=str(spec.get("version", "")),
        kind=kind,
        display_name=str(spec.get("display_name") or name),
        inputs={key: port(value) for key, value in (spec.get("inputs") or {}).items()},
        outputs={key: port(value) for key, value in (spec.get("outputs") or {}).items()},
        command=str(spec.get("command") or ""),
        code=spec.get("code"),
        environment=environment_name(spec.get("environment")),
        distribution=spec.get("distribution"),
        limits=spec.get("limits"),
        environment_variables={key: text(value) for key, value in (spec.get("environment_variables") or {}).items()},
        jobs=spec.get("jobs") or {},
    )


def environment_name(value: Any) -> str | None:
    """How the log names an environment."""
    if isinstance(value, dict):
        return str(value.get("name") or value.get("image") or "inline")
    return None if value is None else str(value)


def wire(value: Any) -> Any:
    """A specification as the service gives it back: booleans and numbers are texts."""
    if isinstance(value, dict):
        return {key: wire(item) for key, item in value.items()}
    if isinstance(value, list):
        return [wire(item) for item in value]
    return str(value) if isinstance(value, (bool, int, float)) else value


class Components:
    """Finds components by every kind of id that jobs and components use."""

    def __init__(self, store: Store, config: Config) -> None:
        self._store = store
        self._config = config

    def find(self, identity: str, *, home: str | None = None) -> Component | None:
        """The component under an id; short ids (``azureml:name:version``) are looked up in ``home``, an ARM id."""
        arm = self.arm_id(identity, home=home or self._config.workspace_id)
        body = self._store.get(arm) if arm else None
        if body is None:
            return None
        return component(body["properties"].get("componentSpec") or {}, identity=arm or identity)

    def arm_id(self, identity: str, *, home: str) -> str | None:
        """The ARM id that an id means."""
        match = REGISTRY.match(identity)
        if match:
            if match["registry"].lower() != self._config.registry.lower():
                return None
            base = f"{self._config.registry_id}/{match['kind']}/{match['name']}/versions"
            return self.latest(base) if match["how"] == "labels" else f"{base}/{match['version']}"
        short = identity.removeprefix("azureml:")
        if short.startswith("/subscriptions/"):
            base, _, label = short.partition("/labels/")
            return self.latest(f"{base}/versions") if label else short
        name, separator, version = short.replace("@", ":", 1).rpartition(":")
        if not separator:
            return None
        base = f"{home}/components/{name}/versions"
        return self.latest(base) if version in ("latest", "default") else f"{base}/{version}"

    def latest(self, collection: str) -> str | None:
        """The version of a container that was made last and is not archived."""
        versions = [body for body in self._store.children(collection) if not body["properties"].get("isArchived")]
        return f"{collection}/{versions[-1]['name']}" if versions else None
