"""What is trained, by what: the registry, the base model, the pipeline and its parameters."""

from __future__ import annotations

import os
from pathlib import Path

from mlops.config.settings import BaseModelChoice, Settings
from mlops.doctor.context import CheckContext
from mlops.doctor.findings import Finding, Mark, bad, doubtful, good, skipped
from mlops.machines import catalogue
from mlops.training import pipeline as pipelines
from mlops.training import preflight, submit

HUB = "https://huggingface.co"
HUB_S = 8.0


def registries(settings: Settings) -> list[str]:
    """The registries that this target reads from."""
    names = [pipelines.REGISTRY] if settings.training.pipeline == "registry" else []
    if settings.base_model.source == "registry":
        names.append(settings.base_model.registry)
    return list(dict.fromkeys(names))


def registry(context: CheckContext) -> Finding:
    """The registries: found, and open to this login."""
    names = registries(context.settings)
    for name in names:
        context.session.registry(name)
    if not names:
        return skipped("not looked at: the pipeline and the model come from elsewhere")
    return good(f"{' and '.join(repr(name) for name in names)} can be reached")


def base_model(context: CheckContext) -> Finding:
    """The model that is fine-tuned: there, and alive."""
    choice = context.settings.base_model
    if choice.source == "huggingface":
        return _of_hub(context)
    model = preflight.look_up_base_model(context.session, context.settings)
    context.base = model
    if not context.settings.is_local:  # whose registry has no other
        catalogue.check_model(model)
    return good(f"'{model.name}', version {model.version}, of the registry '{choice.registry}'")


def _of_hub(context: CheckContext) -> Finding:
    """A model of the hub, which the pipeline fetches itself; from here it is only asked for."""
    name = context.settings.base_model.huggingface_id
    if context.settings.is_local:
        default_id = BaseModelChoice.model_fields["huggingface_id"].default
        if name != default_id:
            return bad(f"the local workspace has no '{name}'", f"it has a stand-in for {default_id} alone")
        return good(f"'{name}', for which a stand-in of a million parameters is trained here")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    plain, _, revision = name.partition("@")
    hub = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or HUB, token=False)
    try:
        info = hub.model_info(plain, revision=revision or None, timeout=HUB_S)
    except GatedRepoError:
        return bad(f"the hub gives '{name}' only to those who accepted its terms", "choose another base_model")
    except RepositoryNotFoundError:
        return bad(f"the hub has no public model '{name}'", "check base_model.huggingface_id in mlops.yaml")
    except HfHubHTTPError as error:
        if getattr(error.response, "status_code", 0) == 404:
            return bad(f"the hub has no public model '{name}'", "check base_model.huggingface_id in mlops.yaml")
        return _not_asked(name, error)
    except Exception as error:  # whatever its HTTP client raises where there is no way to the hub
        return _not_asked(name, error)
    if info.gated:
        return bad(f"the hub gives '{name}' only to those who accepted its terms", "choose another base_model")
    return good(f"'{name}' of the hub, commit {(info.sha or 'unknown')[:8]}")


def _not_asked(name: str, error: Exception) -> Finding:
    lines = str(error).strip().splitlines()
    return doubtful(
        f"'{name}' of the hub: this machine cannot ask for it: {lines[0] if lines else type(error).__name__}",
        "the training's cluster fetches it itself, and may have another way out",
    )


def pipeline(context: CheckContext) -> Finding | list[Finding]:
    """The pipeline component: there, and taking each parameter that it will be given."""
    settings = context.settings
    submit.check_parameters(settings.training.parameters)
    defaults = catalogue.model_defaults(context.base.tags) if context.base else {}
    parameters = submit.resolve_parameters(settings.training.parameters, defaults, pipeline=settings.training.pipeline)
    given = pipelines.inputs(
        settings,
        {item.name: item.value for item in parameters},
        base=context.base,
        cluster=settings.compute.name,
        gpus=context.training_size.gpus if context.training_size else 1,
        train=Path("train.jsonl"),
        test=Path("test.jsonl"),
    )
    taken = pipelines.takes(context.session, settings)
    problems = list(pipelines.problems(taken, given))
    label = pipelines.label(settings)
    if problems:
        return [Finding(mark=Mark.BAD, what=each.message, hint=each.hint) for each in problems]
    return good(f"{label} takes all {len(given)} inputs")
