"""What is put into a slot, and a look at it before anything is paid for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from mlops import gate
from mlops.azure import endpoints
from mlops.core.errors import UsageError
from mlops.core.resources import MANAGED_BY, MANAGED_TAG, ModelVersion, Probes
from mlops.data.payload import check_text
from mlops.machines.probes import server_variables

if TYPE_CHECKING:
    from mlops.config.settings import Settings
    from mlops.rollout.plan import Plan

VERSION_TAG = "model-version"
SKIPPED_TAG = "gate-skipped"
"""A hint for people; what counts is the endpoint's history."""
TAG_CHARACTERS = 256


def draw_samples(settings: Settings, test_rows: Path) -> list[gate.Sample]:
    """The gate's conversations, and a look at its request before anything is paid for.

    Raises:
        UsageError: gate.parameters are none that the server takes.
    """
    samples = gate.draw(gate.load_rows(test_rows), count=settings.gate.max_conversations, seed=settings.gate.seed)
    request = json.dumps(gate.payload(samples[0], settings.gate.parameters)).encode()
    for problem in check_text(request, name="gate.parameters")[1]:
        if problem.field.startswith("input_data.parameters"):
            field = problem.field.removeprefix("input_data.")
            raise UsageError(f"gate.{field} in mlops.yaml {problem.message}")
    return samples


def deployment_spec(
    settings: Settings, plan: Plan, version: ModelVersion, *, probes: Probes, skip_gate: str | None = None
) -> endpoints.DeploymentSpec:
    """The deployment of a version in the plan's slot.

    Raises:
        UsageError: a file that it needs is missing.
    """
    desired = settings.deployment
    server = desired.server
    for path in (server.environment, desired.code / server.script):
        if not (settings.root / path).is_file():
            raise UsageError(f"there is no '{path}' in '{settings.root}'", hint="see deployment in mlops.yaml")
    timeouts = server_variables(probes) if server.has_workers else {}
    skipped = {SKIPPED_TAG: skip_gate[:TAG_CHARACTERS]} if skip_gate else {}
    return endpoints.DeploymentSpec(
        name=plan.slot,
        endpoint=plan.endpoint,
        model_id=version.id,
        instance_type=desired.instance_type,
        instance_count=desired.instance_count,
        environment=settings.root / server.environment,
        code=settings.root / desired.code,
        scoring_script=server.script,
        max_concurrent_requests=server.max_concurrent_requests,
        request_timeout_ms=desired.request_timeout_ms,
        probes=probes,
        variables={**server.variables, **timeouts, **desired.variables},
        tags={MANAGED_TAG: MANAGED_BY, VERSION_TAG: version.version, **skipped},
    )
