"""mlops rollback."""

from __future__ import annotations

from mlops.cli.deploy import show
from mlops.cli.options import Run, argument, command, endpoint_option, option


@command(
    example="""
mlops rollback                # to the slot that still stands
mlops rollback 1763628000     # to that version, redeployed if no slot holds it
"""
)
@argument("version")
@option(
    "--skip-gate", metavar="REASON", help="Accept a version that has not passed the gate here; the reason is recorded."
)
@option("--reason", default="", help="Reason, recorded in the history.")
@endpoint_option()
def rollback(run: Run, version: str | None, skip_gate: str | None, reason: str, name: str | None) -> None:
    """Roll back to the previous version or a named one.

    In seconds where a slot still holds it. A deploy that is under way is stopped and undone; it is not waited for. The
    gate is not asked again: what it has refused, or never seen, needs a name and a reason.
    """
    from mlops.azure.session import connect
    from mlops.core.errors import UsageError
    from mlops.rollout.rollback import rollback as roll_back
    from mlops.training import register

    if skip_gate is not None and (version is None or not skip_gate.strip()):
        raise UsageError("--skip-gate needs a version and a reason", hint='mlops rollback VERSION --skip-gate "REASON"')
    session = connect(run.settings, run.console)
    model = register.find(session, run.settings, version) if version else None
    show(run, roll_back(session, run.settings, version=model, name=name, skip_gate=skip_gate, reason=reason))
