"""Where Prompt flow keeps the key that it encrypts secrets with: a file of this user's alone.

Prompt flow asks the system's keyring, which a server, a container and a runner do not have. PYTHON_KEYRING_BACKEND
names another one where that is wanted.
"""

import json
import os
from pathlib import Path

from keyring.backend import KeyringBackend


class FileKeyring(KeyringBackend):  # type: ignore[misc]
    """Passwords by service and user, in one file below PF_HOME_DIRECTORY."""

    priority = 1

    @property
    def _file(self) -> Path:
        return Path(os.environ["PF_HOME_DIRECTORY"]) / "keyring.json"

    def _read(self) -> dict[str, str]:
        passwords: dict[str, str] = json.loads(self._file.read_text(encoding="utf-8")) if self._file.exists() else {}
        return passwords

    def _write(self, passwords: dict[str, str]) -> None:
        beside = self._file.with_suffix(f".{os.getpid()}")
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(passwords, stream)
        beside.replace(self._file)

    def get_password(self, service: str, username: str) -> str | None:
        """The password; None where there is none."""
        return self._read().get(f"{service}/{username}")

    def set_password(self, service: str, username: str, password: str) -> None:
        """Keep one."""
        self._write({**self._read(), f"{service}/{username}": password})

    def delete_password(self, service: str, username: str) -> None:
        """Forget one."""
        passwords = self._read()
        if passwords.pop(f"{service}/{username}", None) is None:
            from keyring.errors import PasswordDeleteError

            raise PasswordDeleteError(f"there is no password of '{service}'")
        self._write(passwords)
