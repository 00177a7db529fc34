"""Models, data, environments, codes and components, in the workspace and in the registry."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from mlops.local.arm.errors import ArmError, bad_request, not_found
from mlops.local.arm.resources import Answer, Call
from mlops.local.arm.versions import VersionType
from mlops.local.blob.store import Blobs
from mlops.local.jobs.components import wire
from mlops.local.jobs.locations import DATASTORE, OUTPUT, Unresolved
from mlops.local.jobs.part import JobsPart
from mlops.local.registry.part import RegistryPart
from mlops.local.state.store import Document

ANONYMOUS = uuid.UUID("0f4d2d0e-9f60-4f6b-8f4a-3f6f7a6f2f10")
UPLOAD_S = 24 * 3600


def long_uri(call: Call, uri: str) -> str:
    """A datastore's uri with the workspace in it, as the service stores it."""
    match = DATASTORE.match(uri)
    if not match:
        return uri
    config = call.workspace.config
    scope = f"subscriptions/{config.subscription}/resourceGroups/{config.resource_group}/workspaces/{config.workspace}"
    return f"azureml://{scope}/datastores/{match['store']}/paths/{match['path'] or ''}"


class ModelVersions(VersionType):
    """Models; the flavors come from the files."""

    family = "models"
    path_property = "modelUri"

    def settle(self, call: Call, body: Document, existing: Document | None) -> None:
        """Find the files, the job they come from and the flavors."""
        properties = body["properties"]
        uri = str(properties.get("modelUri") or "")
        if not uri and existing is None:
            raise bad_request("The model has no path ('modelUri').")
        properties.setdefault("modelType", "custom_model")
        old = (existing or {}).get("properties", {})
        properties["jobName"] = properties.get("jobName") or old.get("jobName")
        output = OUTPUT.match(uri)
        if output:
            uri = self._from_job(output["job"], output["output"], output["path"] or "")
            properties["jobName"] = output["job"]
        if uri:
            properties["modelUri"] = long_uri(call, uri)
        super().settle(call, body, existing)
        if existing is not None:
            properties["flavors"] = properties.get("flavors") or old.get("flavors") or {}
            return
        try:
            folder = self.jobs.locations.path(properties["modelUri"])
        except Unresolved as error:
            raise bad_request(str(error)) from error
        if not folder.exists():
            raise ArmError(400, "UserError", f"The specified path '{uri}' holds no files.")
        model_flavors = flavors(folder)
        if (
            str(properties["modelType"]).lower() == "mlflow_model"
            and model_flavors is None
            and "/registries/" not in body["id"]
        ):
            raise ArmError(400, "UserError", f"The path '{uri}' is not an MLflow model: it holds no file 'MLmodel'.")
        properties["flavors"] = properties.get("flavors") or model_flavors or {}

    def _from_job(self, job: str, output: str, path: str) -> str:
        jobs = self.jobs
        run = jobs.runs.get(job)
        if run is None:
            raise not_found(f"The job '{job}' was not found.", detail=("JobNotFound", f"No job named '{job}'."))
        try:
            uri = jobs.locations.output(job, output).rstrip("/") + (f"/{path}" if path else "")
            exists = jobs.locations.path(uri).exists()
        except Unresolved as error:
            raise ArmError(400, "NoMatchingArtifactsFoundFromJob", str(error)) from error
        folder = jobs.locations.path(uri)
        if not exists or (folder.is_dir() and not any(folder.iterdir())):
            message = (
                f"No artifacts matching {output} found from Job {job}. Job must be in terminal state when registering "
                "from job."
            )
            raise ArmError(400, "NoMatchingArtifactsFoundFromJob", message)
        return uri


def flavors(folder: Path) -> Document | None:
    """The flavors of an MLflow model, all values as texts; None where there is no MLmodel."""
    file = folder / "MLmodel"
    if not file.is_file():
        return None
    import yaml

    try:
        content = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise ArmError(400, "UserError", f"The file 'MLmodel' cannot be read: {error}") from error
    entries = content.get("flavors") if isinstance(content, dict) else None

    def plain(value: Any) -> str:
        return value if isinstance(value, str) else json.dumps(value)

    if not isinstance(entries, dict):
        return {}
    return {
        name: {"data": {str(key): plain(value) for key, value in data.items() if value is not None}}
        for name, data in entries.items()
        if isinstance(data, dict)
    }


class DataVersions(VersionType):
    """Data assets."""

    family = "data"
    path_property = "dataUri"

    def settle(self, call: Call, body: Document, existing: Document | None) -> None:
        """A datastore's uri, a job's output or an address."""
        properties = body["properties"]
        uri = str(properties.get("dataUri") or "")
        if not uri and existing is None:
            raise bad_request("The data asset has no path ('dataUri').")
        output = OUTPUT.match(uri)
        if output:
            try:
                base = self.jobs.locations.output(output["job"], output["output"])
            except Unresolved as error:
                raise not_found(str(error)) from error
            uri = base.rstrip("/") + "/" + (output["path"] or "")
        if uri:
            properties["dataUri"] = long_uri(call, uri)
        properties.setdefault("dataType", "uri_folder")
        super().settle(call, body, existing)


class EnvironmentVersions(VersionType):
    """Environments: kept and shown; nothing is built here."""

    family = "environments"

    def settle(self, call: Call, body: Document, existing: Document | None) -> None:  # noqa: ARG002
        """An image or a build context, as Azure demands."""
        properties = body["properties"]
        if not properties.get("image") and not properties.get("build") and existing is None:
            raise bad_request("The environment has neither 'image' nor 'build'.")
        if existing is not None:
            old = existing["properties"]
            changed = [k for k in ("image", "condaFile") if properties.get(k) not in (None, old.get(k))]
            if changed:
                raise ArmError(
                    400, "UserError", f"The environment's '{changed[0]}' cannot be changed; make a new version."
                )
            body["properties"] = {**old, **{key: value for key, value in properties.items() if value is not None}}
        properties.setdefault("environmentType", "UserCreated")
        properties.setdefault("osType", "Linux")


class CodeVersions(VersionType):
    """Code snapshots."""

    family = "codes"
    path_property = "codeUri"

    def __init__(self, scope: str, jobs: JobsPart, registry: RegistryPart, blobs: Blobs) -> None:
        super().__init__(scope, jobs, registry)
        self._blobs = blobs

    def selected(self, call: Call, body: Document) -> bool:
        """By the hash of the content, where the query has it."""
        digest = call.query.get("hash")
        return super().selected(call, body) and (
            not digest or (body["properties"].get("properties") or {}).get("hash_sha256") == digest
        )

    async def action(self, call: Call, action: str) -> Answer:  # noqa: ARG002
        """``startPendingUpload``: a container of its own to upload into."""
        if action.lower() != "startpendingupload":
            raise not_found(f"The action '{action}' is not known on code.")
        return Answer(200, pending_upload(self._blobs))


def pending_upload(blobs: Blobs) -> Document:
    """A new container and a signature that may write into it."""
    container = f"upload-{uuid.uuid4()}"
    blobs.create_container(container)
    token = blobs.sas(container, permissions="racwl", lifetime_s=UPLOAD_S)
    url = blobs.url(container)
    return {
        "pendingUploadId": container,
        "pendingUploadType": "TemporaryBlobReference",
        "blobReferenceForConsumption": {
            "blobUri": url,
            "storageAccountArmId": blobs.resource_id,
            "credential": {"credentialType": "SAS", "sasUri": f"{url}?{token}"},
        },
    }


class ComponentVersions(VersionType):
    """Components; anonymous ones get a name by content."""

    family = "components"

    async def put(self, call: Call) -> Answer:
        """An anonymous component is stored under the id that the service gives it."""
        if call.parent_id.lower().endswith("/azureml_anonymous"):
            spec = (call.body.get("properties") or {}).get("componentSpec") or {}
            plain = {key: value for key, value in spec.items() if key not in ("version", "_source")}
            call.resource_id = f"{call.collection_id}/{uuid.uuid5(ANONYMOUS, json.dumps(plain, sort_keys=True))}"
        return await super().put(call)

    def settle(self, call: Call, body: Document, existing: Document | None) -> None:
        """The specification as the service gives it back."""
        properties = body["properties"]
        spec = properties.get("componentSpec")
        old = (existing or {}).get("properties", {}).get("componentSpec")
        if not isinstance(spec, dict) or not spec:
            if old is None:
                raise bad_request("The component has no specification ('componentSpec').")
            properties["componentSpec"] = old
            return
        shown: Document = wire(spec)
        shown.pop("_source", None)
        kind = str(shown.get("type", "command"))
        if kind == "command":
            if not shown.get("command"):
                raise bad_request("The component has no command.")
            shown.setdefault("resources", {"instance_count": "1"})
        for name, port in (shown.get("inputs") or {}).items():
            shown["inputs"][name] = port if isinstance(port, dict) else {"type": port}
            shown["inputs"][name].setdefault("optional", "False")
        if old is not None and changed(old, shown):
            message = f"Component version is immutable: '{call.name}' exists with another specification."
            raise ArmError(400, "UserError", message)
        properties["componentSpec"] = shown


def changed(old: Document, new: Document) -> bool:
    """Whether two specifications run differently."""
    return any(old.get(key) != new.get(key) for key in ("command", "code", "jobs", "inputs", "outputs"))
