"""The stand-in base model: built once per content, shared by every workspace that uses the same cache.

``components/standin/build.py`` makes a tiny Phi-3 from ``data/bundled/pretrain.jsonl``. It is laid out as the offline
hub cache that jobs see (``HF_HOME``) and as the MLflow model of the registry.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

from mlops.local.layout import Layout

HUGGINGFACE_ID = "microsoft/Phi-3-mini-4k-instruct"
MODEL = "Phi-3-mini-4k-instruct"
VERSION = "15"
CHECKOUT = Path(__file__).resolve().parents[3]
BUILD_S = 600.0


class StandInFailed(Exception):
    """The base model could not be built; ends with the program's last words."""


class StandIn:
    """Finds or builds the base model."""

    def __init__(self, layout: Layout, checkout: Path = CHECKOUT) -> None:
        self._layout = layout
        self._script = checkout / "components" / "standin" / "build.py"
        self._chats = checkout / "data" / "bundled" / "pretrain.jsonl"
        template = checkout / "components" / "chat_completion" / "template.py"
        self._sources = (self._script, self._script.with_name("layouts.py"), template, self._chats)
        self._known: tuple[tuple[int, ...], str] | None = None

    @property
    def key(self) -> str:
        """Hash of all that decides the model."""
        times = tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in self._sources)
        if self._known is None or self._known[0] != times:
            digest = hashlib.sha256()
            for path in self._sources:
                digest.update(path.read_bytes() if path.exists() else b"")
                digest.update(b"\0")
            self._known = (times, digest.hexdigest()[:16])
        return self._known[1]

    @property
    def folder(self) -> Path:
        """All of it: ``model`` (a hub folder), ``hub`` (HF_HOME), ``mlflow`` (the registry's model)."""
        return self._layout.cache / "standin" / self.key

    @property
    def hub(self) -> Path:
        """``HF_HOME`` of jobs."""
        return self.folder / "hf"

    def ready(self) -> bool:
        """Whether it is built."""
        return (self.folder / "mlflow" / "MLmodel").exists()

    def ensure(self, *, publish: Path | None = None) -> Path:
        """Build it unless it is there; processes that come meanwhile wait.

        Args:
            publish: the registry's container, into which the MLflow model is copied.

        Returns:
            the folder.

        Raises:
            StandInFailed: the build failed.
        """
        folder = self.folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / f".{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self.ready():
                for left in folder.parent.glob(f".{folder.name}.*/"):  # of a build that was killed
                    if left.is_dir():
                        shutil.rmtree(left, ignore_errors=True)
                self._build(folder, lock.fileno())
            if publish is not None:
                copy_beside(folder / "mlflow", publish / "models" / MODEL / VERSION)
        return folder

    def _build(self, folder: Path, lock: int) -> None:
        if not self._script.exists():
            raise StandInFailed(f"The script that builds the base model is missing: '{self._script}'.")
        beside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
        model = beside / "model"
        beside.mkdir(parents=True)
        try:
            command = [sys.executable, str(self._script), "--pretrain", str(self._chats), "--output", str(model)]
            run(command, lock)
            layouts = [sys.executable, str(self._script.with_name("layouts.py")), "--model", str(model)]
            targets = ["--hub-cache", str(beside / "hf"), "--mlflow", str(beside / "mlflow")]
            run([*layouts, "--repo", HUGGINGFACE_ID, *targets], lock)
            shutil.rmtree(folder, ignore_errors=True)
            beside.rename(folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def run(command: list[str], lock: int) -> None:
    """Run one of the programs that make the model.

    The program inherits the lock: when the daemon that started it is killed, the next one waits for it to end instead
    of building beside it.

    Raises:
        StandInFailed: it failed or took too long.
    """
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=BUILD_S, pass_fds=(lock,), check=False
        )
    except subprocess.TimeoutExpired as error:
        raise StandInFailed(f"Building the base model took longer than {BUILD_S:g} seconds.") from error
    if done.returncode != 0:
        raise StandInFailed(f"Building the base model failed: {(done.stderr or done.stdout)[-2000:]}")


def copy_beside(source: Path, target: Path) -> None:
    """Copy a folder beside its place and rename it; nothing where the same is already there."""
    lines = [f"{path.relative_to(source)} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files(source)]
    mark = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    note = target.with_name(f".{target.name}.from")
    if target.exists() and note.exists() and note.read_text() == mark:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
    shutil.copytree(source, beside, copy_function=shutil.copy2)
    shutil.rmtree(target, ignore_errors=True)
    beside.rename(target)
    note.write_text(mark)


def files(folder: Path) -> list[Path]:
    """The files of a folder, in a stable order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())
