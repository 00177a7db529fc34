"""mlops register."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops.cli.options import Run, argument, command

if TYPE_CHECKING:
    from mlops.azure.session import Session
    from mlops.resources import ModelVersion


@command(example="mlops register ft-0123456789abcdef-1")
@argument("job")
def register(run: Run, job: str | None) -> None:
    """Register a completed job's model under the job's timestamp (by default the newest job's).

    A job that has a version already keeps it.
    """
    from mlops.azure.session import connect
    from mlops.cli.wait import newest_job

    session = connect(run.settings, run.console)
    model, made = register_job(run, session, job or newest_job(run, session))
    verb = "registered" if made else "was registered already"
    run.console.result(
        {"model": model.name, "version": model.version, "id": model.id, "tags": dict(model.tags), "made": made},
        f"{model.name}:{model.version} {verb}\nnext: mlops deploy {model.version}{run.at}",
        outputs={"model": model.name, "version": model.version, "made": made},
        summary=f"**{model.name}:{model.version}** {verb} from the job `{model.tags.get('job')}`",
    )


def register_job(run: Run, session: Session, job: str) -> tuple[ModelVersion, bool]:
    """Register with the job's scores as tags."""
    from mlops import models

    with run.console.step("Register the model") as step:
        found = models.completed_job(session, job)
        model, made = models.register(session, run.settings, job, scores=models.scores(session, found))
        step.note = f"version {model.version}" + ("" if made else " (was there)")
    return model, made
