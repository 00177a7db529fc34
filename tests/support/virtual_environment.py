"""A finished virtual environment for a checkout of a test's own, without installing anything."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

VENV = Path(sys.executable).parents[1]
READY = ("ready", "ready-cli", "flow/ready")


def virtual_environment(folder: Path) -> None:
    """What `make install` would make of the checkout beside it, from the packages that the tests run with.

    `mlops` is the checkout's own. The marks come last: none of the files that `make` compares them with is newer.
    """
    if folder.exists() or not (folder.parent / "Makefile").exists():
        return
    home = Path(getattr(sys, "_base_executable", sys.executable)).resolve().parent
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    own, theirs = folder / "lib" / version / "site-packages", Path(sysconfig.get_path("purelib"))
    own.mkdir(parents=True)
    (folder / "pyvenv.cfg").write_text(f"home = {home}\ninclude-system-site-packages = false\n", encoding="utf-8")
    (own / "packages.pth").write_text(f"{folder.parent}\n{theirs}\n", encoding="utf-8")
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"
    for name in ("python", "python3", version):
        (folder / "bin" / name).symlink_to(home / version)
    for program in VENV.joinpath("bin").iterdir():
        copy = folder / "bin" / program.name
        if program.is_dir() or copy.is_symlink():
            continue
        text = program.read_bytes()
        if program.name.startswith("activate"):
            copy.write_bytes(text.replace(str(VENV).encode(), str(folder).encode()))
        elif text.startswith(f"#!{VENV}".encode()):
            copy.write_bytes(f"#!{python}\n".encode() + text.partition(b"\n")[2])
            copy.chmod(0o755)
        else:
            copy.symlink_to(program)
    if (VENV / "flow").exists():
        (folder / "flow").symlink_to(VENV / "flow")
    else:
        (folder / "flow").mkdir()
    for name in READY:
        (folder / name).touch()
