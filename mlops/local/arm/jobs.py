"""Jobs as ARM resources."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from mlops.local.arm.app import operation_headers
from mlops.local.arm.errors import ArmError, bad_request, not_found
from mlops.local.arm.resources import Answer, Call, ResourceType, page
from mlops.local.arm.workspace_document import tracking_uri
from mlops.local.jobs.checks import PlanError
from mlops.local.jobs.locations import OUTPUT, Unresolved
from mlops.local.jobs.part import JobsPart
from mlops.local.jobs.plan import Plan
from mlops.local.jobs.runs import TERMINAL
from mlops.local.registry.part import RegistryPart
from mlops.local.state.store import Document
from mlops.local.tracking.part import TrackingPart

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-]{0,254}")
NOWHERE = ("serverless", "local", "azureml:serverless", "")
CHANGEABLE = ("description", "tags", "displayName", "properties", "isArchived")
DEFINITION = ("jobType", "experimentName", "inputs", "outputs", "jobs", "command", "codeId", "componentId", "computeId")
RUN_TYPES = {"Pipeline": "azureml.PipelineRun", "Command": "azureml.scriptrun"}


class JobType(ResourceType):
    """``workspaces/jobs``: pipelines and commands."""

    kind = "workspaces/jobs"

    def __init__(self, jobs: JobsPart, registry: RegistryPart, tracking: TrackingPart | None) -> None:
        self.jobs = jobs
        self._registry = registry
        self._tracking = tracking
        self._submitting = asyncio.Lock()

    # -- writing ---------------------------------------------------------------------------------------------------

    async def put(self, call: Call) -> Answer:
        """Submit a job, or change the description of one."""
        async with self._submitting:  # two who submit one name at once: the second finds the first's job
            return await self._put(call)

    async def _put(self, call: Call) -> Answer:
        existing = call.workspace.store.get(call.resource_id)
        if existing is not None:
            self._change(call, existing)
            return Answer(200, self.shown(call, existing))
        if not NAME.fullmatch(call.name):
            raise bad_request(f"'{call.name}' is not a valid job name: letters, digits, '-' and '_', at most 255.")
        if self.jobs.runs.get(call.name) is not None:
            raise bad_request(f"A run named '{call.name}' already exists.")
        body = self.document(call, None)
        properties = body["properties"]
        properties.setdefault("displayName", call.name)
        properties["experimentName"] = properties.get("experimentName") or "Default"
        properties.setdefault("isArchived", False)
        kind = str(properties.get("jobType", ""))
        await asyncio.to_thread(self._registry.refresh)
        plan = self._plan(call, kind, properties)
        with call.workspace.store.transaction():
            self.jobs.submit(call.name, plan, properties, kind=RUN_TYPES[kind], caller=call.caller)
            call.workspace.store.put(call.resource_id, body)
        await self.jobs.launch(call.name)
        return Answer(201, self.shown(call, body), {"Location": call.url()})

    def _plan(self, call: Call, kind: str, properties: Document) -> Plan:
        if kind not in ("Pipeline", "Command"):
            message = f"Jobs of type '{kind}' do not run in the local workspace; Pipeline and Command do."
            raise bad_request(message)
        try:
            planner = self.jobs.planner
            plan = (
                planner.pipeline(call.name, properties)
                if kind == "Pipeline"
                else planner.command(call.name, properties)
            )
        except PlanError as error:
            raise ArmError(404 if error.code == "NotFound" else 400, error.code, error.message) from error
        self._check(call, plan)
        return plan

    def _check(self, call: Call, plan: Plan) -> None:
        """Computes and the sources of inputs exist."""
        config = call.workspace.config
        for step in plan.steps:
            if step.compute and step.compute.lower() not in NOWHERE:
                cluster = call.workspace.store.get(f"{config.workspace_id}/computes/{step.compute}")
                if cluster is None:
                    message = f"The compute target '{step.compute}' of job '{step.path or plan.job}' does not exist."
                    raise ArmError(400, "UserError", message)
            for name, value in step.inputs.items():
                uri = value.get("uri")
                if value["is"] != "asset" or not uri:
                    continue
                try:
                    path = self.jobs.locations.path(str(uri))
                except Unresolved as error:
                    raise ArmError(400, "UserError", f"Input '{name}' of '{step.path or plan.job}': {error}") from error
                if OUTPUT.match(str(uri)) and not path.exists():
                    message = f"Input '{name}' of '{step.path or plan.job}': '{uri}' holds no files."
                    raise ArmError(400, "UserError", message)
            if step.code:
                try:
                    self.jobs.locations.path(step.code)
                except Unresolved as error:
                    raise ArmError(400, "UserError", f"The code of '{step.path or plan.job}': {error}") from error

    def _change(self, call: Call, existing: Document) -> None:
        given, old = call.body.get("properties") or {}, existing["properties"]
        for key in DEFINITION:
            if given.get(key) is not None and not same(old.get(key), given[key]):
                message = (
                    "A job with this name already exists. If you are trying to create a new job, use a different name. "
                    f"If you are trying to update an existing job, the existing job's {key} cannot be changed. Only "
                    "description, tags, displayName, properties, and isArchived can be updated."
                )
                raise ArmError(400, "UserError", message)
        self._describe(existing["name"], {key: given[key] for key in CHANGEABLE if key in given})

    def _describe(self, name: str, given: Document) -> None:
        def change(run: Document) -> None:
            if "isArchived" in given:
                run["hidden"] = bool(given["isArchived"])
            for key in ("description", "displayName"):
                if key in given:
                    run[key] = given[key]
            if given.get("tags") is not None:
                run["tags"] = {str(k): str(v) for k, v in given["tags"].items()}
            if given.get("properties"):
                run["properties"] = {**run["properties"], **given["properties"]}

        self.jobs.runs.change(name, change)

    async def patch(self, call: Call) -> Answer:
        """Tags, description, names, the archive flag."""
        existing = self.must(call)
        given = call.body.get("properties") or {}
        wrong = [key for key in given if key not in CHANGEABLE]
        if wrong:
            raise bad_request(f"The job's {wrong[0]} cannot be changed.")
        if isinstance(given.get("tags"), dict):
            tags = {**(self.jobs.runs.get(existing["name"]) or {}).get("tags", {}), **given["tags"]}
            given["tags"] = {key: value for key, value in tags.items() if value is not None}
        self._describe(existing["name"], given)
        return Answer(200, self.shown(call, existing))

    # -- reading ---------------------------------------------------------------------------------------------------

    async def get(self, call: Call) -> Answer:
        """A job; a step of a pipeline has no properties here, as on Azure (run history has them)."""
        run = self.jobs.runs.get(call.name)
        if run is not None and run["parentRunId"]:
            kind = f"Microsoft.MachineLearningServices/{self.kind}"
            return Answer(200, {"id": call.resource_id, "name": run["runId"], "type": kind, "properties": None})
        return Answer(200, self.shown(call, self.must(call)))

    def shown(self, call: Call, body: Document) -> Document:
        """The definition with the run's state."""
        run = self.jobs.runs.get(body["name"]) or {}
        properties = {
            **body["properties"],
            "description": run.get("description"),
            "tags": run.get("tags", {}),
            "displayName": run.get("displayName"),
            "properties": {**(body["properties"].get("properties") or {}), **run.get("properties", {})},
            "isArchived": bool(run.get("hidden")),
            "status": run.get("status", "NotStarted"),
            "services": self._services(call, body["name"]),
        }
        return {**body, "properties": properties}

    def _services(self, call: Call, name: str) -> Document:
        config = call.workspace.config
        tracked = self._tracking.page(name) if self._tracking else None
        studio = tracked or f"https://ml.azure.com/runs/{name}?wsid={config.workspace_id}"

        def service(kind: str, endpoint: str) -> Document:
            return {
                "jobServiceType": kind,
                "port": None,
                "endpoint": endpoint,
                "status": None,
                "errorMessage": None,
                "properties": None,
            }

        return {"Tracking": service("Tracking", tracking_uri(config)), "Studio": service("Studio", studio)}

    def selected(self, call: Call, body: Document) -> bool:
        """``listViewType``, ``jobType``, ``tag`` and ``properties`` (``key`` or ``key=value``, by commas)."""
        properties = self.shown(call, body)["properties"]
        job_type = call.query.get("jobType")
        if job_type and str(properties.get("jobType")).lower() != job_type.lower():
            return False
        for field, query in (("tags", call.query.get("tag", "")), ("properties", call.query.get("properties", ""))):
            for item in filter(None, query.split(",")):
                key, equals, value = item.partition("=")
                entries: Any = properties.get(field) or {}
                if key not in entries or (equals and str(entries[key]) != value):
                    return False
        view = call.query.get("listViewType", "ActiveOnly")
        return view == "All" or bool(properties["isArchived"]) == (view == "ArchivedOnly")

    async def list(self, call: Call) -> Answer:
        """The newest first."""
        jobs = [body for body in call.workspace.store.children(call.resource_id) if self.selected(call, body)]
        return page(self, call, jobs[::-1])

    # -- ending ----------------------------------------------------------------------------------------------------

    async def action(self, call: Call, action: str) -> Answer:
        """``cancel``."""
        body = self.must(call)
        if action.lower() != "cancel":
            raise not_found(f"The action '{action}' is not known on a job.")
        run = self.jobs.runs.get(body["name"])
        if run is None or run["status"] in TERMINAL:
            return Answer(200, None)
        self.jobs.request_cancel(body["name"])
        operation = call.workspace.operations.start("job-cancel", body["id"], prefix="jo")
        headers = operation_headers(call, operation, status=False, result="operation")
        return Answer(202, None, headers)

    async def delete(self, call: Call) -> Answer:
        """Only what has ended."""
        body = call.workspace.store.get(call.resource_id)
        if body is None:
            return Answer(204)
        run = self.jobs.runs.get(body["name"])
        if run is not None and run["status"] not in TERMINAL:
            raise ArmError(409, "Conflict", f"The job '{body['name']}' is {run['status']}; cancel it first.")
        operation = call.workspace.operations.start("job-delete", body["id"], prefix="jo")
        return Answer(202, None, operation_headers(call, operation, result="operation"))

    def missing(self, call: Call) -> ArmError:
        """The 404 of a job."""
        message = f"Job {call.name} was not found."
        return ArmError(404, "UserError", message, details=[("JobNotFound", message)])


def same(old: Any, new: Any) -> bool:
    """Whether two definitions are one; what is null or empty counts as left out."""
    return bool(_bare(old) == _bare(new))


def _bare(value: Any) -> Any:
    if isinstance(value, dict):
        pairs = ((key, _bare(item)) for key, item in value.items())
        return {key: item for key, item in pairs if item not in (None, {}, [], "")}
    if isinstance(value, list):
        return [_bare(item) for item in value]
    return value
