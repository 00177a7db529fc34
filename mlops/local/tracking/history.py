"""Run history: what ``jobs.stream``, ``jobs.download`` and ``azureml-mlflow`` ask about runs."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mlops.local.arm.app import read_json
from mlops.local.arm.errors import ArmError, bad_request
from mlops.local.arm.shapes import mapping, sequence
from mlops.local.blob.store import Blobs
from mlops.local.jobs.locations import ARTIFACTS, Unresolved, inside
from mlops.local.jobs.part import JobsPart
from mlops.local.jobs.runs import Runs, stamp
from mlops.local.state.store import Document
from mlops.local.state.workspace import Workspace

RUN = re.compile(r"^(?:/experiment(?:id)?s/(?P<experiment>[^/]+))?/runs/(?P<run>[^/]+)(?P<rest>/.*)?$")
EXPERIMENT = re.compile(r"^/experiment(?:id)?s/(?P<experiment>[^/]+)$")
OUTPUT_ASSET = re.compile(
    r"/(?:data|models)/azureml_(?P<run>.+)_output_(?:data|mlflow_model)_(?P<output>[^/]+)/versions/"
)
LOG_FOLDERS = ("logs", "user_logs", "system_logs")
SAS_S = 6 * 3600


class History:
    """Answers what comes below ``/history/v1.0{workspace}``, and the data plane's look-ups of outputs."""

    def __init__(self, workspace: Workspace, jobs: JobsPart, blobs: Blobs) -> None:
        self.workspace = workspace
        self._jobs = jobs
        self._blobs = blobs
        self.runs = Runs(workspace.store)

    async def answer(self, request: Request, path: str) -> Response:
        """One request."""
        if path == "/rundata" and request.method == "POST":
            body = await read_json(request)
            return JSONResponse(self._data(str(body.get("runId"))))
        experiment = EXPERIMENT.match(path)
        if experiment and request.method in ("GET", "POST"):
            name = experiment["experiment"]
            return JSONResponse(
                {"experimentId": name, "name": name, "description": None, "tags": {}, "archivedTime": None}
            )
        match = RUN.match(path)
        if not match:
            raise ArmError(404, "NotFound", f"'{path}' is not served here.")
        run = self.need(match["run"])
        rest = (match["rest"] or "").rstrip("/")
        if rest.startswith("/artifacts"):
            return await self._artifacts(request, run, rest.removeprefix("/artifacts"))
        if rest == "" and request.method == "GET":
            return JSONResponse(shown(run))
        if rest == "" and request.method in ("PATCH", "PUT"):
            return JSONResponse(self._change(run["runId"], await read_json(request)))
        if rest == "/details":
            return JSONResponse(self._details(run))
        if rest == "/children":
            return JSONResponse(self._children(request, run))
        if rest == "/cancel" and request.method == "POST":
            self._jobs.request_cancel(run["rootRunId"])
            return JSONResponse(shown(self.need(run["runId"])))
        raise ArmError(404, "NotFound", f"'{path}' is not served here.")

    def need(self, name: str) -> Document:
        """A run, or the service's 404."""
        run = self.runs.get(name)
        if run is None:
            raise ArmError(404, "UserError", f"Run {name} was not found", details=[("RunNotFound", name)])
        return run

    def _children(self, request: Request, run: Document) -> Document:
        children = self.runs.children(run["runId"])
        top = request.query_params.get("$top", "")
        skip = int(request.query_params.get("$continuationtoken") or 0)
        size = min(int(top), 1000) if top.isdigit() and int(top) > 0 else 1000
        body: Document = {"value": [shown(child) for child in children[skip : skip + size]]}
        more = skip + size < len(children)
        body["continuationToken"] = str(skip + size) if more and not top else None
        body["nextLink"] = None
        if more and not top:
            body["nextLink"] = f"{request.url.replace_query_params(**{'$continuationtoken': str(skip + size)})}"
        return body

    def _change(self, name: str, given: Document) -> Document:
        def change(run: Document) -> None:
            if given.get("hidden") is not None:
                run["hidden"] = bool(given["hidden"])
            for key in ("displayName", "description"):
                if given.get(key) is not None:
                    run[key] = given[key]
            for key in ("tags", "properties"):
                if isinstance(given.get(key), dict):
                    merged = {**run.get(key, {}), **given[key]}
                    run[key] = {k: str(v) for k, v in merged.items() if v is not None}
            run["lastModifiedUtc"] = stamp()

        return shown(self.runs.change(name, change) or {})

    def _data(self, name: str) -> Document:
        run = self.need(name)
        return {"runMetadata": shown(run), "runDefinition": {}, "jobSpecification": None, "systemSettings": None}

    def _details(self, run: Document) -> Document:
        return {
            "runId": run["runId"],
            "target": run.get("target"),
            "status": run["status"],
            "startTimeUtc": run.get("startTimeUtc"),
            "endTimeUtc": run.get("endTimeUtc"),
            "services": run.get("services", {}),
            "error": run.get("error"),
            "warnings": run.get("warnings"),
            "properties": run.get("properties", {}),
            "parameters": {},
            "inputDatasets": [],
            "outputDatasets": [],
            "runDefinition": None,
            "logFiles": {
                name: self._signed(run["runId"], name, "r") for name in self._files(run["runId"]) if is_log(name)
            },
            "jobCost": None,
            "revision": run.get("revision", 1),
            "runTypeV2": run.get("runTypeV2"),
            "settings": {},
            "computeRequest": None,
            "compute": run.get("compute"),
            "createdBy": run.get("createdBy"),
            "computeDuration": run.get("computeDuration"),
            "submittedBy": run.get("userId"),
        }

    # -- artifacts -------------------------------------------------------------------------------------------------

    def _folder(self, run: str) -> str:
        return f"ExperimentRun/dcid.{run}"

    def _files(self, run: str, prefix: str = "") -> list[str]:
        folder = self._jobs.locations.artifacts(run)
        names = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
        return [name for name in names if name.startswith(prefix) and not name.rsplit("/", 1)[-1].endswith(".part")]

    def _signed(self, run: str, name: str, permissions: str) -> str:
        blobs = self._blobs
        blob = f"{self._folder(run)}/{name}"
        return f"{blobs.url(ARTIFACTS, blob)}?{blobs.sas(ARTIFACTS, blob, permissions=permissions, lifetime_s=SAS_S)}"

    def _artifact(self, run: str, name: str) -> Document:
        made = stamp()
        identity = f"ExperimentRun/dcid.{run}/{quote(name)}"
        return {
            "artifactId": identity,
            "origin": "ExperimentRun",
            "container": f"dcid.{run}",
            "path": name,
            "etag": None,
            "createdTime": made,
            "dataPath": None,
            "tags": {},
        }

    def _content(self, run: str, name: str, permissions: str = "r") -> Document:
        return {
            "contentUri": self._signed(run, name, permissions),
            "origin": "ExperimentRun",
            "container": f"dcid.{run}",
            "path": name,
            "tags": {},
        }

    async def _artifacts(self, request: Request, run: Document, rest: str) -> Response:
        name = run["runId"]
        path = request.query_params.get("path", "")
        listed: dict[str, Any] = {"continuationToken": None, "nextLink": None}
        if rest == "":
            return JSONResponse({"value": [self._artifact(name, file) for file in self._files(name)], **listed})
        if rest == "/path":
            files = self._files(name, path.rstrip("/") + "/" if path else "")
            return JSONResponse({"value": [self._artifact(name, file) for file in files], **listed})
        if rest == "/prefix/contentinfo":
            return JSONResponse({"value": [self._content(name, file) for file in self._files(name, path)], **listed})
        if rest in ("/metadata", "/contentinfo", "/artifacturi"):
            if path not in self._files(name):
                raise ArmError(404, "UserError", f"The artifact '{path}' of run '{name}' was not found.")
            if rest == "/metadata":
                return JSONResponse(self._artifact(name, path))
            return JSONResponse(self._content(name, path) if rest == "/contentinfo" else self._signed(name, path, "r"))
        if rest == "/batch/metadata" and request.method == "POST":
            items = sequence((await read_json(request)).get("paths"), "paths")
            paths = [str(mapping(item, "paths").get("path")) for item in items]
            folder = self._jobs.locations.artifacts(name)
            try:
                for item in paths:
                    inside(folder, item)
            except Unresolved as error:
                raise bad_request(str(error)) from error
            return JSONResponse(
                {
                    "artifacts": {item: self._artifact(name, item) for item in paths},
                    "artifactContentInformation": {item: self._content(name, item, "racw") for item in paths},
                    "errors": {},
                }
            )
        raise ArmError(404, "NotFound", f"Artifacts{rest} is not served here.")

    # -- outputs ---------------------------------------------------------------------------------------------------

    def resolve(self, assets: list[str], key: str) -> Document:
        """The uris behind the asset ids of outputs; ``key`` is ``uri`` for data, ``path`` for models."""
        values: Document = {}
        config = self.workspace.config
        scope = (
            f"subscriptions/{config.subscription}/resourcegroups/{config.resource_group}/workspaces/{config.workspace}"
        )
        for asset in assets:
            match = OUTPUT_ASSET.search(asset)
            if not match:
                continue
            try:
                uri = self._jobs.locations.output(match["run"], match["output"])
            except Unresolved:
                continue
            kind = (self.need(match["run"])["outputs"].get(match["output"]) or {}).get("type", "UriFolder")
            long = uri.replace("azureml://datastores/", f"azureml://{scope}/datastores/")
            values[asset] = {key: long, "type": kind, "legacyDatasetType": None}
        return {"values": values}


def is_log(name: str) -> bool:
    """Whether an artifact is one of the run's logs."""
    return name.split("/", 1)[0] in LOG_FOLDERS


def shown(run: Document) -> Document:
    """A run as clients see it."""
    return {key: value for key, value in run.items() if key not in ("experimentName", "jobType")}
