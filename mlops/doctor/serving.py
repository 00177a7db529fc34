"""The endpoint: its name, whose it is, how it stands."""

from __future__ import annotations

import httpx

from mlops.azure import endpoints
from mlops.core.resources import made_here
from mlops.doctor.context import CheckContext
from mlops.doctor.findings import Finding, doubtful, good
from mlops.rollout.plan import SETTLED

PROBE_S = 5.0


def endpoint(context: CheckContext) -> Finding:
    """The endpoint's name: ours, free, or somebody else's. That it is legal the settings have seen to."""
    name = context.settings.endpoint.name
    existing = endpoints.get(context.session, name)
    context.endpoint = existing
    if existing is None:
        if somebody_answers(name, context.workspace.region):
            hint = "names are unique within a region: change endpoint.name in mlops.yaml, unless it was just deleted"
            return doubtful(f"'{name}' answers already, in another workspace of the region", hint)
        return good(f"the name '{name}' is free; mlops deploy makes the endpoint")
    context.deployments = endpoints.deployments(context.session, name)
    traffic = ", ".join(f"{slot} {share} %" for slot, share in existing.traffic.items() if share) or "no traffic"
    text = f"'{name}' is ours: {existing.state}, {traffic}"
    if not made_here(existing.tags):
        text = f"'{name}' is in this workspace and was made by somebody else: {existing.state}, {traffic}"
        return doubtful(text, "mlops deploy would use it: change endpoint.name in mlops.yaml if it must not")
    if existing.state.lower() not in SETTLED:
        return doubtful(text, "somebody changes it at this moment; a deploy would be refused until that is over")
    if existing.state.lower() != "succeeded":
        return doubtful(text, "its last change failed; the next mlops deploy mends it")
    if len(existing.live) > 1:
        return doubtful(f"{text}: no slot is idle", f"mlops rollback{context.target_flag} gives all of it to one slot")
    return good(text)


def somebody_answers(name: str, region: str) -> bool:
    """Whether a server of the region answers for that name; Azure has no call that tells whether one is taken.

    A name without an endpoint has no address, or nobody there who knows it (404); Azure documents neither, so that what
    answers is a doubt and no more.
    """
    try:
        answer = httpx.get(f"https://{name}.{region}.inference.ml.azure.com/", timeout=PROBE_S)
    except httpx.HTTPError:
        return False
    return answer.status_code not in (404, 421) and answer.status_code < 500
