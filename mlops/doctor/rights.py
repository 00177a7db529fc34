"""What the login may do, and the identity that an endpoint runs as: all that is needed, and no more."""

from __future__ import annotations

from mlops.azure import github, identities, management, roles
from mlops.azure.roles import Assignment
from mlops.doctor.access import ML, WORKSPACES_API
from mlops.doctor.facts import Facts, Workspace
from mlops.doctor.findings import Finding, bad, doubtful, good
from mlops.errors import MlopsError

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
COVERS = {"Storage Blob Data Reader": ("Storage Blob Data Contributor", "Storage Blob Data Owner")}
ENOUGH = frozenset({"Storage Blob Data Reader", "AcrPull", "AzureML Metrics Writer (preview)"})
"""What a container that serves a model may have; the last one Azure itself gives to an endpoint's own identity."""


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


def identity(facts: Facts) -> Finding | list[Finding]:
    """The identity that pulls the model and the image: what it needs, and nothing more."""
    named = facts.settings.deployment.identity
    if named is None:
        own = _own(facts)
        said = "the endpoint's own, to which Azure gives what it needs"
        return _too_much(facts, own, said) if own else good(f"{said} when the endpoint is made")
    parts = named.strip("/").split("/")
    group = parts[3] if len(parts) > 3 else facts.session.ml.resource_group_name
    found = identities.get(facts.session, parts[-1], group)
    if found is None:
        return bad(
            f"there is no identity '{parts[-1]}' in the resource group '{group}'",
            f"mlops setup{facts.at} makes it; or set deployment.identity to null in mlops.yaml",
        )
    needed = {"Storage Blob Data Reader": facts.workspace.account, "AcrPull": facts.workspace.registry}
    lacking = [
        (role, scope)
        for role, scope in needed.items()
        if scope and not any(
            each.role in (role, *COVERS.get(role, ())) and each.covers(scope)
            for each in roles.of(facts.session, found.principal_id, scope)
        )
    ]  # fmt: skip
    said = "; ".join(f"{role} on {management.short(scope)}" for role, scope in lacking)
    missing = [bad(f"'{found.name}' lacks {said}", f"mlops setup{facts.at} gives it")] if lacking else []
    more = _too_much(facts, found.principal_id, f"'{found.name}': Storage Blob Data Reader, AcrPull")
    return [*missing, *(each for each in more if not (missing and each.hint is None))]


def _too_much(facts: Facts, principal: str, said: str) -> list[Finding]:
    held = roles.of(facts.session, principal, facts.workspace.group)
    more = list(dict.fromkeys(in_words(each, facts.workspace) for each in held if each.role not in ENOUGH))
    if not more:
        return [good(said)]
    hint = "take it away: whoever gets code into the container, by a model or a package, has that role"
    return [doubtful(f"the endpoint's identity has more than it needs: {'; '.join(more)}", hint)]


def _own(facts: Facts) -> str | None:
    """The principal of the identity of the endpoint that stands."""
    if facts.endpoint is None:
        return None
    found = management.get(facts.session, f"{facts.workspace.id}/onlineEndpoints/{facts.endpoint.name}", WORKSPACES_API)
    return str(((found or {}).get("identity") or {}).get("principalId") or "") or None


def reaches(assignment: Assignment, here: Workspace) -> bool:
    """Whether a role matters in the workspace: it holds for it, or for what it rests on."""
    return any(assignment.covers(scope) for scope in (here.id, here.account, here.registry) if scope)


def in_words(assignment: Assignment, here: Workspace) -> str:
    """``Contributor on the resource group``."""
    scope = assignment.scope.rstrip("/")
    if scope.lower() == here.group.lower():
        return f"{assignment.role} on the resource group"
    if here.group.lower().startswith(f"{scope.lower()}/"):
        return f"{assignment.role} on the subscription" if "/subscriptions/" in scope else f"{assignment.role} above it"
    return f"{assignment.role} on {management.short(scope)}"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
