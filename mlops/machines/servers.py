"""The server of a slot: Azure's inference server with our scoring script, or an engine that batches continuously."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

CODE, SCRIPT = Path("environments/serve"), "score.py"
SCORING = CODE / "environment.yml"
ENGINE = CODE / "engine" / "environment.yml"
ENGINE_SCRIPT = "engine.py"
ENGINE_WARM_UP_S = 300
"""After the weights are read an engine compiles and records kernels: assumed, and generous; not measured on a GPU."""
NVIDIA = re.compile(r"standard_n(c|d|v\d+adm?s_a10)", re.IGNORECASE)
"""Sizes with GPUs that vLLM's build for CUDA runs on; the MI300X is AMD's."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """What serves a slot.

    Attributes:
        name: for people.
        environment: the file that defines its image.
        script: the file of the deployment's code that it begins with.
        max_concurrent_requests: of an instance; Azure answers 429 above twice as many.
        variables: of the container, unless set otherwise.
        warm_up_s: how long it makes ready after it has read the weights.
        has_workers: whether Azure's server starts workers for the script, and ends those that take too long.
    """

    name: str
    environment: Path
    script: str
    max_concurrent_requests: int
    variables: Mapping[str, str] = field(default_factory=dict)
    warm_up_s: int = 0
    has_workers: bool = True


def has_nvidia(size: str) -> bool:
    """Whether a machine size has GPUs that the engine runs on, by its name."""
    return NVIDIA.match(size) is not None and "mi300" not in size.lower()


def chosen(environment: Path | None, *, size: str, code: Path, script: str, concurrency: int | None) -> Server:
    """The server of a deployment.

    Args:
        environment: the file that the settings name; None leaves the choice to the machine. A scoring script of
            somebody's own is run by Azure's server wherever it is.
        size: of the machines.
        code: the folder of the deployment's code.
        script: the scoring script in it.
        concurrency: requests at a time that the settings allow; None takes what the server is good for.
    """
    ours = (code, script) == (CODE, SCRIPT)
    path = environment or (ENGINE if ours and has_nvidia(size) else SCORING)
    if path.parts[-len(ENGINE.parts) :] == ENGINE.parts:
        return Server(
            name="vLLM",
            environment=path,
            script=ENGINE_SCRIPT,
            max_concurrent_requests=concurrency or 64,
            warm_up_s=ENGINE_WARM_UP_S,
            has_workers=False,
        )
    threads = {"GUNICORN_CMD_ARGS": "--worker-class gthread --threads 8"}  # else it answers one request at a time
    return Server(
        name="azureml-inference-server-http",
        environment=path,
        script=script,
        max_concurrent_requests=concurrency or 8,
        variables=threads,
    )
