"""The known causes of a failed deployment, and how each is recognised: pure functions over text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops.diagnosis import container_log
from mlops.diagnosis.container_log import Raised
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
class Facts:
    """What is known of a failed deployment, in plain text."""

    error: str
    events: str
    storage: str
    server: str
    raised: Raised | None
    deployment: DeploymentSettings
    family: str

    def found(self, pattern: str, *places: str) -> re.Match[str] | None:
        """The first match of a pattern in these parts, regardless of case."""
        for place in places:
            found = re.search(pattern, getattr(self, place), re.IGNORECASE | re.MULTILINE)
            if found:
                return found
        return None


def _quota(facts: Facts) -> Cause | None:
    short = quota.shortage_in(facts.error, family=facts.family)
    if short:
        return Cause(kind="quota", what=short.sentence, hint=short.hint)
    count = facts.found(r"(endpoint|deployment) quota reached.*?usage/limit: *(\d+/\d+)", "error")
    if count:
        kind = count[1].lower()
        return Cause(
            kind="quota",
            what=f"the region's number of {kind}s is used up ({count[2]})",
            hint=f"delete {kind}s that nobody uses (mlops cleanup), or ask for more at {quota.PAGE}",
        )
    if facts.found(r"OutOfQuota|QuotaExceeded|quota reached|not enough quota", "error"):
        hint = f"ask for quota at {quota.PAGE}, or choose another deployment.instance_type in mlops.yaml"
        return Cause(kind="quota", what="the quota does not suffice", hint=hint)
    if facts.found(r"OutOfCapacity|lack of .*capacity|capacity .*(not|un)available|AllocationFailed", "error"):
        hint = "try again later, or choose another deployment.instance_type in mlops.yaml; quota would not help"
        return Cause(kind="capacity", what="the region has no machine of this size to spare", hint=hint)
    return None


def _no_packages(facts: Facts) -> Cause | None:
    lacking = facts.found(r"the image of '[^']*' has a command of its own.*? not installed on this machine", "error")
    if not lacking:
        return None
    return Cause(kind="packages", what=lacking[0], hint="install them: make engine")


def _image_build(facts: Facts) -> Cause | None:
    if not facts.found(
        r"ImageBuild|(image|environment) build|build(ing)? (of )?the (\w+ )?(image|environment)", "error"
    ):
        return None
    where = facts.found(r"https?://[^\s'\"]+?\.(?:log|txt)\b[^\s'\"]*", "error") or facts.found(
        r"under the (?:storage account|path).*?\.log", "error"
    )
    text = where[0].rstrip(".,;)'\"") if where else "in the workspace's default storage, under azureml/ImageLogs"
    return Cause(
        kind="image build",
        what=f"the image could not be built from '{facts.deployment.server.environment}'; its build log: {text}",
        hint="the log's end names the package that cannot be installed; pin it in the environment's requirements",
    )


def _image_pull(facts: Facts) -> Cause | None:
    pull = facts.found(r"ImagePullFailed|ImagePullBackOff|ErrImagePull", "events") or facts.found(
        r"(download|pull)\w* (the )?(user )?(container )?image|container registry authorization", "error"
    )
    if not pull:
        return None
    return Cause(
        kind="image pull",
        what="the machine could not pull the image",
        hint=f"give {_identity(facts)} the role AcrPull on the workspace's container registry, and wait some minutes "
        "until it holds",
    )


def _download(facts: Facts) -> Cause | None:
    denied = facts.found(
        r"AuthorizationPermissionMismatch|AuthorizationFailure|not authorized to perform|status\W*(code)?\W*403",
        "storage",
    )
    failed = facts.found(r"^DownloadFailed", "events") or facts.found(
        r"model.* could not be downloaded|unable to download user model", "error"
    )
    if not (failed or (denied and not facts.server.strip())):
        return None
    if denied:
        return Cause(
            kind="download",
            what="the storage initializer may not read the model",
            hint=f"give {_identity(facts)} the role Storage Blob Data Reader on the workspace's storage account",
        )
    if facts.found(r"No space left on device", "storage", "error"):
        return _disk(facts)
    return Cause(
        kind="download",
        what="the storage initializer could not download the model or the code",
        hint="look whether the model version's files are still in the workspace's storage; its log says which it wants",
    )


def _startup(facts: Facts) -> Cause | None:
    if not facts.found(r"startup task failed due to (an )?(authorization|incorrect role)", "error"):
        return None
    return Cause(
        kind="identity",
        what=f"{_identity(facts)} may not read the image or the model",
        hint="give it AcrPull on the workspace's container registry and Storage Blob Data Reader on its storage "
        "account, and wait some minutes until that holds",
    )


def _rights(facts: Facts) -> Cause | None:
    denied = facts.found(r"does not have authorization to perform action '(?P<action>[^']+)'", "error")
    if not denied:
        return None
    return Cause(
        kind="rights",
        what=f"this login may not do '{denied['action']}'",
        hint="give it the role AzureML Data Scientist or Contributor on the workspace, or log in as another",
    )


def _identity(facts: Facts) -> str:
    named = facts.deployment.identity
    return f"the identity '{named}'" if named else "the endpoint's own identity"


def _disk(facts: Facts) -> Cause | None:
    if not facts.found(r"No space left on device", "storage", "server", "error"):
        return None
    hint = "choose a deployment.instance_type with a larger disk in mlops.yaml"
    return Cause(kind="disk", what=f"the disk of '{facts.deployment.instance_type}' is too small", hint=hint)


def _driver(facts: Facts) -> Cause | None:
    found = facts.found(
        r"^.*(driver on your system is too old|driver version is insufficient|unsupported display driver"
        r"|no kernel image is available|Found no NVIDIA driver|Failed to infer device type).*$",
        "server",
    )
    if not found:
        return None
    return Cause(
        kind="GPU driver",
        what=f"the server cannot use the GPU of '{facts.deployment.instance_type}', or its driver: "
        f"{found[0].strip()[:200]}",
        hint="choose another deployment.instance_type in mlops.yaml, or a deployment.environment whose CUDA is older",
    )


def _gpu_memory(facts: Facts) -> Cause | None:
    found = facts.found(
        r"^.*(CUDA out of memory|CUDA error: out of memory|cuda\.OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED"
        r"|larger than the available KV cache memory|No available memory for the cache|Free memory on device).*$",
        "server",
    )
    if not found:
        return None
    return Cause(
        kind="out of memory",
        what=f"the memory of the GPU of '{facts.deployment.instance_type}' does not hold the model: "
        f"{found[0].strip()[:200]}",
        hint="choose a deployment.instance_type with more GPU memory in mlops.yaml, or serve in a smaller type; fewer "
        "conversations at once (MLOPS_MAX_BATCH_SIZE under deployment.variables), or with vLLM shorter ones "
        "(MLOPS_ENGINE_ARGS: --max-model-len 2048), need less too",
    )


def _memory(facts: Facts) -> Cause | None:
    killed = facts.found(
        r"OOMKilled|was sent SIGKILL! Perhaps out of memory|\bMemoryError\b|std::bad_alloc|Cannot allocate memory"
        r"|DefaultCPUAllocator: can't allocate|out of memory",
        *WHOLE,
    )
    if killed is None and not facts.found(r"^LivenessProbeFailed", "events"):  # after which a container is killed too
        killed = facts.found(r"exit code:? 137\b|^\s*Killed\s*$", *WHOLE)
    if killed is None:
        return None
    return Cause(
        kind="out of memory",
        what=f"the memory of '{facts.deployment.instance_type}' does not hold the server with its model: its container "
        f"said '{killed[0].strip()}'",
        hint="choose a deployment.instance_type with more memory in mlops.yaml, or fewer workers",
    )


def _worker_timeout(facts: Facts) -> Cause | None:
    if not facts.found(r"WORKER TIMEOUT \(pid", "server") or READY.search(facts.server):
        return None
    return Cause(
        kind="worker timeout",
        what="the server's worker was ended while it loaded the model: it may take WORKER_TIMEOUT seconds, 300 unless "
        "set",
        hint="set WORKER_TIMEOUT under deployment.variables in mlops.yaml to the seconds that the model needs",
    )


def _script(facts: Facts) -> Cause | None:
    script = facts.deployment.server.script
    lacking = facts.found(r"No score script found|does not have a (init|run)\(\)", "server")
    if lacking:
        return Cause(
            kind="scoring script",
            what=f"the scoring script '{script}' cannot be used: {lacking[0]}",
            hint=f"deployment.scoring_script in mlops.yaml names a file of '{facts.deployment.code}' with init and run",
        )
    if not facts.found(r"Failed to import user script|UserScriptImportException", "server"):
        return None
    where, environment = facts.raised, facts.deployment.server.environment
    lacks = facts.found(r"No module named '([\w.]+)'", "server")
    return Cause(
        kind="scoring script",
        what=f"the scoring script '{script}' cannot be imported" + (f": {_told(where)}" if where else ""),
        hint=f"add the package of '{lacks[1]}' to '{environment}'" if lacks else f"correct '{script}'",
    )


def _engine(facts: Facts) -> Cause | None:
    said = facts.found(
        r"^((no|\d+) models? below AZUREML_MODEL_DIR|the (model|tokenizer) in '.*' has no|MLOPS_ENGINE_ARGS (is|has)"
        r"|AZUREML_MODEL_DIR is not set|'.*' (cannot be read: |holds no JSON object)|.*no engine\.py below"
        r"|api_server\.py: error: ).*$",
        "server",
    )
    if not said:
        return None
    return Cause(
        kind="engine",
        what=f"the engine did not start: {said[0]}",
        hint="correct that, or serve without the engine: deployment.environment: environments/serve/environment.yml",
    )


def _told(where: Raised) -> str:
    return where.exception + (f" ({where.place})" if where.place else "")


def _loading(facts: Facts) -> Cause | None:
    failed = facts.found(r"User's init function failed|unhandled exception from the user script", "server")
    if facts.raised is None or READY.search(facts.server):
        return None
    if not failed and not facts.found(r"Worker failed to boot|terminated with exit code|has crashed", *WHOLE):
        return None
    return Cause(
        kind="model does not load",
        what=f"the model does not load: {_told(facts.raised)}",
        hint="the traceback in the server's log says where; the environment may lack a package, or have another "
        "version of one than the model was trained with",
    )


def _probes(facts: Facts) -> Cause | None:
    failing = facts.found(
        r"^(Liveness|Readiness)ProbeFailed|^Unhealthy: (Liveness|Readiness)", "events"
    ) or facts.found(r"(liveness|readiness) probe|was not ready within", "error")
    if not failing or facts.raised is not None or READY.search(facts.server):
        return None
    loading = INITS.search(facts.server) is not None
    how = "was still loading the model" if loading else "had not begun to load the model"
    return Cause(
        kind="probes too short",
        what=f"the probes were too short: the server {how} when they gave up, and no error stands in its log",
        hint="allow more time in mlops.yaml, under deployment.liveness_initial_delay_s, or choose a faster "
        "deployment.instance_type",
    )


def _not_ready(facts: Facts) -> Cause | None:
    if not facts.found(r"ResourceNotReady|has crashed or terminated|was not ready|probe failing", "error"):
        return None
    what = "the server did not become ready, and its log names no known cause"
    if READY.search(facts.server):
        what = "the model was loaded, but the server did not answer its probes"
    return Cause(
        kind="not ready",
        what=what,
        hint="mlops endpoint logs shows more of the server's log, as long as the slot stands",
    )


WHOLE = ("events", "server", "error")
KNOWN: tuple[Callable[[Facts], Cause | None], ...] = (
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
    facts = Facts(
        error=container_log.plain(error),
        events="\n".join(container_log.warnings(server) or container_log.warnings(storage)),
        storage=container_log.blocks(storage)[1],
        server=container_log.blocks(server)[1],
        raised=container_log.raised(server),
        deployment=deployment,
        family=family,
    )
    return next((cause for rule in KNOWN if (cause := rule(facts)) is not None), None)
