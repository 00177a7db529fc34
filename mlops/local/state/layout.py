"""Where the local workspace keeps its state; one daemon per state folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """The files of one local workspace, below ``root``."""

    root: Path
    cache: Path

    @classmethod
    def find(cls) -> Layout:
        """Below MLOPS_HOME, or ``.mlops`` in the checkout that this package lives in; MLOPS_CACHE moves the cache."""
        home = Path(os.environ.get("MLOPS_HOME") or Path(__file__).resolve().parents[3] / ".mlops")
        home = home.expanduser().absolute()
        cache = Path(os.environ.get("MLOPS_CACHE") or home / "cache").expanduser().absolute()
        return cls(root=home / "local", cache=cache)

    @property
    def database(self) -> Path:
        """Every resource and operation."""
        return self.root / "workspace.sqlite"

    @property
    def seed_record(self) -> Path:
        """Whether the subscription was seeded, and with a workspace or empty."""
        return self.root / "subscription.json"

    @property
    def blobs(self) -> Path:
        """Blob contents: ``<account>/<container>/<blob name>``."""
        return self.root / "blobs"

    @property
    def jobs(self) -> Path:
        """One folder per job: its steps' working folders."""
        return self.root / "jobs"

    @property
    def deployments(self) -> Path:
        """One folder per deployment: code, logs, process record."""
        return self.root / "deployments"

    @property
    def mlflow(self) -> Path:
        """The tracking server's database and artifacts."""
        return self.root / "mlflow"

    @property
    def tls(self) -> Path:
        """The private CA, its key (0600) and the bundle for clients."""
        return self.root / "tls"

    @property
    def logs(self) -> Path:
        """Logs of the daemon and of the tracking server."""
        return self.root / "logs"

    @property
    def daemon(self) -> Path:
        """Process id, ports and start time of the running daemon."""
        return self.root / "daemon.json"

    @property
    def credentials(self) -> Path:
        """Tenant, client id and secret that this workspace issued (0600)."""
        return self.root / "credentials.json"
