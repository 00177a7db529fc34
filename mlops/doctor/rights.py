"""What the login may do, and the identity that an endpoint runs as: all that is needed, and no more."""

from __future__ import annotations

from mlops.azure import github, management, roles
from mlops.azure.roles import Assignment
from mlops.core.errors import MlopsError
from mlops.doctor.context import CheckContext
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


def rights(context: CheckContext) -> list[Finding]:
    """What the login may do: all that the commands do, and on GitHub no more than that."""
    here, permissions = context.workspace, roles.permissions(context.session, context.workspace.id)
    lacking = [activity for activity, action in NEEDED.items() if not roles.may(permissions, action)]
    account = here.account.rpartition("/")[2]
    blobs = roles.permissions(context.session, here.account) if here.account else permissions
    closed = [activity for activity, action in NEEDED_DATA.items() if not roles.may(blobs, action, data=True)]
    findings = []
    if lacking:
        command = f"mlops setup{context.target_flag}"
        hint = f"it needs Contributor on the resource group; {command} gives it to GitHub's identity"
        findings.append(bad(f"this login may not {_listed(lacking)}", hint))
    if closed:
        hint = "it needs Storage Blob Data Contributor there, for uploads and the history of rollouts"
        findings.append(bad(f"this login may not {_listed(closed)} of the storage account '{account}'", hint))
    if not context.settings.is_local and github.in_a_job() and roles.may(permissions, ASSIGN):
        hint = "Contributor and Storage Blob Data Contributor are enough: who changes a workflow could own the group"
        findings.append(doubtful("this login may give roles to others, which no workflow needs", hint))
    return findings or [good("; ".join(_role_names(context)) or "all that the commands do")]


def _role_names(context: CheckContext) -> list[str]:
    """The roles of the login, for people; empty where it may not list them."""
    try:
        assignments = roles.of(context.session, context.caller.object_id, context.workspace.group)
    except MlopsError:
        return []
    return list(
        dict.fromkeys(in_words(each, context.workspace) for each in assignments if reaches(each, context.workspace))
    )


def identity(context: CheckContext) -> Finding:
    """The identity that pulls the model and the image: what it needs, and nothing more."""
    assigned = endpoint_identity.check(context.session, context.settings, context.workspace)
    if assigned is not None:
        return _no_more(context, assigned.principal_id, f"'{assigned.name}': Storage Blob Data Reader, AcrPull")
    own = _own(context)
    text = "the endpoint's own, to which Azure gives what it needs"
    return _no_more(context, own, text) if own else good(f"{text} when the endpoint is made")


def _no_more(context: CheckContext, principal: str, text: str) -> Finding:
    more = endpoint_identity.excess_roles(context.session, principal, context.workspace)
    if not more:
        return good(text)
    hint = "take it away: whoever gets code into the container, by a model or a package, has that role"
    return doubtful(f"the endpoint's identity has more than it needs: {'; '.join(more)}", hint)


def _own(context: CheckContext) -> str | None:
    """The principal of the identity of the endpoint that stands."""
    if context.endpoint is None:
        return None
    id_ = f"{context.workspace.id}/onlineEndpoints/{context.endpoint.name}"
    document = management.get(context.session, id_, endpoint_identity.API)
    return str(((document or {}).get("identity") or {}).get("principalId") or "") or None


def reaches(assignment: Assignment, here: WorkspaceScope) -> bool:
    """Whether a role matters in the workspace: it holds for it, or for what it rests on."""
    return any(assignment.covers(scope) for scope in (here.id, here.account, here.registry) if scope)


def _listed(activities: list[str]) -> str:
    return activities[0] if len(activities) == 1 else f"{', '.join(activities[:-1])} or {activities[-1]}"
