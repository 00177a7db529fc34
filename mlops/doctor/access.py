"""Who is logged in, and to what."""

from __future__ import annotations

import os
import sys

from mlops.azure import management
from mlops.azure.errors import NotFoundError, UnavailableError
from mlops.azure.session import connect
from mlops.core.errors import AzureError
from mlops.doctor.context import CheckContext
from mlops.doctor.findings import Finding, bad, doubtful, good
from mlops.rollout import identity

SUBSCRIPTIONS_API = "2022-12-01"


def login(context: CheckContext) -> Finding:
    """Log in as every command does; who that is, and until when."""
    context.session = connect(context.settings, context.console)
    context.caller = caller = management.caller(context.session)
    kind = "the application" if caller.application else "the person"
    until = f"its token lasts until {caller.expires:%H:%M} UTC and is renewed"
    return good(f"{kind} '{caller.name}' of the tenant '{caller.tenant}'; {until}")


def subscription(context: CheckContext) -> Finding:
    """The subscription: there, seen by this login, not switched off."""
    id_ = management.subscription_id(context.session)
    try:
        document = management.call(context.session, "GET", id_, SUBSCRIPTIONS_API)
    except NotFoundError as error:
        hint = "check AZURE_SUBSCRIPTION_ID and AZURE_TENANT_ID; az account list shows what this login sees"
        return bad(error.message, hint)
    except UnavailableError:
        raise
    except AzureError as error:  # rights on the group alone are enough for all that follows
        return doubtful(f"this login may not look at it: {error.message}")
    return subscription_found(
        str(document.get("displayName", "")),
        str(document.get("subscriptionId", "")),
        str(document.get("state", "Enabled")),
    )


def subscription_found(name: str, id_: str, state: str) -> Finding:
    """What is said of a subscription in a state: Enabled, Warned, PastDue, Disabled or Deleted."""
    text = f"'{name}' ({id_})"
    if state.lower() not in ("enabled", "warned", "pastdue"):
        return bad(f"{text} is '{state}'", "its owner can switch it on again, or set another AZURE_SUBSCRIPTION_ID")
    if state.lower() != "enabled":
        return doubtful(f"{text} is '{state}'", "its owner should look at its bills: Azure will switch it off")
    return good(text)


def workspace(context: CheckContext) -> Finding:
    """The workspace, and what it rests on."""
    ml, here = context.session.ml, identity.workspace_scope(context.session)
    if here is None:
        return bad(
            f"there is no workspace '{ml.workspace_name}' in the resource group '{ml.resource_group_name}'",
            f"mlops setup{context.target_flag} makes it; or check AZUREML_WORKSPACE_NAME and AZURE_RESOURCE_GROUP",
        )
    context.workspace = here
    if here.state.lower() != "succeeded":
        return bad(
            f"the workspace '{here.name}' is '{here.state}'", f"mlops setup{context.target_flag} goes on with it"
        )
    return good(f"'{here.name}' in '{ml.resource_group_name}', {here.region}")


def interactive() -> bool:
    """Whether a browser may open for the login, which takes a person's time."""
    return sys.stdin.isatty() and sys.stderr.isatty() and not os.environ.get("CI")
