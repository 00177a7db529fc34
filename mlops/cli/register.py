"""mlops register."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlops.cli.options import Run, argument, command, option

if TYPE_CHECKING:
    from mlops.azure.session import Session
    from mlops.training.evaluation import Judgement
    from mlops.training.register import Registered


@command(
    example="""
mlops register ft-0123456789abcdef-1
mlops register ft-0123456789abcdef-1 --accept "forgets French, which nobody asks for"
"""
)
@argument("job")
@option("--accept", metavar="REASON", help="Register a model that fails its evaluation; the reason is recorded.")
def register(run: Run, job: str | None, accept: str | None) -> None:
    """Register a completed job's model under the job's timestamp.

    Without JOB: the newest one.

    What the evaluation has shown is held against training.evaluation in mlops.yaml first: exit code 5 where it falls
    short. A job that has a version already keeps it.
    """
    from mlops.azure.session import connect
    from mlops.cli.training_views import newest_job

    check_reason(accept)
    session = connect(run.settings, run.console)
    registration = register_job(run, session, job or newest_job(run, session), accept=accept)
    model, judgement = registration.model, registration.judgement
    verb = "registered" if registration.made else "was registered already"
    data = {
        "model": model.name,
        "version": model.version,
        "id": model.id,
        "tags": dict(model.tags),
        "made": registration.made,
        "evaluation": judgement_data(judgement),
    }
    table = "\n".join([*judgement.lines, ""]) if judgement and judgement.checks else ""
    run.console.result(
        data,
        f"{table}{model.name}:{model.version} {verb}\nnext: mlops deploy {model.version}{run.target_flag}",
        outputs={"model": model.name, "version": model.version, "made": registration.made},
        summary=f"**{model.name}:{model.version}** {verb} from the job `{model.tags.get('job')}`"
        + judgement_markdown(judgement),
    )


def check_reason(accept: str | None) -> None:
    """An empty reason is none.

    Raises:
        UsageError: it is empty.
    """
    from mlops.core.errors import UsageError

    if accept is not None and not accept.strip():
        raise UsageError("--accept needs a reason", hint="it is recorded with the model")


def register_job(run: Run, session: Session, job: str, *, accept: str | None = None) -> Registered:
    """Register, or say why the evaluation speaks against it; the next reconcile need not say it again."""
    from mlops import reconcile
    from mlops.training import register
    from mlops.training.evaluation import EvaluationFailed

    with run.console.step("Register the model") as step:
        try:
            registration = register.register(session, run.settings, job, accept=accept)
        except EvaluationFailed:
            reconcile.mark_reported(session, job)
            raise
        verdict = registration.judgement.verdict if registration.judgement else ""
        notes = [f"version {registration.model.version}" + ("" if registration.made else " (was there)")]
        notes += [f"evaluation {verdict}"] if verdict else []
        notes += ["accepted"] if registration.judgement and registration.judgement.refused else []
        step.note = ", ".join(notes)
    return registration


def judgement_data(judgement: Judgement | None) -> dict[str, Any] | None:
    """For --json."""
    if judgement is None:
        return None
    return {"verdict": judgement.verdict, "why": judgement.why, "checks": judgement.checks}


def judgement_markdown(judgement: Judgement | None) -> str:
    """The table of measures for the job summary."""
    from mlops.core.console import markdown_table
    from mlops.training.evaluation import HEADER

    if judgement is None or not judgement.checks:
        return ""
    return "\n\n" + markdown_table(HEADER, judgement.rows) + (f"\n\n{judgement.why}" if judgement.why else "")
