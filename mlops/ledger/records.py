"""The ledger's records: one model of facts per kind, each record a line of JSON.

Lines are read leniently, since other versions write to the same blob: a fact that is unknown is kept, one that has
another form than expected counts as absent. A line of an unknown kind cannot be read and is counted.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from mlops.core.console import plain
from mlops.ledger.outcomes import Outcome

Kind = Literal["begin", "plan", "deployed", "verdict", "traffic", "moved", "end"]


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _shares(value: object) -> dict[str, int]:
    """A traffic map; what is none is an empty one."""
    if not isinstance(value, Mapping):
        return {}
    return {
        str(slot): int(share)
        for slot, share in value.items()
        if isinstance(share, (int, float)) and math.isfinite(share)
    }


def _or_none(value: object, handler: ValidatorFunctionWrapHandler) -> Any:
    try:
        return handler(value)
    except ValidationError:
        return None


Text = Annotated[str | None, BeforeValidator(_text)]
Shares = Annotated[dict[str, int] | None, BeforeValidator(_shares)]
"""Per cent of traffic by slot; None where the record says nothing of it."""
Lenient = WrapValidator(_or_none)


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class _VersionFacts(_Facts):
    """Facts about a model version in a slot."""

    slot: Text = None
    model: Text = None
    version: Text = None


class Begin(_VersionFacts):
    """A rollout has the lease.

    Attributes:
        action: deploy, rollback or recover.
        machine: the process that holds the lease.
        superseded: the rollout that was stopped for it.
        commit: of the checkout.
        run_url: of the workflow's run.
        reason: a person's words.
        before: the traffic; early versions wrote it here.
    """

    kind: Literal["begin"] = Field(default="begin", exclude=True)
    action: Text = None
    machine: Any = None
    superseded: Text = Field(
        default=None, validation_alias=AliasChoices("superseded", "broke"), serialization_alias="broke"
    )
    commit: Text = None
    run_url: Text = None
    reason: Text = None
    before: Shares = None


class ReplacedVersion(BaseModel):
    """The model version that was live before."""

    model_config = ConfigDict(frozen=True)

    model: str
    version: str


class Planned(_VersionFacts):
    """What the rollout is going to do.

    Attributes:
        action: deploy or rollback.
        live: the slot with the traffic.
        before: the traffic to go back to.
        steps: shares of traffic for the new slot, in per cent.
        replaced: what is live; early versions wrote the version alone.
    """

    kind: Literal["plan"] = Field(default="plan", exclude=True)
    action: Text = None
    live: Text = None
    before: Shares = None
    steps: Annotated[tuple[int, ...] | None, Lenient] = None
    replaced: Annotated[ReplacedVersion | str | None, Lenient] = None


class Deployed(_VersionFacts):
    """The slot stands, without traffic."""

    kind: Literal["deployed"] = Field(default="deployed", exclude=True)
    seconds: Annotated[float | None, Lenient] = None


class Verdict(_VersionFacts):
    """What the gate or a soak found, or that a person let the version pass.

    Attributes:
        what: gate, soak or skipped.
        verdict: pass, fail, inconclusive or skipped.
        reason: why a person skipped the gate.
        scores: the gate's, by metric.
        share: the soak's, in per cent.
    """

    kind: Literal["verdict"] = Field(default="verdict", exclude=True)
    what: Text = None
    verdict: Text = None
    reason: Text = None
    scores: Annotated[dict[str, float | None] | None, Lenient] = None
    share: Annotated[int | None, Lenient] = None


class TrafficIntent(_Facts):
    """The traffic that is about to be set; written before the call.

    Attributes:
        desired: the traffic map.
        mirror: copies of requests, in per cent by slot.
        what: the step.
    """

    kind: Literal["traffic"] = Field(default="traffic", exclude=True)
    desired: Shares = Field(
        default=None, validation_alias=AliasChoices("desired", "wanted"), serialization_alias="wanted"
    )
    mirror: Shares = None
    what: Text = None


class TrafficMoved(_Facts):
    """The traffic as it was read back after the call."""

    kind: Literal["moved"] = Field(default="moved", exclude=True)
    traffic: Shares = None
    mirror: Shares = None


class End(_VersionFacts):
    """How the rollout ended.

    Attributes:
        outcome: how.
        traffic: as it is then.
        before: the traffic that was undone.
        vacated: the slot that lost its traffic.
        error: what went wrong.
    """

    kind: Literal["end"] = Field(default="end", exclude=True)
    outcome: Outcome = Outcome("")
    traffic: Shares = None
    before: Shares = None
    vacated: Text = Field(default=None, validation_alias=AliasChoices("vacated", "left"), serialization_alias="left")
    error: Text = None


Facts = Begin | Planned | Deployed | Verdict | TrafficIntent | TrafficMoved | End


class Record(BaseModel):
    """One decision or deed of one rollout: a line of JSON, with the kind beside the facts."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = 1
    id: str = Field(default_factory=lambda: uuid.uuid4().hex)
    at: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    rollout: str
    by: str
    facts: Annotated[Facts, Field(discriminator="kind")]

    @model_validator(mode="before")
    @classmethod
    def _kind_into_facts(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or "kind" not in data:
            return data
        facts = data.get("facts", {})
        return {**data, "facts": {**facts, "kind": data["kind"]} if isinstance(facts, Mapping) else facts}

    @property
    def kind(self) -> Kind:
        """What is recorded."""
        return self.facts.kind

    @property
    def written_facts(self) -> dict[str, Any]:
        """The facts that were given, as JSON holds them."""
        facts: dict[str, Any] = plain(self.facts.model_dump(mode="json", exclude_unset=True, by_alias=True))
        return facts

    @property
    def line(self) -> bytes:
        """As it stands in the blob."""
        envelope = self.model_dump(mode="json", exclude={"facts"})
        document = plain({**envelope, "kind": self.kind}) | {"facts": self.written_facts}
        return json.dumps(document, ensure_ascii=False).encode(errors="replace") + b"\n"


def parse(data: bytes) -> tuple[list[Record], int]:
    """The records of a blob, each once, and how many lines cannot be read."""
    records: dict[str, Record] = {}
    bad = 0
    for line in data.split(b"\n"):
        if not line.strip():
            continue
        try:
            record = Record.model_validate_json(line)
        except ValidationError:
            bad += 1
            continue
        records.setdefault(record.id, record)  # an append whose answer was lost is sent twice
    return list(records.values()), bad
