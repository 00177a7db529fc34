"""The endpoint: its name, whose it is, how it stands."""

from __future__ import annotations

import httpx

from mlops.azure import endpoints
from mlops.core.resources import made_here
from mlops.doctor.facts import Facts
from mlops.doctor.findings import Finding, doubtful, good
from mlops.rollout.plan import SETTLED

PROBE_S = 5.0


def endpoint(facts: Facts) -> Finding:
    """The endpoint's name: ours, free, or somebody else's. That it is legal the settings have seen to."""
    name = facts.settings.endpoint.name
    found = endpoints.get(facts.session, name)
    facts.endpoint = found
    if found is None:
        if somebody_answers(name, facts.workspace.region):
            hint = "names are unique within a region: change endpoint.name in mlops.yaml, unless it was just deleted"
            return doubtful(f"'{name}' answers already, in another workspace of the region", hint)
        return good(f"the name '{name}' is free; mlops deploy makes the endpoint")
    facts.standing = endpoints.deployments(facts.session, name)
    traffic = ", ".join(f"{slot} {share} %" for slot, share in found.traffic.items() if share) or "no traffic"
    said = f"'{name}' is ours: {found.state}, {traffic}"
    if not made_here(found.tags):
        said = f"'{name}' is in this workspace and was made by somebody else: {found.state}, {traffic}"
        return doubtful(said, "mlops deploy would use it: change endpoint.name in mlops.yaml if it must not")
    if found.state.lower() not in SETTLED:
        return doubtful(said, "somebody changes it at this moment; a deploy would be refused until that is over")
    if found.state.lower() != "succeeded":
        return doubtful(said, "its last change failed; the next mlops deploy mends it")
    if len(found.live) > 1:
        return doubtful(f"{said}: no slot is idle", f"mlops rollback{facts.at} gives all of it to one slot")
    return good(said)


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
