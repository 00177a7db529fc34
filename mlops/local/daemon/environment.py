"""The environment variables that lead a program's Azure calls to the local workspace and nowhere else."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlops.local.state.config import Config
from mlops.local.state.layout import Layout

Environment = dict[str, str | None]
"""Variables to set; None takes one away."""

UNSET = (
    # other proxies
    "ALL_PROXY",
    "all_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    # other authorities, clouds and ways to sign in, which azure-identity would try
    "AZURE_AUTHORITY_HOST",
    "AZURE_REGIONAL_AUTHORITY_NAME",
    "ARM_CLOUD_METADATA_URL",
    "AZUREML_CURRENT_CLOUD",
    "AZURE_CLOUD",
    "AZURE_ENVIRONMENT",
    "AZURE_CLIENT_CERTIFICATE_PATH",
    "AZURE_CLIENT_CERTIFICATE_PASSWORD",
    "AZURE_CLIENT_SEND_CERTIFICATE_CHAIN",
    "AZURE_USERNAME",
    "AZURE_PASSWORD",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_POD_IDENTITY_AUTHORITY_HOST",
    "AZURE_KUBERNETES_TOKEN_PROXY",
    "AZURE_KUBERNETES_CA_DATA",
    "AZURE_KUBERNETES_CA_FILE",
    "AZURE_KUBERNETES_SNI_NAME",
    "AZURE_TOKEN_CREDENTIALS",
    "IDENTITY_ENDPOINT",
    "IDENTITY_HEADER",
    "IDENTITY_SERVER_THUMBPRINT",
    "IMDS_ENDPOINT",
    "MSI_ENDPOINT",
    "MSI_SECRET",
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    # what Azure ML sets on its own machines
    "AZUREML_ARM_SUBSCRIPTION",
    "AZUREML_ARM_RESOURCEGROUP",
    "AZUREML_ARM_WORKSPACE_NAME",
    "AZUREML_SERVICE_ENDPOINT",
    "AZUREML_RUN_ID",
    "AZUREML_RUN_TOKEN",
    "AZUREML_WORKSPACE_ID",
    "DEFAULT_IDENTITY_CLIENT_ID",
    "OBO_ENDPOINT",
    # another tracking server
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_RUN_ID",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_EXPERIMENT_NAME",
)

HARMLESS = {
    "AZURE_AUTHORITY_HOST": "login.microsoftonline.com",
    "AZUREML_CURRENT_CLOUD": "AzureCloud",
    "ARM_CLOUD_METADATA_URL": "https://management.azure.com/metadata/endpoints?api-version=2019-05-01",
}
"""For variables that mean something even where they are empty."""

UPSTREAM_PROXY = "MLOPS_UPSTREAM_PROXY"
UPSTREAM_NO_PROXY = "MLOPS_UPSTREAM_NO_PROXY"
UPSTREAM_BUNDLE = "MLOPS_UPSTREAM_CA_BUNDLE"
PROXY_VARIABLES = (
    *("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "FTP_PROXY", "ftp_proxy"),
    *("NO_PROXY", "no_proxy", UPSTREAM_PROXY, UPSTREAM_NO_PROXY, UPSTREAM_BUNDLE),
)
DIRECT = "127.0.0.1,localhost,::1"


@dataclass(frozen=True)
class Outer:
    """What was in force before this workspace: its way out and its roots."""

    proxy: str | None
    no_proxy: str
    bundle: str | None

    @classmethod
    def read(cls, environ: Mapping[str, str] | None = None) -> Outer:
        """From the environment; a workspace's own variables are seen through to what was before them."""
        values = os.environ if environ is None else environ
        if UPSTREAM_PROXY in values:
            return cls(
                proxy=values[UPSTREAM_PROXY] or None,
                no_proxy=values.get(UPSTREAM_NO_PROXY, ""),
                bundle=values.get(UPSTREAM_BUNDLE) or None,
            )

        def first(*names: str) -> str:
            return next((values[name] for name in names if values.get(name)), "")

        proxy = first("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "http_proxy", "HTTP_PROXY")
        if proxy and "://" not in proxy:
            proxy = f"http://{proxy}"
        return cls(
            proxy=proxy or None,
            no_proxy=first("no_proxy", "NO_PROXY"),
            bundle=first("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE") or None,
        )


def environment(layout: Layout, config: Config, *, proxy_port: int, credentials: Mapping[str, str]) -> Environment:
    """Everything that a program needs, and what it must not inherit."""
    proxy = f"http://127.0.0.1:{proxy_port}"
    bundle = str(layout.tls / "bundle.pem")
    outer = Outer.read()
    values: Environment = {}
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
        values[name] = proxy
    values |= {"NO_PROXY": DIRECT, "no_proxy": DIRECT}
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE"):
        values[name] = bundle
    values |= {
        "NODE_EXTRA_CA_CERTS": str(layout.tls / "ca.pem"),
        "AZURE_TENANT_ID": config.tenant,
        "AZURE_CLIENT_ID": credentials["client_id"],
        "AZURE_CLIENT_SECRET": credentials["client_secret"],
        "AZURE_SUBSCRIPTION_ID": config.subscription,
        "AZURE_RESOURCE_GROUP": config.resource_group,
        "AZUREML_WORKSPACE_NAME": config.workspace,
        "AZURE_LOCATION": config.region,
        "AZURE_REGION": config.region,
        UPSTREAM_PROXY: outer.proxy or "",
        UPSTREAM_NO_PROXY: outer.no_proxy,
        UPSTREAM_BUNDLE: outer.bundle or "",
    }
    return values | dict.fromkeys(UNSET)


def as_shell(values: Environment) -> str:
    """Lines for ``eval``."""
    lines = [f"unset {name}" for name, value in values.items() if value is None]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in values.items() if value is not None]
    return "\n".join(lines)


def as_github(values: Environment, environ: Mapping[str, str] | None = None) -> str:
    """Lines for the file GITHUB_ENV, which cannot unset a variable: one that is set now gets its harmless value."""
    now = os.environ if environ is None else environ
    lines = [f"{name}={HARMLESS.get(name, '')}" for name, value in values.items() if value is None and now.get(name)]
    lines += [f"{name}={value}" for name, value in values.items() if value is not None]
    return "\n".join(lines)


def write_config_json(path: Path, config: Config) -> None:
    """What ``MLClient.from_config`` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "subscription_id": config.subscription,
        "resource_group": config.resource_group,
        "workspace_name": config.workspace,
    }
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    beside.replace(path)


def offer_config_json(layout: Layout, config: Config) -> None:
    """Write the workspace's config.json where clients look for it.

    Below the state folder always; and as ``.azureml/config.json`` of the checkout that holds the state folder, where
    ``MLClient.from_config`` finds it from any folder of that checkout, unless one of a real workspace is there.
    """
    write_config_json(layout.root / "config.json", config)
    if layout.root.parent.name != ".mlops":
        return
    file = layout.root.parent.parent / ".azureml" / "config.json"
    try:
        ours = (
            not file.exists() or json.loads(file.read_text(encoding="utf-8"))["subscription_id"] == config.subscription
        )
    except (ValueError, KeyError, TypeError, OSError):
        ours = False
    if ours:
        write_config_json(file, config)
