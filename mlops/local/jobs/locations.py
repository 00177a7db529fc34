"""Where the files behind Azure ML's uris and ids lie on this machine."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlops.local.jobs.components import REGISTRY
from mlops.local.jobs.runs import Runs
from mlops.local.state.accounts import ServedAccounts
from mlops.local.state.config import Config
from mlops.local.state.layout import Layout
from mlops.local.state.store import Store

DATASTORE = re.compile(
    r"^azureml://(?:subscriptions/.+?/)?datastores/(?P<store>[^/]+)(?:/paths)?(?:/(?P<path>.*))?$", re.I
)
OUTPUT = re.compile(r"^azureml://jobs/(?P<job>[^/]+)/outputs/(?P<output>[^/]+)(?:/paths)?(?:/(?P<path>.*))?$", re.I)
ASSET = re.compile(r"/(?P<kind>models|data|codes)/(?P<name>[^/]+)/(?P<how>versions|labels)/(?P<version>[^/]+)$", re.I)
ARTIFACTS = "azureml"
"""The container behind ``workspaceartifactstore``."""


def artifact_root(layout: Layout, config: Config) -> Path:
    """The folder that holds a folder ``dcid.<run>`` for each run."""
    return layout.blobs / config.account / ARTIFACTS / "ExperimentRun"


class Unresolved(ValueError):
    """A uri or id that leads to no files here; says why."""


def inside(folder: Path, path: str) -> Path:
    """A path below a folder, however it is written.

    Raises:
        Unresolved: it climbs out.
    """
    segments = [part for part in unquote(path).split("/") if part not in ("", ".")]
    if ".." in segments or "\\" in path or "\0" in path:
        raise Unresolved(f"The path '{path}' is not allowed.")
    return folder.joinpath(*segments)


class Locations:
    """Resolves uris against one workspace."""

    def __init__(self, layout: Layout, config: Config, accounts: ServedAccounts, store: Store, runs: Runs) -> None:
        self._accounts = accounts
        self._layout = layout
        self._config = config
        self._store = store
        self._runs = runs

    def container(self, name: str, account: str | None = None) -> Path:
        """The folder of a blob container."""
        if account and account not in self._accounts:
            raise Unresolved(f"The storage account '{account}' is not served here.")
        return inside(self._layout.blobs, f"{self._config.account}/{name}")

    def datastore(self, name: str) -> Path:
        """The folder of a datastore."""
        known = {"workspaceblobstore": self._config.container, "workspaceartifactstore": ARTIFACTS}
        if name.lower() in known:
            return self.container(known[name.lower()])
        body = self._store.get(f"{self._config.workspace_id}/datastores/{name}")
        if body is None:
            raise Unresolved(f"The datastore '{name}' does not exist.")
        properties = body["properties"]
        return self.container(str(properties.get("containerName")), properties.get("accountName"))

    def artifacts(self, run: str) -> Path:
        """The artifact folder of a run: logs and what it logged."""
        return inside(self.container(ARTIFACTS), f"ExperimentRun/dcid.{run}")

    def output(self, job: str, output: str) -> str:
        """The datastore uri of a job's output.

        Raises:
            Unresolved: no such job, or no such output.
        """
        run = self._runs.get(job)
        if run is None:
            raise Unresolved(f"The job '{job}' does not exist.")
        if output in ("artifacts", "default"):
            return f"azureml://datastores/workspaceartifactstore/paths/ExperimentRun/dcid.{run['runId']}/"
        spec = self._runs.private(job).get("outputs", {}).get(output)
        if spec is None:
            raise Unresolved(f"The job '{job}' has no output '{output}'.")
        return str(spec["uri"])

    def path(self, uri: str) -> Path:
        """The file or folder behind a uri or an asset's id (it need not exist).

        Raises:
            Unresolved: the uri has no meaning here.
        """
        match = DATASTORE.match(uri)
        if match:
            return inside(self.datastore(match["store"]), match["path"] or "")
        match = OUTPUT.match(uri)
        if match:
            return inside(self.path(self.output(match["job"], match["output"])), match["path"] or "")
        if uri.startswith("runs:/"):
            run, _, path = uri.removeprefix("runs:/").partition("/")
            return inside(self.artifacts(self._runs.named(run) or run), path)
        if uri.startswith(("https://", "http://")):
            return self._blob(uri)
        asset = self.asset_id(uri)
        if asset is None:
            raise Unresolved(f"'{uri}' cannot be resolved in the local workspace.")
        body = self._store.get(asset)
        if body is None:
            raise Unresolved(f"The asset '{uri}' does not exist.")
        properties = body["properties"]
        target = properties.get("modelUri") or properties.get("dataUri") or properties.get("codeUri")
        if not target or target == uri:
            raise Unresolved(f"The asset '{uri}' has no files.")
        return self.path(str(target))

    def asset_id(self, identity: str) -> str | None:
        """The ARM id of a version of a model, data or code asset."""
        registry = REGISTRY.match(identity)
        if registry:
            base = f"{self._config.registry_id}/{registry['kind']}/{registry['name']}"
            return self._version(base, registry["how"], registry["version"])
        short = identity.removeprefix("azureml:")
        if short.startswith("/subscriptions/"):
            match = ASSET.search(short)
            return self._version(short[: match.start("how") - 1], match["how"], match["version"]) if match else None
        if identity.startswith("azureml:") or ("/" not in identity and ":" in identity):
            name, _, version = short.replace("@", ":", 1).rpartition(":")
            how = "labels" if version == "latest" else "versions"
            for kind in ("models", "data", "codes"):
                found_id = self._version(f"{self._config.workspace_id}/{kind}/{name}", how, version)
                if found_id and self._store.get(found_id):
                    return found_id
        return None

    def _version(self, base: str, how: str, version: str) -> str | None:
        if how.lower() != "labels":
            return f"{base}/versions/{version}"
        live = [body for body in self._store.children(f"{base}/versions") if not body["properties"].get("isArchived")]
        return f"{base}/versions/{live[-1]['name']}" if live else None

    def _blob(self, url: str) -> Path:
        location = urlsplit(url)
        account, _, suffix = (location.hostname or "").partition(".")
        if not suffix.startswith("blob.core."):
            raise Unresolved(f"'{url}' is not in this workspace's storage; upload it to a datastore first.")
        container, _, name = location.path.lstrip("/").partition("/")
        return inside(self.container(container, account), name)
