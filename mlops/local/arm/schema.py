"""Of which kind the fields of a request are: Azure reads bodies into types, and refuses what does not fit with a 400.

Only fields that this workspace itself reads are named; everything else is kept and given back as it came.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mlops.local.arm.errors import bad_request
from mlops.local.state.store import Document

_NODE = ("inputs", "outputs", "resources", "distribution", "limits", "environment_variables")
_JOB = ("inputs", "outputs", "jobs", "settings", "limits", "resources", "distribution", "environmentVariables")
OBJECTS = (
    "properties",
    "identity",
    "identity.userAssignedIdentities",
    "sku",
    "tags",
    *(f"properties.{name}" for name in (*_JOB, "tags", "properties", "services", "credentials", "componentSpec")),
    *(f"properties.{name}" for name in ("flavors", "flavors.*", "build", "inferenceConfig")),
    "properties.properties.scaleSettings",
    "properties.properties.userAccountCredentials",
    "properties.outputs.*",
    "properties.jobs.*",
    *(f"properties.jobs.*.{name}" for name in _NODE),
    *(f"properties.componentSpec.{name}" for name in (*_NODE, "jobs", "jobs.*")),
    *(f"properties.componentSpec.jobs.*.{name}" for name in _NODE),
)
TEXTS = (
    "location",
    "kind",
    "identity.type",
    "tags.*",
    "properties.tags.*",
    *(
        f"properties.{name}"
        for name in (
            *("description", "displayName", "experimentName", "jobType", "command", "codeId", "environmentId"),
            *("computeId", "componentId", "modelUri", "modelType", "jobName", "dataUri", "dataType", "codeUri"),
            *("image", "condaFile", "datastoreType", "accountName", "containerName", "computeType", "authMode"),
            *("friendlyName", "instanceType"),
        )
    ),
    *(f"properties.credentials.{name}" for name in ("credentialsType", "tenantId", "clientId")),
    *(f"properties.properties.{name}" for name in ("vmSize", "vmPriority", "osType", "remoteLoginPortPublicAccess")),
    "properties.properties.scaleSettings.nodeIdleTimeBeforeScaleDown",
    *(f"properties.componentSpec.{name}" for name in ("type", "name", "command", "code")),
)


def check(body: Document) -> None:
    """Refuse a body with a field of another kind; null counts as left out."""
    for kind, paths, said in ((dict, OBJECTS, "a JSON object"), (str, TEXTS, "a string")):
        for path in paths:
            for where, value in _at(body, path.split("."), ""):
                if value is not None and not isinstance(value, kind):
                    raise bad_request(f"The request is invalid: '{where}' must be {said}.")


def _at(value: Any, path: list[str], where: str) -> Iterator[tuple[str, Any]]:
    """Every value at a path (``*`` is each name), with its name in full."""
    if not path:
        yield where.lstrip("."), value
    elif isinstance(value, dict):
        names = list(value) if path[0] == "*" else [path[0]]
        for name in names:
            if name in value:
                yield from _at(value[name], path[1:], f"{where}.{name}")
