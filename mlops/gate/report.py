"""The gate's report: what stands in ``report.json``.

``report.schema.json`` beside this file is the JSON Schema of that document; :func:`schema` makes it of the classes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from mlops.gate.comparison import Comparison, Verdict
from mlops.gate.contract import Violation
from mlops.gate.judge import Check
from mlops.gate.measurement import Measured, Number

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SCHEMA_VERSION = 2
CUT = 240
"""Characters of a prompt or an answer that the report shows."""
Percent = Annotated[int, Field(ge=0, le=100)]


@dataclass(frozen=True, kw_only=True)
class WorstAnswer:
    """An answer far from its reference, cut to a readable length; ``flaw`` is what it breaks of the contract."""

    prompt: str
    reference: str
    answer: str
    scores: Mapping[str, Number]
    flaw: Violation | Literal["http"] | None = None


@dataclass(frozen=True, kw_only=True)
class Soak:
    """What was seen while a share of the live traffic rested on the new slot."""

    share: Percent
    seconds: float
    slots: tuple[Measured, ...]
    checks: tuple[Check, ...]
    verdict: Literal["pass", "fail"]


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A moment of a rollout: the traffic from then on, why, and the verdict that led there, if one did."""

    at: datetime
    traffic: Mapping[str, Percent]
    what: str
    verdict: str | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the gate found, and what the rollout saw afterwards.

    Attributes:
        model: the candidate's model and version.
        seconds: how long asking took, without the warm-up.
        rounds: how often samples were taken; more than one while the comparison was inconclusive.
        worst: the candidate's answers furthest from their references.
        errors: what went wrong with requests to the candidate, each once.
        notes: what a reader must know to read the figures.
    """

    schema_version: Literal[2] = 2
    endpoint: str
    model: str
    verdict: Verdict
    candidate: Measured
    live: Measured | None
    checks: tuple[Check, ...]
    comparisons: tuple[Comparison, ...] = ()
    worst: tuple[WorstAnswer, ...] = ()
    errors: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    at: datetime | None = None
    seconds: Number = math.nan
    rounds: int = 1
    soaks: tuple[Soak, ...] = ()
    timeline: tuple[Moment, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the candidate may have traffic."""
        return self.verdict == "pass"


@functools.cache
def adapter() -> TypeAdapter[Report]:
    """Reads and writes reports as JSON."""
    from pydantic import TypeAdapter

    return TypeAdapter(Report)


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of ``report.json``. Every field is always there."""
    from pydantic.json_schema import GenerateJsonSchema

    class Whole(GenerateJsonSchema):
        def default_schema(self, schema: Any) -> Any:
            return self.generate_inner(schema["schema"])

        def field_is_required(self, field: Any, total: bool) -> bool:  # noqa: ARG002, FBT001 - pydantic calls it
            return True

    document = adapter().json_schema(mode="serialization", schema_generator=Whole)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **document}


def cut(text: str) -> str:
    """A text on one line, at most :data:`CUT` characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= CUT else flat[: CUT - 1] + "…"
