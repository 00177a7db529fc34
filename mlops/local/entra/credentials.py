"""The secrets that this workspace issued: its client's, the storage account's, the administrator's."""

from __future__ import annotations

import base64
import secrets
import uuid
from dataclasses import asdict, dataclass, fields

from mlops.local.state.config import Config
from mlops.local.state.layout import Layout
from mlops.local.state.private_files import read_json, write_private_json


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """Kept in ``credentials.json``, readable by the owner alone; new ones after a reset.

    Attributes:
        tenant: Entra tenant that issues the tokens.
        client_id: the service principal that commands sign in as.
        client_secret: its secret.
        object_id: the principal's object id, as tokens carry it.
        account_key: the storage account's key, base64.
        admin_token: opens the daemon's own routes (faults, stop), which Azure does not have.
    """

    tenant: str
    client_id: str
    client_secret: str
    object_id: str
    account_key: str
    admin_token: str

    @classmethod
    def load(cls, layout: Layout, config: Config) -> Credentials:
        """Read them, or issue them the first time."""
        stored = read_json(layout.credentials)
        names = [entry.name for entry in fields(cls)]
        if stored and all(isinstance(stored.get(name), str) for name in names) and stored["tenant"] == config.tenant:
            return cls(**{name: stored[name] for name in names})
        made = cls(
            tenant=config.tenant,
            client_id=str(uuid.uuid4()),
            client_secret=secrets.token_urlsafe(30),
            object_id=str(uuid.uuid4()),
            account_key=base64.b64encode(secrets.token_bytes(64)).decode(),
            admin_token=secrets.token_urlsafe(30),
        )
        write_private_json(layout.credentials, asdict(made))
        return made
