"""What the login may do, and the identity that an endpoint runs as: all that is needed, and no more."""

from __future__ import annotations

from mlops.azure import github, management, roles
from mlops.azure.roles import Assignment
from mlops.core.errors import MlopsError
from mlops.doctor.facts import Facts
from mlops.doctor.findings import Finding, bad, doubtful, good
from mlops.rollout import identity as endpoint_identity
from mlops.rollout.identity import ML, WorkspaceScope, in_words

BLOBS = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs"
NEEDED = {
    "submit jobs": f"{ML}/jobs/write",
    "create the cluster": f"{ML}/computes/write",
    "register models": f"{ML}/models/versions/write",
    "create endpoints": f"{ML}/onlineEndpoints/write",
    "deploy": f"{ML}/onlineEndpoints/deployments/write",
    "read the endpoint's key": f"{ML}/onlineEndpoints/listKeys/action",
    "delete what is stale": f"{ML}/onlineEndpoints/delete",
}
"""What the commands do in a workspace, by the action that Azure asks for."""
NEEDED_DATA = {"read blobs": f"{BLOBS}/read", "write blobs": f"{BLOBS}/write"}
ASSIGN = "Microsoft.Authorization/roleAssignments/write"


def rights(facts: Facts) -> list[Finding]:
    """What the login may do: all that the commands do, and on GitHub no more than that."""
    here, held = facts.workspace, roles.permissions(facts.session, facts.workspace.id)
    lacking = [words for words, action in NEEDED.items() if not roles.may(held, action)]
    account = here.account.rpartition("/")[2]
    blobs = roles.permissions(facts.session, here.account) if here.account else held
    closed = [words for words, action in NEEDED_DATA.items() if not roles.may(blobs, action, data=True)]
    found = []
    if lacking:
        hint = f"it needs Contributor on the resource group; mlops setup{facts.at} gives it to GitHub's identity"
        found.append(bad(f"this login may not {_listed(lacking)}", hint))
    if closed:
        hint = "it needs Storage Blob Data Contributor there, for uploads and the history of rollouts"
        found.append(bad(f"this login may not {_listed(closed)} of the storage account '{account}'", hint))
    if not facts.settings.is_local and github.in_a_job() and roles.may(held, ASSIGN):
        hint = "Contributor and Storage Blob Data Contributor are enough: who changes a workflow could own the group"
        found.append(doubtful("this login may give roles to others, which no workflow needs", hint))
    return found or [good("; ".join(_held(facts)) or "all that the commands do")]


def _held(facts: Facts) -> list[str]:
    """The roles of the login, for people; empty where it may not list them."""
    try:
        found = roles.of(facts.session, facts.caller.object_id, facts.workspace.group)
    except MlopsError:
        return []
    return list(dict.fromkeys(in_words(each, facts.workspace) for each in found if reaches(each, facts.workspace)))


def identity(facts: Facts) -> Finding:
    """The identity that pulls the model and the image: what it needs, and nothing more."""
    found = endpoint_identity.check(facts.session, facts.settings, facts.workspace)
    if found is not None:
        return _no_more(facts, found.principal_id, f"'{found.name}': Storage Blob Data Reader, AcrPull")
    own = _own(facts)
    said = "the endpoint's own, to which Azure gives what it needs"
    return _no_more(facts, own, said) if own else good(f"{said} when the endpoint is made")


def _no_more(facts: Facts, principal: str, said: str) -> Finding:
    more = endpoint_identity.excess_roles(facts.session, principal, facts.workspace)
    if not more:
        return good(said)
    hint = "take it away: whoever gets code into the container, by a model or a package, has that role"
    return doubtful(f"the endpoint's identity has more than it needs: {'; '.join(more)}", hint)


def _own(facts: Facts) -> str | None:
    """The principal of the identity of the endpoint that stands."""
    if facts.endpoint is None:
        return None
    id_ = f"{facts.workspace.id}/onlineEndpoints/{facts.endpoint.name}"
    found = management.get(facts.session, id_, endpoint_identity.API)
    return str(((found or {}).get("identity") or {}).get("principalId") or "") or None


def reaches(assignment: Assignment, here: WorkspaceScope) -> bool:
    """Whether a role matters in the workspace: it holds for it, or for what it rests on."""
    return any(assignment.covers(scope) for scope in (here.id, here.account, here.registry) if scope)


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
