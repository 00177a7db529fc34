"""What stands around the workspace, by Azure's management libraries: any resource by its id, who we are, providers.

Resources are read and written by id and api-version with the generic client: such a PUT is idempotent and has the name
that we give. The ML SDK would create a workspace by a template deployment instead, whose name and whose dependent
resources' names differ from call to call, so that a run that is cut off could not be taken up again.
"""

from __future__ import annotations

import base64
import functools
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mlops.azure.ensure import retry_read
from mlops.azure.errors import NotFoundError, translated
from mlops.azure.login import SCOPE
from mlops.azure.session import POLL_S, Session, finished
from mlops.core.errors import AzureError, MlopsError

Document = dict[str, Any]
REGISTER_S = 600.0
REGISTERED = "Registered"
RESOURCES_API = "2021-04-01"


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who the login is, as its token says."""

    name: str
    object_id: str
    tenant: str
    expires: datetime
    application: bool
    """An application or a managed identity, not a person."""


def caller(session: Session) -> Caller:
    """Who is logged in, read from a token for Azure's management (which Azure alone can check)."""
    with translated("log in to Azure"):
        token = session.credential.get_token(SCOPE)
    try:
        body = token.token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (IndexError, ValueError):
        claims = {}  # a cloud may hand out tokens that only it can read
    name = next((str(claims[key]) for key in ("upn", "unique_name", "email", "appid") if claims.get(key)), "")
    return Caller(
        name=name or "an identity that its token does not name",
        object_id=str(claims.get("oid", "")),
        tenant=str(claims.get("tid", "")),
        expires=datetime.fromtimestamp(token.expires_on, UTC),
        application=claims.get("idtyp") == "app" or not (claims.get("upn") or claims.get("unique_name")),
    )


def get(session: Session, resource_id: str, api_version: str) -> Document | None:
    """A resource; None where there is none, nor its group."""
    try:
        return call(session, "GET", resource_id, api_version)
    except NotFoundError:
        return None


def put(session: Session, resource_id: str, api_version: str, body: Mapping[str, Any]) -> Document:
    """Create a resource, or write it anew; returns when Azure has made it."""
    operations = session.managers.resources.resources
    with translated(f"create {short(resource_id)}"):
        resource = finished(operations.begin_create_or_update_by_id(resource_id, dict(body), api_version=api_version))
    document: Document = resource.as_dict() if resource is not None else {}
    return document


def patch(session: Session, resource_id: str, api_version: str, body: Mapping[str, Any]) -> None:
    """Change parts of a resource."""
    operations = session.managers.resources.resources
    with translated(f"change {short(resource_id)}"):
        finished(operations.begin_update_by_id(resource_id, dict(body), api_version=api_version))


def delete(session: Session, resource_id: str, api_version: str) -> None:
    """Delete a resource; one that is gone is no error."""
    operations = session.managers.resources.resources
    try:
        with translated(f"delete {short(resource_id)}"):
            finished(operations.begin_delete_by_id(resource_id, api_version=api_version))
    except NotFoundError:
        return


def call(session: Session, method: str, path: str, api_version: str) -> Document:
    """A call as it is on the wire; path without the host.

    For what the libraries have no method for, and for looking with several threads: a model of theirs that two threads
    meet first at one time comes back as a plain dict (azure-mgmt-resource 26, ``_utils/model_base.py``: the types of a
    model's fields are worked out when it is first made, and what goes wrong meanwhile is passed over).

    Raises:
        NotFoundError: 404.
        MlopsError: any other refusal.
    """
    from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
    from azure.core.rest import HttpRequest
    from azure.mgmt.core.exceptions import ARMErrorFormat

    with translated(f"{'look up' if method == 'GET' else 'change'} {short(path)}"):
        request = HttpRequest(method, path, params={"api-version": api_version})
        response = session.managers.resources.send_request(request)
        if response.status_code >= 400:
            kinds = {404: ResourceNotFoundError, 401: ClientAuthenticationError}
            raise kinds.get(response.status_code, HttpResponseError)(response=response, error_format=ARMErrorFormat)
        document: Document = response.json() if response.content else {}
    return document


def subscription_id(session: Session) -> str:
    """ARM id of the session's subscription."""
    return f"/subscriptions/{session.ml.subscription_id}"


def unregistered(session: Session, namespaces: Iterable[str]) -> list[str]:
    """The resource providers among these that the subscription may not use yet.

    A login that has rights on the group alone may not ask; for it they count as registered.
    """
    from concurrent.futures import ThreadPoolExecutor

    def state(namespace: str) -> str:
        try:
            provider_id = f"{subscription_id(session)}/providers/{namespace}"
            return str(call(session, "GET", provider_id, RESOURCES_API)["registrationState"])
        except MlopsError as error:
            if getattr(error.__cause__, "status_code", None) != 403:
                raise
            return REGISTERED

    names = list(namespaces)
    with ThreadPoolExecutor(8) as pool:
        states = list(pool.map(state, names))
    return [name for name, state in zip(names, states, strict=True) if state != REGISTERED]


def register(session: Session, namespaces: Iterable[str]) -> None:
    """Register resource providers and wait until Azure says that they are, which takes a minute or two.

    Raises:
        AzureError: one is not registered after ten minutes.
    """
    names, end = list(namespaces), time.monotonic() + REGISTER_S
    providers = session.managers.resources.providers

    def ask(name: str) -> None:
        with translated(f"register the resource provider '{name}'"):
            providers.register(name)

    for name in names:
        retry_read(functools.partial(ask, name))  # asked twice, it is registered once
    pause_s = 0.2
    while names := unregistered(session, names):
        if time.monotonic() > end:
            raise AzureError(
                f"the resource providers {', '.join(names)} are not registered after {REGISTER_S / 60:.0f} minutes",
                hint="run mlops setup again; az provider show --namespace NAME shows their state",
            )
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, POLL_S)


def short(resource_id: str) -> str:
    """What people call a resource: its type and its name."""
    segments = [part for part in resource_id.split("/") if part]
    kind = segments[-2] if len(segments) > 1 else "resource"
    return f"{kind} '{segments[-1]}'" if segments else f"'{resource_id}'"
