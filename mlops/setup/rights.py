"""Whether the login may do what the plan says: asked of Azure before anything is made."""

from __future__ import annotations

from collections.abc import Sequence

from mlops.azure import roles
from mlops.azure.management import Caller
from mlops.azure.session import Session
from mlops.core.errors import PreconditionError
from mlops.setup.plan import Step, needed_actions
from mlops.setup.scope import AzureScope

WHO = "Owner, or Contributor with User Access Administrator or Role Based Access Control Administrator"
OF_THE_SUBSCRIPTION = ("Microsoft.Resources/subscriptions/",)
"""Actions that are never allowed by a role on the group alone."""


def check(session: Session, caller: Caller, scope: AzureScope, steps: Sequence[Step], *, group_exists: bool) -> None:
    """Refuse what this login may not do.

    Raises:
        PreconditionError: some of the plan's actions are not allowed; names them and the roles that would do.
    """
    actions = needed_actions(steps)
    if not actions:
        return
    above = [action for action in actions if action.startswith(OF_THE_SUBSCRIPTION)]
    below = [action for action in actions if action not in above]
    here = scope.group_id if group_exists else scope.subscription_id
    lacking = [(action, here) for action in _refused(session, here, below)]
    lacking += [(action, scope.subscription_id) for action in _refused(session, scope.subscription_id, above)]
    if not lacking:
        return
    where = f"the subscription '{scope.subscription}'" if above or not group_exists else f"the group '{scope.group}'"
    raise PreconditionError(
        f"'{caller.name}' may not set this up: {len(lacking)} of {len(actions)} actions are not allowed",
        details=[f"{action} on {scope}" for action, scope in lacking],
        hint=f"log in (az login) as somebody who is {WHO} on {where}; the workflows never need that",
    )


def _refused(session: Session, scope: str, actions: Sequence[str]) -> list[str]:
    if not actions:
        return []
    permissions = roles.permissions(session, scope)
    return [action for action in actions if not roles.may(permissions, action)]
