"""The known causes of a failed deployment, and how each is recognised: pure functions over text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops.diagnosis import container_log
from mlops.diagnosis.container_log import RootException
from mlops.machines import quota

if TYPE_CHECKING:
    from mlops.config.settings import DeploymentSettings

INITS = re.compile(r"Invoking user's init function|Starting to load model")
READY = re.compile(r"init has completed successfully|Application startup complete")
"""What Azure's server says, and what vLLM does."""


@dataclass(frozen=True, kw_only=True)
class Cause:
    """A known cause: its kind, what happened, and what to do next."""

    kind: str
    what: str
    hint: str


@dataclass(frozen=True)
class Evidence:
    """What is known of a failed deployment, in plain text."""

    error: str
    events: str
    storage: str
    server: str
    raised: RootException | None
    deployment: DeploymentSettings
    family: str

    def search(self, pattern: str, *places: str) -> re.Match[str] | None:
        """The first match of a pattern in these parts, regardless of case."""
        for source in places:
            match = re.search(pattern, getattr(self, source), re.IGNORECASE | re.MULTILINE)
            if match:
                return match
        return None


def _quota(evidence: Evidence) -> Cause | None:
    short = quota.shortage_in(evidence.error, family=evidence.family)
    if short:
        return Cause(kind="quota", what=short.sentence, hint=short.hint)
    count = evidence.search(r"(endpoint|deployment) quota reached.*?usage/limit: *(\d+/\d+)", "error")
    if count:
        kind = count[1].lower()
        return Cause(
            kind="quota",
            what=f"the region's number of {kind}s is used up ({count[2]})",
            hint=f"delete {kind}s that nobody uses (mlops cleanup), or ask for more at {quota.PAGE}",
        )
    if evidence.search(r"OutOfQuota|QuotaExceeded|quota reached|not enough quota", "error"):
        hint = f"ask for quota at {quota.PAGE}, or choose another deployment.instance_type in mlops.yaml"
        return Cause(kind="quota", what="the quota does not suffice", hint=hint)
    if evidence.search(r"OutOfCapacity|lack of .*capacity|capacity .*(not|un)available|AllocationFailed", "error"):
        hint = "try again later, or choose another deployment.instance_type in mlops.yaml; quota would not help"
        return Cause(kind="capacity", what="the region has no machine of this size to spare", hint=hint)
    return None


def _no_packages(evidence: Evidence) -> Cause | None:
    lacking = evidence.search(
        r"the image of '[^']*' has a command of its own.*? not installed on this machine", "error"
    )
    if not lacking:
        return None
    return Cause(kind="packages", what=lacking[0], hint="install them: make engine")


def _image_build(evidence: Evidence) -> Cause | None:
    if not evidence.search(
        r"ImageBuild|(image|environment) build|build(ing)? (of )?the (\w+ )?(image|environment)", "error"
    ):
        return None
    where = evidence.search(r"https?://[^\s'\"]+?\.(?:log|txt)\b[^\s'\"]*", "error") or evidence.search(
        r"under the (?:storage account|path).*?\.log", "error"
    )
    text = where[0].rstrip(".,;)'\"") if where else "in the workspace's default storage, under azureml/ImageLogs"
    return Cause(
        kind="image build",
        what=f"the image could not be built from '{evidence.deployment.server.environment}'; its build log: {text}",
        hint="the log's end names the package that cannot be installed; pin it in the environment's requirements",
    )


def _image_pull(evidence: Evidence) -> Cause | None:
    pull = evidence.search(r"ImagePullFailed|ImagePullBackOff|ErrImagePull", "events") or evidence.search(
        r"(download|pull)\w* (the )?(user )?(container )?image|container registry authorization", "error"
    )
    if not pull:
        return None
    return Cause(
        kind="image pull",
        what="the machine could not pull the image",
        hint=f"give {_identity(evidence)} the role AcrPull on the workspace's container registry, and wait some "
        "minutes until it holds",
    )


def _download(evidence: Evidence) -> Cause | None:
    denied = evidence.search(
        r"AuthorizationPermissionMismatch|AuthorizationFailure|not authorized to perform|status\W*(code)?\W*403",
        "storage",
    )
    failed = evidence.search(r"^DownloadFailed", "events") or evidence.search(
        r"model.* could not be downloaded|unable to download user model", "error"
    )
    if not (failed or (denied and not evidence.server.strip())):
        return None
    if denied:
        return Cause(
            kind="download",
            what="the storage initializer may not read the model",
            hint=f"give {_identity(evidence)} the role Storage Blob Data Reader on the workspace's storage account",
        )
    if evidence.search(r"No space left on device", "storage", "error"):
        return _disk(evidence)
    return Cause(
        kind="download",
        what="the storage initializer could not download the model or the code",
        hint="look whether the model version's files are still in the workspace's storage; its log says which it wants",
    )


def _startup(evidence: Evidence) -> Cause | None:
    if not evidence.search(r"startup task failed due to (an )?(authorization|incorrect role)", "error"):
        return None
    return Cause(
        kind="identity",
        what=f"{_identity(evidence)} may not read the image or the model",
        hint="give it AcrPull on the workspace's container registry and Storage Blob Data Reader on its storage "
        "account, and wait some minutes until that holds",
    )


def _rights(evidence: Evidence) -> Cause | None:
    denied = evidence.search(r"does not have authorization to perform action '(?P<action>[^']+)'", "error")
    if not denied:
        return None
    return Cause(
        kind="rights",
        what=f"this login may not do '{denied['action']}'",
        hint="give it the role AzureML Data Scientist or Contributor on the workspace, or log in as another",
    )


def _identity(evidence: Evidence) -> str:
    identity = evidence.deployment.identity
    return f"the identity '{identity}'" if identity else "the endpoint's own identity"


def _disk(evidence: Evidence) -> Cause | None:
    if not evidence.search(r"No space left on device", "storage", "server", "error"):
        return None
    hint = "choose a deployment.instance_type with a larger disk in mlops.yaml"
    return Cause(kind="disk", what=f"the disk of '{evidence.deployment.instance_type}' is too small", hint=hint)


def _driver(evidence: Evidence) -> Cause | None:
    match = evidence.search(
        r"^.*(driver on your system is too old|driver version is insufficient|unsupported display driver"
        r"|no kernel image is available|Found no NVIDIA driver|Failed to infer device type).*$",
        "server",
    )
    if not match:
        return None
    return Cause(
        kind="GPU driver",
        what=f"the server cannot use the GPU of '{evidence.deployment.instance_type}', or its driver: "
        f"{match[0].strip()[:200]}",
        hint="choose another deployment.instance_type in mlops.yaml, or a deployment.environment whose CUDA is older",
    )


def _gpu_memory(evidence: Evidence) -> Cause | None:
    match = evidence.search(
        r"^.*(CUDA out of memory|CUDA error: out of memory|cuda\.OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED"
        r"|larger than the available KV cache memory|No available memory for the cache|Free memory on device).*$",
        "server",
    )
    if not match:
        return None
    return Cause(
        kind="out of memory",
        what=f"the memory of the GPU of '{evidence.deployment.instance_type}' does not hold the model: "
        f"{match[0].strip()[:200]}",
        hint="choose a deployment.instance_type with more GPU memory in mlops.yaml, or serve in a smaller type; fewer "
        "conversations at once (MLOPS_MAX_BATCH_SIZE under deployment.variables), or with vLLM shorter ones "
        "(MLOPS_ENGINE_ARGS: --max-model-len 2048), need less too",
    )


def _memory(evidence: Evidence) -> Cause | None:
    killed = evidence.search(
        r"OOMKilled|was sent SIGKILL! Perhaps out of memory|\bMemoryError\b|std::bad_alloc|Cannot allocate memory"
        r"|DefaultCPUAllocator: can't allocate|out of memory",
        *WHOLE,
    )
    # a container whose liveness probe fails is killed too
    if killed is None and not evidence.search(r"^LivenessProbeFailed", "events"):
        killed = evidence.search(r"exit code:? 137\b|^\s*Killed\s*$", *WHOLE)
    if killed is None:
        return None
    return Cause(
        kind="out of memory",
        what=f"the memory of '{evidence.deployment.instance_type}' does not hold the server with its model: its "
        f"container said '{killed[0].strip()}'",
        hint="choose a deployment.instance_type with more memory in mlops.yaml, or fewer workers",
    )


def _worker_timeout(evidence: Evidence) -> Cause | None:
    if not evidence.search(r"WORKER TIMEOUT \(pid", "server") or READY.search(evidence.server):
        return None
    return Cause(
        kind="worker timeout",
        what="the server's worker was ended while it loaded the model: it may take WORKER_TIMEOUT seconds, 300 unless "
        "set",
        hint="set WORKER_TIMEOUT under deployment.variables in mlops.yaml to the seconds that the model needs",
    )


def _script(evidence: Evidence) -> Cause | None:
    script = evidence.deployment.server.script
    lacking = evidence.search(r"No score script found|does not have a (init|run)\(\)", "server")
    if lacking:
        return Cause(
            kind="scoring script",
            what=f"the scoring script '{script}' cannot be used: {lacking[0]}",
            hint="deployment.scoring_script in mlops.yaml names a file "
            f"of '{evidence.deployment.code}' with init and run",
        )
    if not evidence.search(r"Failed to import user script|UserScriptImportException", "server"):
        return None
    where, environment = evidence.raised, evidence.deployment.server.environment
    lacks = evidence.search(r"No module named '([\w.]+)'", "server")
    return Cause(
        kind="scoring script",
        what=f"the scoring script '{script}' cannot be imported" + (f": {_described(where)}" if where else ""),
        hint=f"add the package of '{lacks[1]}' to '{environment}'" if lacks else f"correct '{script}'",
    )


def _engine(evidence: Evidence) -> Cause | None:
    match = evidence.search(
        r"^((no|\d+) models? below AZUREML_MODEL_DIR|the (model|tokenizer) in '.*' has no|MLOPS_ENGINE_ARGS (is|has)"
        r"|AZUREML_MODEL_DIR is not set|'.*' (cannot be read: |holds no JSON object)|.*no engine\.py below"
        r"|api_server\.py: error: ).*$",
        "server",
    )
    if not match:
        return None
    return Cause(
        kind="engine",
        what=f"the engine did not start: {match[0]}",
        hint="correct that, or serve without the engine: deployment.environment: environments/serve/environment.yml",
    )


def _described(where: RootException) -> str:
    return where.exception + (f" ({where.location})" if where.location else "")


def _loading(evidence: Evidence) -> Cause | None:
    failed = evidence.search(r"User's init function failed|unhandled exception from the user script", "server")
    if evidence.raised is None or READY.search(evidence.server):
        return None
    if not failed and not evidence.search(r"Worker failed to boot|terminated with exit code|has crashed", *WHOLE):
        return None
    return Cause(
        kind="model does not load",
        what=f"the model does not load: {_described(evidence.raised)}",
        hint="the traceback in the server's log says where; the environment may lack a package, or have another "
        "version of one than the model was trained with",
    )


def _probes(evidence: Evidence) -> Cause | None:
    failing = evidence.search(
        r"^(Liveness|Readiness)ProbeFailed|^Unhealthy: (Liveness|Readiness)", "events"
    ) or evidence.search(r"(liveness|readiness) probe|was not ready within", "error")
    if not failing or evidence.raised is not None or READY.search(evidence.server):
        return None
    loading = INITS.search(evidence.server) is not None
    how = "was still loading the model" if loading else "had not begun to load the model"
    return Cause(
        kind="probes too short",
        what=f"the probes were too short: the server {how} when they gave up, and no error stands in its log",
        hint="allow more time in mlops.yaml, under deployment.liveness_initial_delay_s, or choose a faster "
        "deployment.instance_type",
    )


def _not_ready(evidence: Evidence) -> Cause | None:
    if not evidence.search(r"ResourceNotReady|has crashed or terminated|was not ready|probe failing", "error"):
        return None
    what = "the server did not become ready, and its log names no known cause"
    if READY.search(evidence.server):
        what = "the model was loaded, but the server did not answer its probes"
    return Cause(
        kind="not ready",
        what=what,
        hint="mlops endpoint logs shows more of the server's log, as long as the slot stands",
    )


WHOLE = ("events", "server", "error")
KNOWN: tuple[Callable[[Evidence], Cause | None], ...] = (
    *(_no_packages, _rights, _quota, _image_build, _image_pull, _download, _startup, _disk),
    *(_driver, _gpu_memory, _worker_timeout, _memory, _engine, _script, _loading, _probes, _not_ready),
)
"""In this order: what comes first explains what comes after it."""


def explain(error: str, logs: Mapping[str, str], deployment: DeploymentSettings, *, family: str = "") -> Cause | None:
    """The known cause of a failed deployment; None for an unknown one.

    Args:
        error: Azure's sentence.
        logs: the containers' logs, by ``storage`` and ``server``.
        deployment: its settings.
        family: of its machine size, where known.
    """
    storage, server = logs.get("storage", ""), logs.get("server", "")
    evidence = Evidence(
        error=container_log.plain(error),
        events="\n".join(container_log.warnings(server) or container_log.warnings(storage)),
        storage=container_log.blocks(storage)[1],
        server=container_log.blocks(server)[1],
        raised=container_log.raised(server),
        deployment=deployment,
        family=family,
    )
    return next((cause for rule in KNOWN if (cause := rule(evidence)) is not None), None)
