"""A deployment's logs, put together the way ``getLogs`` shows them."""

from __future__ import annotations

from collections import deque
from pathlib import Path

READ_BYTES = 4 * 1024 * 1024
"""How much of the end of a log is looked at."""


def container_log(folder: Path, *, container: str, tail: int, provisioning: str) -> str:
    """Status of the instance, events of the pod, and the last lines of one container's log.

    Args:
        folder: of the deployment's latest generation.
        container: ``InferenceServer`` or ``StorageInitializer``.
        tail: how many lines; 0 is all.
        provisioning: the deployment's state, which tells how far its container came.
    """
    events = _lines(folder / "events.log", 200)
    started = any("Name: Started" in line for line in events)
    ready = any("Name: ContainerReady" in line for line in events)
    status = {
        "SystemSetup": "Succeeded",
        "UserContainerImagePull": "Succeeded",
        "ModelDownload": "Succeeded" if started else "InProgress",
        "UserContainerStart": "Succeeded" if ready else ("Failed" if provisioning == "Failed" else "InProgress"),
    }
    if container.lower() == "storageinitializer":
        logs = _lines(folder / "storage-initializer.log", tail)
    else:
        logs = []
        instances = sorted(folder.glob("instance-*.log")) if folder.is_dir() else []
        for path in instances:
            if len(instances) > 1:
                logs.append(f"--- {path.stem} ---")
            logs += _lines(path, tail)
    blocks = [
        ["Instance status:", *(f"{name}: {value}" for name, value in status.items())],
        ["Container events:", *events],
        ["Container logs:", *logs],
    ]
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _lines(path: Path, tail: int) -> list[str]:
    """The last lines of a file; none where it does not exist."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - READ_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    lines = text.splitlines()
    return list(deque(lines, maxlen=tail)) if tail > 0 else lines
