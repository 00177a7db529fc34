"""A rollout that is under way: the endpoint's lease, the plan, what has happened so far, and the way back."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mlops import gate
from mlops.azure import endpoints
from mlops.azure.endpoints import shares
from mlops.core.errors import AzureError, MlopsError, PreconditionError
from mlops.core.resources import Endpoint, ModelVersion
from mlops.ledger import Facts, LeaseLost, TrafficIntent, TrafficMoved, Verdict
from mlops.rollout.plan import holds
from mlops.scoring.client import Scorer, scorer

if TYPE_CHECKING:
    from mlops.azure.session import Session
    from mlops.config.settings import Settings
    from mlops.ledger import Lock
    from mlops.rollout.plan import Plan

LOG_LINES = 500
RESTORE = "restore"


@dataclass(frozen=True, kw_only=True)
class ReleaseRequest:
    """What is to be released, and how.

    Attributes:
        version: what to deploy.
        endpoint: its name.
        samples: conversations for gate and soak.
        split: the split that they were drawn from.
        preview: the endpoint is one of its own for this version.
        force: even if this very version is live; and into a recreated slot.
        skip_gate: the reason why a person skips gate and soak.
    """

    version: ModelVersion
    endpoint: str
    samples: Sequence[gate.Sample] = ()
    split: str = ""
    preview: bool = False
    force: bool = False
    skip_gate: str | None = None


@dataclass
class RolloutContext:
    """One rollout, from its plan to its end.

    Every change of Azure goes through it: an intent is written under the lease right before the call, so that one who
    has lost the lease changes nothing more, and one who comes after a crash knows what may have happened.
    """

    session: Session
    settings: Settings
    lock: Lock
    request: ReleaseRequest
    plan: Plan
    report: gate.Report | None = None
    folder: Path | None = None
    soaks: list[gate.Soak] = field(default_factory=list)
    timeline: list[gate.Moment] = field(default_factory=list)
    traffic: dict[str, int] = field(default_factory=dict)
    """What was last seen in Azure."""
    _scorer: Scorer | None = None

    @property
    def name(self) -> str:
        """The endpoint's name."""
        return self.plan.endpoint

    @property
    def version(self) -> ModelVersion:
        """What is deployed."""
        return self.request.version

    @property
    def samples(self) -> Sequence[gate.Sample]:
        """Conversations for gate and soak."""
        return self.request.samples

    @property
    def label(self) -> str:
        """The model and its version."""
        return f"{self.version.name}:{self.version.version}"

    @property
    def scorer(self) -> Scorer:
        """The endpoint's scorer; its key is fetched once."""
        if self._scorer is None:
            self._scorer = scorer(self.session, self.name, timeout_s=self.settings.gate.timeout_s)
        return self._scorer

    # -- forward ---------------------------------------------------------------------------------------------------

    def mark(self, what: str, verdict: str | None = None) -> None:
        """A moment of the timeline that the report draws."""
        self.timeline.append(gate.Moment(at=datetime.now(UTC), traffic=dict(self.traffic), what=what, verdict=verdict))

    def set_traffic(
        self, traffic: Mapping[str, int], *, what: str, mirror: Mapping[str, int] | None = None
    ) -> Endpoint:
        """Set the traffic map and read it back; the intent stands in the history before the call."""
        desired, copies = dict(traffic), dict(mirror or {})

        def noted(facts: Facts) -> None:
            try:
                self.lock.write(facts)
            except AzureError:
                if what != RESTORE:
                    raise
                self.lock.check()  # to put back what was there is right, also while nothing can be written down

        def intent() -> None:
            noted(TrafficIntent(desired=desired, mirror=copies, what=what))

        self.mark(what)
        seen = endpoints.set_traffic(self.session, self.name, desired, mirror=copies, fence=intent)
        self.traffic = shares(seen.traffic)
        noted(TrafficMoved(traffic=self.traffic, mirror=shares(seen.mirror)))
        self.mark(what)
        return seen

    def record_verdict(self, verdict: Verdict) -> None:
        """Put a verdict on the version in the plan's slot on record."""
        about = {"slot": self.plan.slot, "model": self.version.name, "version": self.version.version}
        self.lock.write(verdict.model_copy(update=about))
        what = verdict.what or ""
        self.mark(what if verdict.share is None else f"{what} {verdict.share} %", verdict.verdict)

    def check_unchanged(self) -> None:
        """Traffic moves only to what was judged, from where it was: somebody may have changed either by hand.

        Raises:
            PreconditionError: somebody did.
        """
        endpoint = endpoints.settle(self.session, self.name)
        now = shares(endpoint.traffic if endpoint else {})
        hint = "look with mlops endpoint status, then deploy again"
        if now != self.traffic:
            raise PreconditionError(f"somebody else changed the traffic of '{self.name}' to {now or 'none'}", hint=hint)
        if not self.holds_version():
            raise PreconditionError(
                f"somebody else deployed to the slot '{self.plan.slot}' of '{self.name}'", hint=hint
            )

    def holds_version(self) -> bool:
        """Whether the plan's slot stands and holds the version."""
        slot = endpoints.deployment(self.session, self.name, self.plan.slot)
        return slot is not None and holds(slot, self.version) and slot.state.lower() == "succeeded"

    # -- back ------------------------------------------------------------------------------------------------------

    def restore(self) -> bool:
        """Put the recorded traffic map back, read it back, and ask the endpoint; the failure that led here stays.

        What somebody else released meanwhile by hand is left alone.

        Returns:
            Whether the traffic is known to be as it was.
        """
        console, before = self.session.console, shares(self.plan.before)
        try:
            endpoint = endpoints.settle(self.session, self.name)
            if endpoint is None:
                return True
            now = shares(endpoint.traffic)
            self.traffic = now
            if now == before and not shares(endpoint.mirror):
                return True
            if self.plan.slot not in now and not shares(endpoint.mirror):
                console.warn(f"somebody else set the traffic of {self.name} to {now or 'none'}; it stays")
                return True
            self.set_traffic(before, what=RESTORE)
            console.warn(f"the traffic of {self.name} is back at {before or 'none'}")
            self._ask_once(before)
        except LeaseLost as error:
            console.warn(error.message)
            return False
        except MlopsError as error:
            console.warn(f"the traffic of {self.name} could not be put back: {error.message}; mlops deploy tries again")
            return False
        return True

    def _ask_once(self, before: Mapping[str, int]) -> None:
        """One request without a header: who answers now?"""
        if not before or not self.samples:
            return
        answer = self.scorer.ask(gate.payload(self.samples[0], self.settings.gate.parameters))
        if not answer.ok:
            self.session.console.warn(f"{self.name} does not answer a request: {answer.error}")
        elif answer.slot is not None and answer.slot.lower() not in before:
            self.session.console.warn(f"{self.name} still answers from {answer.slot}")

    # -- on paper --------------------------------------------------------------------------------------------------

    def write_report(self, *, logs: bool) -> Path | None:
        """Write the report, as far as the rollout has come; with the failed slot's logs."""
        if self.report is None:
            return None
        self.report = dataclasses.replace(self.report, soaks=tuple(self.soaks), timeline=tuple(self.timeline))
        self.folder = self.folder or self._new_folder()
        slot_logs: dict[str, str] = {}
        for container in endpoints.CONTAINERS if logs else ():
            with contextlib.suppress(MlopsError):  # a report without logs is better than none
                slot_logs[container] = endpoints.logs(
                    self.session, self.name, self.plan.slot, container=container, lines=LOG_LINES
                )
        try:
            return gate.write(self.report, self.folder, logs=slot_logs)
        except OSError as error:
            self.session.console.warn(f"the report could not be written: {error}")
            return None

    def save_logs(self, logs: Mapping[str, str]) -> Path | None:
        """Keep the logs of a slot that did not come up; there is no report of it yet."""
        folder = self._new_folder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in logs.items():
                (folder / f"{name}.log").write_text(text, encoding="utf-8")
        except OSError as error:
            self.session.console.warn(f"the logs could not be kept: {error}")
            return None
        self.session.console.outputs({"report": str(folder)})
        return folder

    def _new_folder(self) -> Path:
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
        return self.settings.home / "reports" / f"{self.name}-{self.plan.slot}-{stamp}"
