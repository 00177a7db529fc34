"""Prompt flow's own environment: an interpreter beside ours, and a home that keeps to this checkout.

Prompt flow holds packages at versions that ours cannot have, so it lives in ``.venv/flow`` and is only ever a process.
It is told what a program of ours would do by itself: send nothing home (telemetry, the look for a newer version at each
test, the exporter's own statistics), and keep connections below ``.mlops`` instead of the user's home.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops.core.errors import MlopsError, PreconditionError

if TYPE_CHECKING:
    from mlops.config.settings import Settings

VENV = Path(".venv") / "flow"
SOURCE = Path("components") / "chat_flow"
INSIDE = Path(__file__).parent / "inside"
CONFIG = """\
telemetry:
  enabled: false
trace:
  destination: none
connection:
  provider: local
"""
NEVER = "9999-01-01 00:00:00.000000"
"""When it looked for a newer version the last time; it looks again a week later."""


class FlowFailed(MlopsError):
    """The flow ran and failed; the message is Prompt flow's or the node's own."""

    exit_code = 8


@dataclass(frozen=True)
class Environment:
    """The interpreter, the home and the flow's folder.

    Attributes:
        python: Prompt flow's interpreter.
        home: its connections, its settings, and the copy of the flow that is run.
        source: the flow as it stands in the checkout.
    """

    python: Path
    home: Path
    source: Path

    @classmethod
    def of(cls, settings: Settings) -> Environment:
        """The environment of a checkout; made ready where it is not.

        Raises:
            PreconditionError: it is not installed.
        """
        scripts = "Scripts" if sys.platform == "win32" else "bin"
        python = settings.root / VENV / scripts / "python"
        if not python.exists():
            raise PreconditionError(f"Prompt flow is not installed: there is no '{python}'", hint="make flow")
        environment = cls(python=python, home=settings.home / "promptflow", source=settings.root / SOURCE)
        environment._prepare()
        return environment

    @property
    def pf(self) -> Path:
        """Prompt flow's own command."""
        return self.python.with_name("pf")

    def variables(self) -> dict[str, str]:
        """What must be in the environment of any program of Prompt flow's."""
        path = [str(INSIDE), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            "PF_HOME_DIRECTORY": str(self.home),
            "PYTHON_KEYRING_BACKEND": os.environ.get("PYTHON_KEYRING_BACKEND") or "file_keyring.FileKeyring",
            "PYTHONPATH": os.pathsep.join(path),
            "APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL": "true",
        }

    def copy(self, purpose: str = "tries") -> Path:
        """A fresh copy of the flow to run, one per purpose: Prompt flow writes into the folder that it runs."""
        target = self.home / purpose / SOURCE.name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.source, target, ignore=shutil.ignore_patterns("__pycache__", ".promptflow"))
        return target

    def run(self, program: str, document: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Run one of the programs in ``inside``: a JSON document in by stdin, one out by stdout.

        Raises:
            FlowFailed: it failed, or did not end in time.
        """
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        try:
            done = subprocess.run(
                [self.python, INSIDE / program],
                input=json.dumps(document),
                env=environment | self.variables(),
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise FlowFailed(f"Prompt flow did not end within {timeout_s:g} s") from None
        try:
            answer: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            tail = done.stderr.strip().splitlines()[-8:]
            raise FlowFailed(f"Prompt flow ended with code {done.returncode}", details=tail, hint="make flow") from None
        if "error" in answer:
            raise FlowFailed(str(answer["error"]))
        return answer

    def _prepare(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.home.chmod(0o700)
        files = {"pf.yaml": CONFIG, "pf_version_check.json": json.dumps({"last_check_time": NEVER})}
        for name, text in files.items():
            if not (self.home / name).exists():
                (self.home / name).write_text(text, encoding="utf-8")
