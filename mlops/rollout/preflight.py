"""What must hold before a rollout begins, and what it will need: cores, time, probes. Nothing is changed here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops.azure import artifacts, computes, jobs, models
from mlops.azure.quota import usages
from mlops.core.errors import AzureError, PreconditionError
from mlops.core.resources import Deployment, ModelVersion, Probes, VmSize
from mlops.machines import catalogue, quota
from mlops.machines.probes import probes
from mlops.machines.quota import Needs
from mlops.machines.servers import Server
from mlops.rollout import identity
from mlops.rollout.estimate import Duration, estimate_duration

if TYPE_CHECKING:
    from mlops.azure.session import Session
    from mlops.config.settings import Settings
    from mlops.rollout.plan import Plan

STEADY = "succeeded"


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """What a rollout will need; all that must hold does.

    Attributes:
        needs: cores that are asked for; 0 where the slot keeps those that it has; None where the size is not known.
        used: cores of the family in use in the region, without the slot's own; None where not asked, or not known.
        limit: of the family; None where there is none, or ``used`` is None.
        server: what serves the model.
        model_bytes: size of the model's files; None where it is unknown.
        warnings: what a person should know and nothing is refused for.
    """

    size: str
    instances: int
    needs: Needs | None
    used: int | None
    limit: int | None
    server: Server
    model_bytes: int | None
    probes: Probes
    duration: Duration
    warnings: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """What a dry run prints."""
        liveness = self.probes.liveness
        size = "size not known" if self.model_bytes is None else _spoken(self.model_bytes)
        return [
            f"quota: {self._quota()}",
            f"server: {self.server.name}, {self.server.max_concurrent_requests} requests at a time "
            f"({self.server.environment})",
            f"probes: model {size}; liveness is asked from second {liveness.initial_delay_s} on, "
            f"readiness given up at second {self.probes.readiness.patience_s}",
            f"time: {self.duration.text()}",
        ]

    def _quota(self) -> str:
        machines = f"{self.instances} × {self.size}"
        if self.needs is None:
            return f"what {machines} need is not known"
        if not self.needs.cores:
            return f"the slot keeps its {machines}"
        kept = f", {self.needs.reserved} of them kept free for upgrades" if self.needs.reserved else ""
        text = f"{self.needs.cores} vCPUs of {self.needs.family} for {machines}{kept}"
        if self.used is None:
            return f"{text}; what is left is not known"
        if self.limit is None:
            return f"{text}; there is no limit"
        return f"{text}; {self.limit - self.used} of {self.limit} are free"


def _spoken(bytes_: int) -> str:
    return f"{bytes_ / 1e9:.3g} GB" if bytes_ >= 1e9 else f"{bytes_ / 1e6:.3g} MB"


def check(
    session: Session,
    settings: Settings,
    version: ModelVersion,
    plan: Plan,
    deployments: Sequence[Deployment] = (),
    *,
    skips_gate: bool = False,
) -> Preflight:
    """Look at everything that can be known before anything is made.

    Args:
        session: the workspace.
        settings: the target's settings.
        version: what is to be deployed.
        plan: where it goes.
        deployments: the endpoint's deployments.
        skips_gate: whether neither gate nor soak is asked, which makes it quicker.

    Raises:
        PreconditionError: a job that did not complete, an identity that is missing or lacks a role, a size that is
            retired, off the base model's inference allow-list or not offered in the region, or too little quota.
    """
    warnings = check_job(session, version)
    if plan.creates_endpoint:
        warnings += identity.check_before(session, settings)
    size, offered = check_size(session, settings, version)
    slot = next((item for item in deployments if item.name == plan.slot), None)
    needs, used, limit = None, None, None
    if size is None:
        warnings += ("the region's machine sizes and its quota are not known to this login; Azure will check them",)
    else:
        needs = serving_needs(settings, size, second_slot=not keeps_cores(slot, settings))
        used, limit, more = check_quota(session, needs, reusable=reusable_cores(slot, needs.family, offered))
        warnings += more
    bytes_ = artifacts.model_bytes(session, version)
    return Preflight(
        size=settings.deployment.instance_type,
        instances=settings.deployment.instance_count,
        needs=needs,
        used=used,
        limit=limit,
        model_bytes=bytes_,
        server=settings.deployment.server,
        probes=probes(
            bytes_,
            initial_delay_s=settings.deployment.liveness_initial_delay_s,
            warm_up_s=settings.deployment.server.warm_up_s,
        ),
        duration=estimate_duration(
            settings,
            bytes_,
            plan.steps,
            creates_endpoint=plan.creates_endpoint,
            mirror=bool(plan.mirror),
            skips_gate=skips_gate,
        ),
        warnings=warnings,
    )


def check_job(session: Session, version: ModelVersion) -> tuple[str, ...]:
    """Refuse a version whose job is not Completed; one whose job is gone is only warned of.

    Raises:
        PreconditionError: the job failed, was cancelled or still runs.
    """
    name = version.job or version.tags.get("job")
    if not name:
        return ()
    job = jobs.get(session, name)
    label = f"'{version.name}', version '{version.version}',"
    if job is None:
        return (f"the job '{name}', which made {label} is gone; whether it completed is not known",)
    if not job.is_completed:
        hint = f"wait for it: mlops wait {name}" if job.is_running else "deploy a version whose job completed"
        raise PreconditionError(f"the job '{name}', which made {label} is '{job.status}', not 'Completed'", hint=hint)
    return ()


def check_quota(session: Session, needs: Needs, *, reusable: int) -> tuple[int | None, int | None, tuple[str, ...]]:
    """Refuse a need that exceeds what its family, or all of the region, has left.

    A login that may deploy but not read the subscription's quota is only warned: Azure checks again.

    Args:
        session: the workspace.
        needs: cores asked for; nothing is looked up where they are 0.
        reusable: cores that are given back before.

    Returns:
        Cores in use and limit of the family, where known, and warnings.

    Raises:
        PreconditionError: with the family, the shortage and where to ask.
    """
    if not needs.cores:
        return None, None, ()
    try:
        rows = usages(session)
    except AzureError as error:
        return None, None, (f"the quota is not known: {error.message}; Azure will check it",)
    row = quota.of_family(rows, needs.family)
    if row is None:
        return None, None, (f"Azure lists no quota for the family '{needs.family}'; it may refuse the deployment",)
    for short in quota.shortages(rows, [needs], own={needs.family: reusable}):
        raise PreconditionError(short.sentence, hint=short.hint)
    return row.used - reusable, row.limit, ()


def check_size(session: Session, settings: Settings, version: ModelVersion) -> tuple[VmSize | None, Sequence[VmSize]]:
    """The machine size that serves, as the region offers it, and all that it offers.

    None where this login may not list what the region offers, which a login of the workspace alone may not.

    Raises:
        PreconditionError: it is retired, off the base model's inference allow-list, or not offered.
    """
    name = settings.deployment.instance_type
    catalogue.check_size(name)
    choice = settings.base_model
    base = None
    if choice.source == "registry":
        base = models.get(session, choice.name, choice.version, registry=choice.registry)
    check_servable(name, base, model=version.name)
    try:
        offered = computes.sizes(session)
    except AzureError:
        return None, ()
    return catalogue.check_offered(name, offered, setting="deployment.instance_type"), offered


def check_servable(size: str, base: ModelVersion | None, *, model: str) -> None:
    """Refuse a size that is retired, or cannot serve what the base model became.

    Raises:
        PreconditionError: with what can be used.
    """
    catalogue.check_size(size)
    if base is not None:
        allowed = catalogue.allowed_sizes(base.tags, base.properties, purpose="inference")
        catalogue.check_allowed(size, allowed, model=model, purpose="inference")


def serving_needs(settings: Settings, size: VmSize, *, second_slot: bool) -> Needs:
    """The cores that a rollout asks for.

    Args:
        settings: the target's settings, with the number of instances.
        size: of the machines.
        second_slot: whether machines are added; a slot that stands with the same machines keeps its cores.
    """
    if not second_slot:
        return Needs(size=size.name, family=size.family, cores=0, reserved=0)
    return quota.deployment_needs(size, settings.deployment.instance_count)


def keeps_cores(slot: Deployment | None, settings: Settings) -> bool:
    """Whether the slot stands on the very machines that are wanted."""
    desired = settings.deployment
    return (
        slot is not None
        and slot.state.lower() == STEADY
        and slot.instance_type.lower() == desired.instance_type.lower()
        and slot.instance_count == desired.instance_count
    )


def reusable_cores(slot: Deployment | None, family: str, offered: Sequence[VmSize]) -> int:
    """The cores of a family that the slot itself holds: they are free again when it gets other machines.

    That goes for a slot that failed, too, since it is deleted before it is made again.
    """
    if slot is None:
        return 0
    size = next((item for item in offered if item.name.lower() == slot.instance_type.lower()), None)
    if size is None or size.family != family:
        return 0
    return quota.deployment_needs(size, slot.instance_count).cores
