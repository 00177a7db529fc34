"""Sets up a virtual environment from locked packages, and says what it does while that takes time.

    python environments/install.py --into .venv --requirements environments/local/requirements.txt --torch torch==2.13.0

PyTorch comes first, by itself and by pip: its builds differ in hashes and needs. uv installs the rest, in a fraction of
pip's time; it is pinned by hash like all else. Where uv cannot be had or fails, pip does the same work. Both install
exactly the files whose hashes are locked, and nothing besides.

What pip is told by its own configuration (index, folders with wheels, certificates, proxy, time-outs) is handed to uv,
which reads none of it. It travels in environment variables, since an address may hold a password.
"""

import argparse
import ast
import collections
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
UV = Path(__file__).resolve().with_name("uv.txt")
SAYING = re.compile(
    r"^(Collecting|Downloading|Using cached|Installing|Building|Resolved|Prepared|Installed|Bytecode)\b.*"
)
"""Lines of pip and uv that tell how far they are."""
KEPT_LINES = 40
TERMINAL_S, LOG_S = 1.0, 15.0
"""Between two signs of life: on a terminal, where one line is written again and again, and in a log."""


class Failed(Exception):
    """A program ended with an error; its last lines are the message."""


def run(what: str, command: list[str], *, env: Mapping[str, str], progress: Callable[[], str] = str) -> None:
    """Runs a program and shows signs of life on stderr until it ends.

    Args:
        what: the step's name, shown before it and, with its time, after it.
        command: the program; its output is shown only where it fails.
        env: its environment.
        progress: how far it is, in a few words.

    Raises:
        Failed: it ended with an error, or could not be started.
    """
    start, live = time.monotonic(), sys.stderr.isatty()
    lines: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)
    print(f"→ {what}", file=sys.stderr, flush=True)
    try:
        process = subprocess.Popen(
            command, env=dict(env), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
    except OSError as error:
        raise Failed(str(error)) from error
    with process:
        assert process.stdout is not None
        output, last_line = process.stdout, ""

        def read() -> None:
            nonlocal last_line
            for line in output:
                lines.append(line)
                last_line = line.strip() if SAYING.match(line.strip()) else last_line

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            while reader.join(TERMINAL_S if live else LOG_S) or reader.is_alive():
                status = "  ".join(filter(None, (f"  {time.monotonic() - start:.0f} s", progress(), last_line)))[:78]
                print(f"\r\033[K{status}" if live else status, end="" if live else "\n", file=sys.stderr, flush=True)
        except BaseException:  # Ctrl-C
            process.terminate()
            raise
        finally:
            print("\r\033[K" if live else "", end="", file=sys.stderr, flush=True)
    if process.returncode != 0:
        raise Failed("".join(lines).rstrip())
    print(f"  {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


def pip_settings(listing: str) -> dict[str, str]:
    """What `pip config list` says that pip would do on installing: `install` beats `global`, the environment both."""
    settings: dict[str, tuple[int, str]] = {}
    ranks = {"global": 0, "install": 1, ":env:": 2}
    for line in listing.splitlines():
        matched = re.fullmatch(r"(global|install|:env:)\.([\w-]+)=(.*)", line.strip())
        if not matched:
            continue
        section, name, value = matched.groups()
        if name not in settings or ranks[section] >= settings[name][0]:
            settings[name] = (ranks[section], str(ast.literal_eval(value)))
    return {name: value for name, (_, value) in settings.items()}


def uv_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """The environment variables in which uv is told what pip's settings say.

    A constraint is not handed on: the lock file has decided each version, and uv takes none without a hash.
    """
    variables = {
        "UV_DEFAULT_INDEX": settings.get("index-url", ""),
        "UV_INDEX": " ".join(settings.get("extra-index-url", "").split()),
        "UV_FIND_LINKS": ",".join(settings.get("find-links", "").split()),
        "UV_INSECURE_HOST": " ".join(settings.get("trusted-host", "").split()),
        "UV_NO_INDEX": "true" if settings.get("no-index", "").lower() in ("1", "true", "yes", "on") else "",
        "UV_HTTP_TIMEOUT": settings.get("timeout", settings.get("default-timeout", "")),
        "SSL_CERT_FILE": settings.get("cert", ""),
        "SSL_CLIENT_CERT": settings.get("client-cert", ""),
        "ALL_PROXY": settings.get("proxy", ""),
        # As pip does, look at every index: which file is taken is decided by its hash, not by where it lies.
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }
    return {name: value for name, value in variables.items() if value}


def packages_in(environment: Path) -> int:
    """How many packages stand in a virtual environment."""
    return sum(1 for _ in environment.glob("lib/python*/site-packages/*.dist-info"))


def install(arguments: argparse.Namespace) -> None:
    """Makes the environment that the command line asks for.

    Raises:
        Failed: pip could not do it either.
    """
    into: Path = arguments.into
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV")}
    env["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    python = str(into / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--progress-bar", "off"]
    locked = ["--require-hashes", "--no-deps", "-r"]

    def progress() -> str:
        return f"{packages_in(into)} packages installed"

    run(f"virtual environment {into}", [sys.executable, "-m", "venv", str(into)], env=env)
    if arguments.torch:
        options = shlex.split(arguments.torch_from)
        run(f"{arguments.torch} by pip", [*pip, "--no-compile", *options, arguments.torch], env=env)
    try:
        run("uv", [*pip, "--no-compile", *locked, str(UV)], env=env)
        listing = subprocess.run([python, "-m", "pip", "config", "list"], env=env, capture_output=True, text=True)
        uv_env = env | uv_environment(pip_settings(listing.stdout))
        uv = [str(into / "bin" / "uv"), "pip", "install", "--python", python]
        compiled = ["--compile-bytecode"] if arguments.compile else []  # of all packages that are there
        run(
            f"locked packages by uv{', then their bytecode' if arguments.compile else ''}",
            [*uv, *compiled, *locked, str(arguments.requirements)],
            env=uv_env,
            progress=progress,
        )
    except Failed as error:
        print(f"{error}\n! uv did not do it: pip does the same in some minutes", file=sys.stderr, flush=True)
        run("locked packages by pip", [*pip, *locked, str(arguments.requirements)], env=env, progress=progress)
    if arguments.editable:
        run("mlops itself", [*pip, "--no-deps", "--editable", str(arguments.editable)], env=env)
    if not arguments.no_check:
        run("do the packages fit together (pip check)", [python, "-m", "pip", "check"], env=env)


def main(argv: list[str] | None = None) -> int:
    """Installs; returns the exit status."""
    parser = argparse.ArgumentParser(description="Set up a virtual environment from locked packages.")
    parser.add_argument("--into", type=Path, required=True, help="folder of the virtual environment")
    parser.add_argument("--requirements", type=Path, required=True, help="file of locked packages, with hashes")
    parser.add_argument("--torch", default="", help="requirement for PyTorch, which is installed first")
    parser.add_argument("--torch-from", default="", help="pip's options for where that comes from")
    parser.add_argument("--editable", type=Path, help="checkout to install as it stands")
    parser.add_argument("--no-check", action="store_true", help="packages are missing on purpose: do not run pip check")
    parser.add_argument("--compile", action="store_true", help="compile all modules now, not when they are imported")
    arguments = parser.parse_args(argv)
    start = time.monotonic()
    try:
        install(arguments)
    except Failed as error:
        print(f"{error}\n✕ {arguments.into} could not be set up; what failed stands above", file=sys.stderr)
        return 1
    print(f"✓ {arguments.into} is ready after {time.monotonic() - start:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
