"""Files that only their owner may read, written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from pathlib import Path
from typing import Any


def write_private(path: Path, content: bytes) -> None:
    """Write beside with mode 0600 and rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_private_json(path: Path, value: Any) -> None:
    """The same for a JSON document."""
    write_private(path, json.dumps(value, indent=2).encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file; None where the file is missing or broken."""
    with contextlib.suppress(OSError, ValueError):
        value = json.loads(path.read_bytes())
        if isinstance(value, dict):
            return value
    return None
