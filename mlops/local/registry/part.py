"""The registry ``azureml``: the base model with the real one's tags, and the checkout's own components.

Components are read from ``components/**/*.yml`` of the checkout, and read again whenever those files change, under
the names and versions that they give themselves.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import shutil
import threading
import uuid
from pathlib import Path
from typing import Any

from mlops.local.jobs.components import wire
from mlops.local.registry.base_model import TAGS, description
from mlops.local.registry.standin import CHECKOUT, MODEL, VERSION, StandIn, StandInFailed
from mlops.local.state.operations import now
from mlops.local.state.store import Document
from mlops.local.state.workspace import Workspace

log = logging.getLogger(__name__)
CONTAINER = "azureml-registry"
LEFT_OUT = ("__pycache__", ".git", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache")


class RegistryPart:
    """Keeps the registry's documents as the checkout has them."""

    def __init__(self, workspace: Workspace, checkout: Path = CHECKOUT) -> None:
        self.workspace = workspace
        self.standin = StandIn(workspace.layout, checkout)
        self._folders = (checkout / "components", checkout / "environments")
        self._seen: dict[Path, int] = {}
        self._lock = threading.Lock()
        self._building: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Fill the registry; lay out the base model in the background where that has not been done."""
        await asyncio.to_thread(self.refresh)
        self._building = asyncio.get_running_loop().create_task(self._build())

    async def stop(self) -> None:
        """Let go of the base model; the program ends with the daemon's other processes."""
        if self._building:
            self._building.cancel()

    async def _build(self) -> None:
        try:
            await asyncio.to_thread(self.standin.ensure, publish=self.container)
        except StandInFailed as error:
            log.warning("%s", error)

    @property
    def container(self) -> Path:
        """The folder of the registry's blob container."""
        return self.workspace.layout.blobs / self.workspace.config.account / CONTAINER

    # -- what the checkout has -------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Read the definitions that changed since the last time."""
        with self._lock:
            now_there = {path: path.stat().st_mtime_ns for path in self._sources()}
            if self._seen and now_there == self._seen:
                return
            self._seen = now_there
            self.container.mkdir(parents=True, exist_ok=True)
            self._model()
            self._components()
            self._environments()

    def _sources(self) -> list[Path]:
        sources: list[Path] = []
        for folder in self._folders:
            sources += [path for path in folder.rglob("*") if path.is_file() and not set(path.parts) & set(LEFT_OUT)]
        return sorted(sources)

    def _definitions(self, folder: Path) -> list[tuple[Path, Document]]:
        import yaml

        definitions = []
        for path in sorted(item for item in self._seen if item.suffix in (".yml", ".yaml") and folder in item.parents):
            try:
                content = yaml.safe_load(path.read_text())
            except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
                log.warning("%s cannot be read: %s", path, error)
                continue
            if isinstance(content, dict) and content.get("name") and content.get("version") is not None:
                definitions.append((path, content))
        return definitions

    def _put(self, family: str, name: str, version: str, properties: Document) -> None:
        store, base = self.workspace.store, f"{self.workspace.config.registry_id}/{family}/{name}"
        made = now()
        data = {
            "createdAt": made,
            "createdBy": "Microsoft",
            "createdByType": "User",
            "lastModifiedAt": made,
            "lastModifiedBy": "Microsoft",
            "lastModifiedByType": "User",
        }
        kind = f"Microsoft.MachineLearningServices/registries/{family}"
        common: Document = {"description": None, "tags": {}, "properties": {}, "isArchived": False}
        if store.get(base) is None:
            store.put(base, {"id": base, "name": name, "type": kind, "properties": dict(common), "systemData": data})
        identity = f"{base}/versions/{version}"
        existing = store.get(identity)
        body = {
            "id": identity,
            "name": version,
            "type": f"{kind}/versions",
            "properties": {**common, "isAnonymous": False, "provisioningState": "Succeeded", **properties},
            "systemData": existing["systemData"] if existing else data,
        }
        store.put(identity, body)

    def _model(self) -> None:
        url = f"https://{self.workspace.config.account}.blob.core.windows.net/{CONTAINER}/models/{MODEL}/{VERSION}"
        self._put(
            "models",
            MODEL,
            VERSION,
            {
                "description": description(),
                "tags": TAGS,
                "flavors": {"hftransformersv2": {"data": {"task_type": "chat-completion"}}},
                "modelType": "mlflow_model",
                "modelUri": url,
                "jobName": None,
            },
        )

    def _components(self) -> None:
        present = set()
        folder = self._folders[0]
        definitions = self._definitions(folder)
        names = {path.resolve(): f"azureml:{spec['name']}:{spec['version']}" for path, spec in definitions}
        for path, spec in definitions:
            if not (spec.get("command") or spec.get("jobs")):
                continue
            name, version = str(spec["name"]), str(spec["version"])
            try:
                document = self._specification(path, spec, names)
            except OSError as error:
                log.warning("component %s: %s", path, error)
                continue
            self._put("components", name, version, {"componentSpec": document, "description": spec.get("description")})
            present.add(f"{name}/versions/{version}".lower())
        for container in self.workspace.store.children(f"{self.workspace.config.registry_id}/components"):
            for body in self.workspace.store.children(f"{container['id']}/versions"):
                if f"{container['name']}/versions/{body['name']}".lower() not in present:
                    self.workspace.store.delete(body["id"])

    def _specification(self, path: Path, spec: Document, names: dict[Path, str]) -> Document:
        document: dict[str, Any] = dict(spec)
        document.setdefault("type", "pipeline" if spec.get("jobs") else "command")
        if spec.get("code"):
            document["code"] = self._code((path.parent / str(spec["code"])).resolve())
        environment = spec.get("environment")
        if isinstance(environment, str):
            name, _, version = environment.removeprefix("azureml:").replace("@", ":", 1).rpartition(":")
            if name and not environment.startswith("azureml://") and "/" not in name:
                document["environment"] = (
                    f"azureml://registries/{self.workspace.config.registry}/environments/{name}/versions/{version}"
                )
        jobs: dict[str, Any] = {}
        for key, raw in (spec.get("jobs") or {}).items():
            node: dict[str, Any] = dict(raw)
            reference = str(node.get("component", ""))
            if reference and not reference.startswith("azureml:"):
                target = (path.parent / reference.removeprefix("file:")).resolve()
                node["component"] = names.get(target, reference)
            jobs[key] = node
        if jobs:
            document["jobs"] = jobs
        shown: Document = wire(document)
        return shown

    def _code(self, folder: Path) -> str:
        """A snapshot of a code folder, as a code asset; its name is the hash of its content."""
        if not folder.is_dir():
            raise FileNotFoundError(f"the code folder '{folder}' does not exist")
        files = code_files(folder)
        digest = hashlib.sha256()
        for path in files:
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
        name = digest.hexdigest()[:32]
        target = self.container / "codes" / name
        if not target.is_dir():
            beside = target.with_name(f".{name}.{uuid.uuid4().hex[:8]}.part")
            for path in files:
                copy = beside / path.relative_to(folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, copy)
            beside.mkdir(parents=True, exist_ok=True)
            try:
                beside.rename(target)
            except OSError:  # another process made the same
                shutil.rmtree(beside, ignore_errors=True)
        account = self.workspace.config.account
        uri = f"https://{account}.blob.core.windows.net/{CONTAINER}/codes/{name}"
        self._put("codes", name, "1", {"codeUri": uri})
        return f"azureml://registries/{self.workspace.config.registry}/codes/{name}/versions/1"

    def _environments(self) -> None:
        for _, spec in self._definitions(self._folders[1]):
            if not (spec.get("image") or spec.get("build")):
                continue
            properties: dict[str, Any] = {"environmentType": "Curated", "osType": "Linux"}
            if spec.get("image"):
                properties["image"] = spec["image"]
            else:
                properties["build"] = {"contextUri": "https://example.invalid/", "dockerfilePath": "Dockerfile"}
            self._put("environments", str(spec["name"]), str(spec["version"]), properties)


def code_files(folder: Path) -> list[Path]:
    """The files of a code folder that an upload takes, in a stable order.

    As the SDK has it: ``.amlignore`` in the folder itself decides, else its ``.gitignore``; the last pattern that
    matches a file wins.
    """
    from pathspec import GitIgnoreSpec

    ignore = next((path for name in (".amlignore", ".gitignore") if (path := folder / name).is_file()), None)
    spec = GitIgnoreSpec.from_lines(ignore.read_text(encoding="utf-8").splitlines() if ignore else [])
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".pyc")
    relative = ((path, path.relative_to(folder)) for path in files)
    return [path for path, name in relative if not set(name.parts) & set(LEFT_OUT) and not spec.match_file(name)]
