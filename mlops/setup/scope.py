"""Where a target lives, and the names of what stands around its workspace.

Names follow from the place alone, so that a run that was cut off finds what it has made. Those that the whole world
shares (storage account, key vault, registry) end in a hash of subscription, group, workspace and region: a vault that
was deleted keeps its name for 90 days, in its own region.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mlops.core.errors import PreconditionError

VARIABLES = {
    "subscription": "AZURE_SUBSCRIPTION_ID",
    "group": "AZURE_RESOURCE_GROUP",
    "workspace": "AZUREML_WORKSPACE_NAME",
    "region": "AZURE_REGION",
    "tenant": "AZURE_TENANT_ID",
}
CLIENT = "AZURE_CLIENT_ID"
"""What setup makes: the identity that GitHub's jobs log in as."""
CONFIG = {"subscription": "subscription_id", "group": "resource_group", "workspace": "workspace_name"}
RULES = {
    "subscription": re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"),
    "group": re.compile(r"[-\w._()]{0,89}[-\w_()]"),
    "workspace": re.compile(r"[A-Za-z0-9][-\w]{2,32}"),
    "region": re.compile(r"[A-Za-z0-9 ]+"),
    "tenant": re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"),
}
HASH_LENGTH = 10


@dataclass(frozen=True, kw_only=True)
class AzureScope:
    """A workspace that may not exist yet."""

    subscription: str
    group: str
    workspace: str
    region: str
    tenant: str = ""

    @property
    def subscription_id(self) -> str:
        """ARM id of the subscription."""
        return f"/subscriptions/{self.subscription}"

    @property
    def group_id(self) -> str:
        """ARM id of the resource group."""
        return f"{self.subscription_id}/resourceGroups/{self.group}"

    def id_of(self, kind: str, name: str) -> str:
        """ARM id of a resource of the group; the kind is ``Namespace/type``."""
        return f"{self.group_id}/providers/{kind}/{name}"

    @property
    def mark(self) -> str:
        """What names that the whole world shares end in."""
        identity = "|".join((self.subscription, self.group, self.workspace, self.region)).lower()
        return hashlib.sha256(identity.encode()).hexdigest()[:HASH_LENGTH]

    @property
    def storage(self) -> str:
        """3 to 24 lower-case letters and digits."""
        return f"st{self._plain(12)}{self.mark}"

    @property
    def vault(self) -> str:
        """3 to 24 letters, digits and single hyphens, beginning with a letter."""
        return f"kv{self._plain(12)}{self.mark}"

    @property
    def registry(self) -> str:
        """5 to 50 letters and digits."""
        return f"cr{self._plain(30)}{self.mark}"

    @property
    def insights(self) -> str:
        """Application insights: unique within the group."""
        return f"{self.workspace}-insights"

    @property
    def logs(self) -> str:
        """Log analytics: 4 to 63 letters, digits and hyphens."""
        return f"{re.sub(r'[^A-Za-z0-9]+', '-', self.workspace).strip('-')}-logs"

    def _plain(self, length: int) -> str:
        return re.sub(r"[^a-z0-9]", "", self.workspace.lower())[:length]


def scope_of(given: Mapping[str, str | None], root: Path) -> AzureScope:
    """The place that options name, else the environment, else a config.json beside mlops.yaml.

    Raises:
        PreconditionError: values are missing (all of them are named) or cannot be.
    """
    config = _config(root / "config.json")
    values = {
        key: given.get(key) or os.environ.get(variable, "") or config.get(key, "")
        for key, variable in VARIABLES.items()
    }
    absent = [key for key, value in values.items() if not value and key != "tenant"]
    if absent:
        options = " ".join(f"--{key} …" for key in absent)
        raise PreconditionError(
            f"it is not said where to set up: {', '.join(VARIABLES[key] for key in absent)} not set",
            hint=f"set them, or pass {options}",
        )
    wrong = [
        f"{VARIABLES[key]} is '{value}'" for key, value in values.items() if value and not RULES[key].fullmatch(value)
    ]
    if wrong:
        raise PreconditionError(f"it cannot be set up there: {wrong[0]}", details=wrong[1:], hint="correct the value")
    return AzureScope(**{**values, "region": values["region"].replace(" ", "").lower()})


def in_tenant(scope: AzureScope, tenant: str) -> AzureScope:
    """The place, in the tenant of the login.

    Raises:
        PreconditionError: another one is named: its id would go into the key vault and to GitHub.
    """
    if scope.tenant and tenant and scope.tenant.lower() != tenant.lower():
        raise PreconditionError(
            f"AZURE_TENANT_ID is '{scope.tenant}', and the login is one of the tenant '{tenant}'",
            hint=f"az login --tenant {scope.tenant}; or set AZURE_TENANT_ID to the subscription's own",
        )
    return replace(scope, tenant=scope.tenant or tenant)


def _config(file: Path) -> dict[str, str]:
    try:
        values = json.loads(file.read_text(encoding="utf-8-sig"))
        return {key: str(values[name]) for key, name in CONFIG.items() if values.get(name)}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # a config.json that cannot be read names nothing; what is then missing is said
