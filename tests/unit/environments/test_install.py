"""Setting up a virtual environment: by uv, by pip where uv cannot do it, with what pip's configuration says."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import subprocess
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.checkout import ROOT

LISTING = """\
:env:.find-links='/wheels /more'
:env:.disable-pip-version-check='1'
freeze.timeout='1'
global.index-url='https://me:secret@example.org/simple'
global.extra-index-url='\\nhttps://one.example.org/simple\\nfile:///two/simple'
global.find-links='/elsewhere'
global.timeout='15'
install.timeout='180'
global.cert='/etc/ssl/ca.pem'
global.no-index='false'
nonsense
"""
UV = """\
#!/bin/sh
echo "$@" > "$UV_SAW"
env | grep ^UV_ >> "$UV_SAW"
[ -z "$UV_BREAKS" ] || { echo "uv broke"; exit 2; }
while [ "$1" != --python ]; do shift; done
exec "$2" -m pip install --no-compile --require-hashes --no-deps -r "$(for last; do :; done; echo "$last")"
"""


@pytest.fixture
def install() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install", ROOT / "environments" / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def wheel(folder: Path, name: str, files: dict[str, str]) -> str:
    """A wheel of a package; the line that locks it."""
    path, info = folder / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    sums = {where: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()) for where, text in files.items()}
    record = "".join(f"{where},sha256={total.rstrip(b'=').decode()},\n" for where, total in sums.items())
    with zipfile.ZipFile(path, "w") as archive:
        for where, text in (files | {f"{info}/RECORD": record}).items():
            member = zipfile.ZipInfo(where)
            member.external_attr = (0o100755 if "/scripts/" in where else 0o100644) << 16
            archive.writestr(member, text)
    return f"{name}==1.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


@pytest.fixture
def wheels(install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with uv, which here is a script, and a package; pip is told to look nowhere else."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    (tmp_path / "requirements.txt").write_text(wheel(folder, "wanted", {"wanted.py": "FOUND = 1\n"}))
    (tmp_path / "uv.txt").write_text(wheel(folder, "uv", {"uv-1.0.data/scripts/uv": UV}))
    monkeypatch.setattr(install, "UV", tmp_path / "uv.txt")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("UV_SAW", str(tmp_path / "saw"))
    monkeypatch.setattr(install, "LOG_S", 0.1)
    return folder


def imported(environment: Path) -> str:
    command = [str(environment / "bin" / "python"), "-c", "import wanted; print(wanted.FOUND)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_uv_is_told_what_pip_is(install: ModuleType) -> None:
    settings = install.pip_settings(LISTING)
    assert settings["find-links"] == "/wheels /more"
    assert settings["timeout"] == "180"

    variables = install.uv_environment(settings)

    assert variables == {
        "UV_DEFAULT_INDEX": "https://me:secret@example.org/simple",
        "UV_INDEX": "https://one.example.org/simple file:///two/simple",
        "UV_FIND_LINKS": "/wheels,/more",
        "UV_HTTP_TIMEOUT": "180",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "SSL_CERT_FILE": "/etc/ssl/ca.pem",
    }


def test_uv_installs_the_locked_packages(
    install: ModuleType, wheels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    into, requirements = tmp_path / "venv", tmp_path / "requirements.txt"
    assert install.main(["--into", str(into), "--requirements", str(requirements), "--compile"]) == 0
    assert imported(into) == "1"
    saw = (tmp_path / "saw").read_text()
    assert "--require-hashes --no-deps" in saw
    assert "--compile-bytecode" in saw
    assert f"UV_FIND_LINKS={wheels}\n" in saw
    assert "UV_NO_INDEX=true\n" in saw
    stderr = capsys.readouterr().err
    assert "→ locked packages by uv" in stderr
    assert "packages installed" in stderr  # a sign of life while it works
    assert f"✓ {into} is ready after" in stderr


def test_pip_does_it_where_uv_breaks(
    install: ModuleType,
    wheels: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("UV_BREAKS", "1")
    into, requirements = tmp_path / "venv", tmp_path / "requirements.txt"
    assert install.main(["--into", str(into), "--requirements", str(requirements)]) == 0
    assert imported(into) == "1"
    stderr = capsys.readouterr().err
    assert "uv broke\n! uv did not do it: pip does the same" in stderr
    assert "→ locked packages by pip" in stderr


def test_pip_does_it_where_uv_cannot_be_had_and_nothing_is_taken_that_is_not_locked(
    install: ModuleType, wheels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (wheels / "uv-1.0-py3-none-any.whl").unlink()
    into, requirements = tmp_path / "venv", tmp_path / "requirements.txt"
    assert install.main(["--into", str(into), "--requirements", str(requirements)]) == 0
    assert imported(into) == "1"

    wheel(wheels, "wanted", {"wanted.py": "FOUND = 2\n"})
    assert install.main(["--into", str(tmp_path / "other"), "--requirements", str(requirements)]) == 1
    stderr = capsys.readouterr().err
    assert "DO NOT MATCH THE HASHES" in stderr
    assert f"✕ {tmp_path / 'other'} could not be set up" in stderr
