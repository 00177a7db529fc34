"""The clients of one workspace, behind one login.

A target called ``local`` lives in the local workspace: it is started as a process of its own, which prints the
environment that leads Azure's SDK to it. Nothing else differs.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mlops.azure import login, uploads
from mlops.azure.errors import translated
from mlops.azure.transport import transport
from mlops.core.errors import PreconditionError, UsageError
from mlops.core.interrupts import stay_interruptible

if TYPE_CHECKING:
    from azure.mgmt.authorization import AuthorizationManagementClient
    from azure.mgmt.msi import ManagedServiceIdentityClient
    from azure.mgmt.quota import QuotaMgmtClient
    from azure.mgmt.resource.resources import ResourceManagementClient

    from mlops.config.settings import Settings
    from mlops.core.console import Console

Client = TypeVar("Client")

POLL_S = 5
"""Between two looks at a long-running operation, where Azure does not say when to look."""
QUIET: dict[str, Any] = {"show_progress": False, "enable_telemetry": False}
"""Progress is ours to show, and what users do is theirs."""


def timeouts(settings: Settings) -> dict[str, Any]:
    """How long the SDK's clients wait for an answer, without which it is five minutes, and their connections."""
    http = settings.http
    return {
        "connection_timeout": http.connect_timeout_s,
        "read_timeout": http.read_timeout_s,
        "transport": transport(http.connect_timeout_s, http.read_timeout_s),
    }


VARIABLES = ("AZURE_SUBSCRIPTION_ID", "AZURE_RESOURCE_GROUP", "AZUREML_WORKSPACE_NAME")


@dataclass
class Session:
    """One login to one workspace; clients are made when first used."""

    settings: Settings
    console: Console
    ml: Any
    credential: Any
    registries: dict[str, Any] = field(default_factory=dict)
    containers: dict[float, Any] = field(default_factory=dict)
    """The default datastore's container, by the read timeout of its client: one look-up and one pool of connections."""
    opening: threading.Lock = field(default_factory=threading.Lock)
    managers: Managers = field(init=False)

    def __post_init__(self) -> None:
        """The management clients share the session's login."""
        self.managers = Managers(self)

    def registry(self, name: str) -> Any:
        """The client of a registry."""
        from azure.ai.ml import MLClient

        if name not in self.registries:
            with translated(f"open the registry '{name}'"):
                self.registries[name] = MLClient(
                    self.credential, registry_name=name, **QUIET, **timeouts(self.settings)
                )
        return self.registries[name]


class Managers:
    """Clients of Azure's management libraries, made when first used; all of them share one pool of connections.

    What they do stands in :mod:`mlops.azure.management` and its neighbours.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._made: dict[Callable[..., Any], Any] = {}

    @property
    def resources(self) -> ResourceManagementClient:
        """Resource groups, providers, and any resource by its id."""
        from azure.mgmt.resource.resources import ResourceManagementClient

        return self._client(ResourceManagementClient)

    @property
    def identities(self) -> ManagedServiceIdentityClient:
        """User-assigned identities and their federated credentials."""
        from azure.mgmt.msi import ManagedServiceIdentityClient

        return self._client(ManagedServiceIdentityClient)

    @property
    def authorization(self) -> AuthorizationManagementClient:
        """Role definitions and assignments."""
        from azure.mgmt.authorization import AuthorizationManagementClient

        return self._client(AuthorizationManagementClient, api_version="2022-04-01")

    @property
    def quota(self) -> QuotaMgmtClient:
        """Limits of vCPUs, and requests for more."""
        from azure.mgmt.quota import QuotaMgmtClient

        return self._client(QuotaMgmtClient)

    @cached_property
    def _options(self) -> dict[str, Any]:
        return {**timeouts(self._session.settings), "polling_interval": POLL_S}

    def _client(self, kind: Callable[..., Client], **options: Any) -> Client:
        session = self._session
        with session.opening:
            if kind not in self._made:
                given = (session.credential, session.ml.subscription_id)
                self._made[kind] = kind(*given, **options, **self._options)
            made: Client = self._made[kind]
            return made


def connect(settings: Settings, console: Console) -> Session:
    """Log in to the target's workspace.

    Raises:
        PreconditionError: no workspace is named, or the local workspace does not start.
        AzureError: the login is refused.
    """
    if settings.is_local:
        enter_local_workspace()
    _quiet()
    from azure.ai.ml import MLClient

    workspace = workspace_of(settings)
    credential = login.credential(settings, console)
    with translated("open the workspace"):
        ml = MLClient(credential, *workspace, **QUIET, **timeouts(settings))
    return Session(settings=settings, console=console, ml=ml, credential=credential)


def workspace_of(settings: Settings) -> tuple[str, str, str]:
    """Subscription, resource group and workspace: of the environment, else of a config.json beside mlops.yaml.

    Raises:
        PreconditionError: neither names them all.
    """
    given = [os.environ.get(name, "") for name in VARIABLES]
    if all(given):
        return given[0], given[1], given[2]
    if any(given):
        missing = ", ".join(name for name, value in zip(VARIABLES, given, strict=True) if not value)
        raise PreconditionError(
            f"the workspace is named only in part: {missing} is not set",
            hint=f"set all of {', '.join(VARIABLES)}",
            details=login.where_to_set(settings, (*login.IDENTITY, *VARIABLES)),
        )
    config_file = settings.root / "config.json"  # not .azureml/config.json: in a checkout it names the local workspace
    if config_file.is_file():
        return _config(config_file)
    raise PreconditionError(
        f"no workspace is named for the target '{settings.target}'",
        hint=f"set {', '.join(VARIABLES)}, or put the workspace's config.json beside mlops.yaml",
        details=login.where_to_set(settings, (*login.IDENTITY, *VARIABLES)),
    )


def _config(file: Path) -> tuple[str, str, str]:
    """What a workspace's config.json names."""
    try:
        config = json.loads(file.read_text(encoding="utf-8-sig"))
        values = [str(config[name]) for name in ("subscription_id", "resource_group", "workspace_name")]
    except (OSError, ValueError, TypeError, KeyError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise PreconditionError(
            f"'{file}' names no workspace: {what}", hint="download it anew from the workspace's page"
        ) from None
    return values[0], values[1], values[2]


def enter_local_workspace() -> None:
    """Start the local workspace where it does not run, and lead this process to it.

    Every variable that could lead elsewhere (a proxy, an authority, a managed identity) is set anew or removed.
    """
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    for name in ("MLOPS_HOME", "MLOPS_CACHE"):  # the daemon starts in another folder, and `mlops local` must find it
        if environment.get(name):
            environment[name] = str(Path(environment[name]).expanduser().absolute())
    done = subprocess.run(
        [sys.executable, "-m", "mlops.local.daemon", "ensure"],
        env=environment,
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
        check=False,
    )
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        if done.returncode == UsageError.exit_code:
            raise UsageError(lines[0], details=lines[1:], hint="correct the variable, or unset it")
        raise PreconditionError(
            "the local workspace did not start",
            details=lines[-8:],
            hint="mlops local logs shows why; mlops local reset deletes its data and starts afresh",
        )
    for key, value in json.loads(done.stdout)["env"].items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value


def _quiet() -> None:
    """Keep the SDK's remarks about itself out of the user's log, and its dots out of the result on stdout."""
    import warnings

    os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.filterwarnings("ignore", module=r"(azure|msrest|marshmallow|pydash)\b.*")
    from azure.ai.ml._artifacts import _blob_storage_helper
    from azure.ai.ml._utils import _azureml_polling, _endpoint_utils  # importing them sets up their loggers

    for name in ("azure", "azure.ai.ml", _endpoint_utils.__name__, "azure.identity", "azure.core", "urllib3", "msal"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # The SDK prints a dot a second to stdout while it polls and an escape sequence after each upload; it has no switch.
    for module in (_azureml_polling, _blob_storage_helper):
        vars(module)["print"] = lambda *_, **__: None
    uploads.mend()


def finished(poller: Any) -> Any:
    """Wait for a long-running operation, Ctrl-C aside, and return its result."""
    stay_interruptible()
    return poller.result()


def text(value: Any) -> str:
    """The SDK gives states as enumerations or as strings."""
    return str(getattr(value, "value", value) or "")
