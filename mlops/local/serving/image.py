"""What a deployment's image starts: nothing is built here, but a Dockerfile's own command is run.

Without one, the base image's command stands, which for Azure's images is the inference server. A command of its own
runs with the packages of ``.venv/engine`` and is told by MLOPS_HOST and MLOPS_PORT where to listen: in a container
each server has all ports for itself, here they stand side by side.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlops.local.state.store import Document

PACKAGES = Path(sys.prefix) / "engine"


class NoPackages(Exception):
    """The image's command cannot be run on this machine as it is."""


@dataclass(frozen=True)
class Image:
    """An image with a command of its own.

    Attributes:
        name: of the environment.
        command: the words of the command.
        probe: the path that tells whether it is ready.
    """

    name: str
    command: tuple[str, ...]
    probe: str


def image_of(document: Document | None, folder: Callable[[str], Path]) -> Image | None:
    """The image of an environment's version; None where it starts the inference server.

    Args:
        document: the version.
        folder: gives the folder behind the address of a build context.

    Raises:
        NoPackages: what its command needs is not installed.
    """
    properties = (document or {}).get("properties", {})
    build = properties.get("build") or {}
    if document is None or not build.get("contextUri"):
        return None
    dockerfile = folder(str(build["contextUri"])) / str(build.get("dockerfilePath") or "Dockerfile")
    argv = command(dockerfile.read_text(encoding="utf-8")) if dockerfile.is_file() else None
    if argv is None:
        return None
    name = document["id"].split("/")[-3]
    if not (PACKAGES / "ready").is_file():
        raise NoPackages(
            f"The image of '{name}' has a command of its own, whose packages are not installed on this machine: "
            "run make engine"
        )
    route = (properties.get("inferenceConfig") or {}).get("readinessRoute") or {}
    return Image(name, tuple(argv), str(route.get("path") or "/"))


def command(dockerfile: str) -> list[str] | None:
    """The words of a Dockerfile's last CMD; None where it has none.

    >>> command('FROM x' + chr(10) + 'CMD ["a", "b"]')
    ['a', 'b']
    """
    lines = re.sub(r"\\\s*\n", " ", dockerfile).splitlines()
    commands = [line.strip()[4:].strip() for line in lines if re.match(r"\s*CMD\s", line, re.IGNORECASE)]
    if not commands:
        return None
    if not commands[-1].startswith("["):
        return ["/bin/sh", "-c", commands[-1]]
    return [str(word) for word in json.loads(commands[-1])]
