"""What a deployment's document says about running it, and the files that its container would find."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlops.local.serving.durations import seconds
from mlops.local.state.operations import now
from mlops.local.state.store import Document

MODEL = re.compile(r"/models/(?P<name>[^/]+)/versions/(?P<version>[^/]+)$", re.IGNORECASE)
INHERITED = (
    *("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "LOGNAME", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV"),
    "MLOPS_LOCAL_STATE",
)
"""All that a container gets from the daemon's environment: no credentials, no proxies."""


@dataclass(frozen=True)
class Probe:
    """A liveness or readiness probe."""

    initial_delay_s: float = 10
    period_s: float = 10
    timeout_s: float = 2
    failures: int = 30

    @classmethod
    def of(cls, settings: Document | None) -> Probe:
        """From the document's settings, whose durations are ISO 8601."""
        settings = settings or {}
        return cls(
            initial_delay_s=seconds(settings.get("initialDelay", "PT10S")),
            period_s=max(seconds(settings.get("period", "PT10S")), 0.1),
            timeout_s=max(seconds(settings.get("timeout", "PT2S")), 0.1),
            failures=max(int(settings.get("failureThreshold", 30)), 1),
        )

    @property
    def patience_s(self) -> float:
        """How long a container may take before it counts as failed."""
        return self.initial_delay_s + self.period_s * self.failures


@dataclass(frozen=True)
class Spec:
    """How to run one deployment."""

    resource_id: str
    endpoint: str
    name: str
    model: str | None
    code: str | None
    script: str | None
    image: str | None
    """The id of the environment's version."""
    environment: dict[str, str]
    instances: int
    concurrency: int
    """Requests that one instance takes at a time."""
    timeout_s: float
    liveness: Probe
    readiness: Probe

    @classmethod
    def of(cls, body: Document) -> Spec:
        """From the stored document, which has been checked when it was written."""
        properties = body["properties"]
        requests = properties.get("requestSettings") or {}
        code = properties.get("codeConfiguration") or {}
        segments = body["id"].split("/")
        return cls(
            resource_id=body["id"],
            endpoint=segments[-3],
            name=body["name"],
            model=model_id(properties.get("model")),
            code=code.get("codeId"),
            script=code.get("scoringScript"),
            image=properties.get("environmentId"),
            environment={str(key): str(value) for key, value in (properties.get("environmentVariables") or {}).items()},
            instances=int((body.get("sku") or {}).get("capacity") or 1),
            concurrency=int(requests.get("maxConcurrentRequestsPerInstance") or 1),
            timeout_s=seconds(requests.get("requestTimeout", "PT5S")),
            liveness=Probe.of(properties.get("livenessProbe")),
            readiness=Probe.of(properties.get("readinessProbe")),
        )

    @property
    def pending_limit(self) -> int:
        """Requests in flight above which Azure answers 429."""
        return 2 * self.concurrency * self.instances


def model_id(model: object) -> str | None:
    """A deployment's model: an id, or (older api-versions) an object that holds one."""
    if isinstance(model, dict):
        model = model.get("assetId") or model.get("path")
    return str(model) if model else None


@dataclass(frozen=True)
class Files:
    """The container's file system, as far as the scoring script sees it."""

    app_root: Path
    script: str
    environment: dict[str, str]


def lay_out(
    spec: Spec,
    folder: Path,
    *,
    model_folder: Callable[[str], Path],
    code_folder: Callable[[str], Path],
    prefix: Path = Path(sys.prefix),
) -> Files:
    """Put model and code where Azure's storage initializer puts them, and log what it would log.

    Model files are hard links (a copy where the file system refuses), code is copied: it is small and may be
    written to. What is there already (the folder of a generation that is taken over) is left as it is. ``prefix`` holds
    the packages that the container would bring.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = (folder / "storage-initializer.log").open("a", encoding="utf-8")
    with log:

        def note(message: str) -> None:
            log.write(f"{now()} {message}\n")
            log.flush()

        note(f"Initializing storage for deployment '{spec.name}' of endpoint '{spec.endpoint}'.")
        models = folder / "azureml-models"
        model_dir = models
        if spec.model:
            match = MODEL.search(spec.model)
            model_dir = models / (match["name"] if match else "model") / (match["version"] if match else "1")
            if not model_dir.exists():
                note(f"Downloading model '{spec.model}'.")
                source = model_folder(spec.model)
                files, size = link(source, model_dir / source.name)
                note(f"Downloaded {files} files, {size} bytes, to {model_dir / source.name}.")
        app_root = folder / "azureml-app"
        if spec.code:
            if not app_root.exists():
                note(f"Downloading code '{spec.code}'.")
                shutil.copytree(code_folder(spec.code), app_root)
            script = spec.script or "score.py"
        else:
            app_root.mkdir(exist_ok=True)
            shutil.copyfile(Path(__file__).with_name("nocode.py"), app_root / "mlflow_score_script.py")
            script = "mlflow_score_script.py"
        note("Storage initialized.")
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
    environment |= {
        "PATH": f"{prefix / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "AML_APP_ROOT": str(app_root),
        "AZUREML_MODEL_DIR": str(model_dir),
        "SERVICE_NAME": spec.endpoint,
        **spec.environment,
    }
    environment |= {"AML_APP_ROOT": str(app_root), "VIRTUAL_ENV": str(prefix)}
    return Files(app_root=app_root, script=script, environment=environment)


def link(source: Path, target: Path) -> tuple[int, int]:
    """Hard-link a file or a tree; returns how many files and bytes."""
    count = size = 0
    pairs = [(source, target)] if source.is_file() else []
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        pairs = [(file, target / file.relative_to(source)) for file in sorted(source.rglob("*")) if file.is_file()]
    for file, destination in pairs:
        destination.parent.mkdir(parents=True, exist_ok=True)
        destination.unlink(missing_ok=True)
        try:
            destination.hardlink_to(file)
        except OSError:
            shutil.copyfile(file, destination)
        count += 1
        size += file.stat().st_size
    return count, size
