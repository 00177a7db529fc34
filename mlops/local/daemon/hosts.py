"""Which hosts are Azure's, and which of those, and of GitHub's, this workspace answers for."""

from __future__ import annotations

import re
from enum import Enum

from mlops.local.state.accounts import ServedAccounts
from mlops.local.state.config import Config


class Service(Enum):
    """The service behind a host."""

    IDENTITY = "identity"
    CONTROL = "control plane"
    DATA = "data plane"
    BLOBS = "blobs"
    SCORING = "scoring"
    TELEMETRY = "telemetry"
    GITHUB = "GitHub's tokens"


IDENTITY_HOSTS = ("login.microsoftonline.com", "login.windows.net", "sts.windows.net", "login.microsoft.com")
GITHUB_REQUESTS = "run-actions-0-azure-local.actions.githubusercontent.com"
"""Shaped like the hosts that GitHub gives to jobs, and none of them: other traffic to GitHub must pass untouched."""
GITHUB_ISSUER = "token.actions.githubusercontent.com"
GITHUB_HOSTS = (GITHUB_REQUESTS, GITHUB_ISSUER)
TELEMETRY_HOSTS = ("dc.services.visualstudio.com",)
TELEMETRY_SUFFIX = ".in.applicationinsights.azure.com"
BLOB_SUFFIX = ".blob.core.windows.net"
SCORING_SUFFIX = ".inference.ml.azure.com"

AZURE = re.compile(
    r"(^|\.)(azure\.com|azure\.net|windows\.net|azureml\.ms|azureml\.net|microsoftonline\.com|azure-api\.net|azurecr\.io"
    r"|azure\.us|azure\.cn|usgovcloudapi\.net|chinacloudapi\.cn|microsoftonline\.us|microsoftonline\.cn"
    r"|services\.visualstudio\.com|applicationinsights\.microsoft\.com|data\.microsoft\.com)$"
    r"|^(login|graph)\.microsoft\.com$"
    r"|^169\.254\.169\.254$|^168\.63\.129\.16$"
)
"""Hosts (and the metadata addresses of a virtual machine) that a program under this workspace must never reach."""

GITHUB_STORAGE = re.compile(r"^productionresultssa\d+\.blob\.core\.windows\.net$")
"""Where GitHub keeps the artifacts of workflow runs: on Azure, but no one's workspace."""


def service(host: str, accounts: ServedAccounts) -> Service | None:
    """The service that answers for a host name (lower case, without port); None for all others."""
    if host in IDENTITY_HOSTS:
        return Service.IDENTITY
    if host == "management.azure.com":
        return Service.CONTROL
    if host == "ml.azure.com" or host.endswith(".api.azureml.ms"):
        return Service.DATA
    if host.endswith(BLOB_SUFFIX) and host.removesuffix(BLOB_SUFFIX) in accounts:
        return Service.BLOBS
    if host.endswith(SCORING_SUFFIX):
        return Service.SCORING
    if host in TELEMETRY_HOSTS or host.endswith(TELEMETRY_SUFFIX):
        return Service.TELEMETRY
    if host in GITHUB_HOSTS:
        return Service.GITHUB
    return None


def is_azure(host: str) -> bool:
    """Whether a host is Azure's, served here or not."""
    return bool(AZURE.search(host)) and not GITHUB_STORAGE.match(host)


def certificate_names(config: Config) -> list[str]:
    """The names on the certificate; a wildcard stands for one label."""
    return [
        *IDENTITY_HOSTS,
        *GITHUB_HOSTS,
        "management.azure.com",
        "ml.azure.com",
        "*.api.azureml.ms",
        f"*{BLOB_SUFFIX}",
        f"*{SCORING_SUFFIX}",
        f"*.{config.region}{SCORING_SUFFIX}",
        *TELEMETRY_HOSTS,
        f"*{TELEMETRY_SUFFIX}",
        f"*.{config.region}{TELEMETRY_SUFFIX}",
    ]


def constrained_names() -> list[str]:
    """The only trees of names that the private authority may sign for."""
    return [
        *IDENTITY_HOSTS,
        *GITHUB_HOSTS,
        "management.azure.com",
        "ml.azure.com",
        "api.azureml.ms",
        BLOB_SUFFIX.removeprefix("."),
        *TELEMETRY_HOSTS,
        TELEMETRY_SUFFIX.removeprefix("."),
    ]
