"""User-assigned identities and whose statements Entra accepts for them."""

from __future__ import annotations

import asyncio
import re
import time
import uuid

from mlops.local.arm.access import Access
from mlops.local.arm.errors import ArmError, bad_request
from mlops.local.arm.group_resource import GroupResource
from mlops.local.arm.resources import Answer, Call, ResourceType
from mlops.local.arm.shapes import mapping, sequence, text
from mlops.local.state.store import Document

MOST = 20
"""Federated credentials of one identity, as Microsoft's considerations for them say (2026-11)."""


class UserAssignedIdentities(GroupResource):
    """Identities; each is a principal of the directory from then on."""

    namespace = "Microsoft.ManagedIdentity"
    kind = "userAssignedIdentities"
    pattern = re.compile(r"[A-Za-z0-9][-\w]{2,127}")
    rule = "3 to 128 letters, digits, '-' and '_', beginning with a letter or a digit"

    async def put(self, call: Call) -> Answer:
        """Create, or replace the tags."""
        existing = call.workspace.store.get(call.resource_id)
        before = (existing or {}).get("properties", {})
        if existing is None and text(call.body.get("location"), "location"):
            self.check_new(call)
        tenant = call.workspace.config.tenant
        call.body["properties"] = {
            "tenantId": tenant,
            "principalId": before.get("principalId") or str(uuid.uuid4()),
            "clientId": before.get("clientId") or str(uuid.uuid4()),
        }
        self.quick = True
        answer = await super().put(call)
        if existing is None:
            call.workspace.store.update_private(call.resource_id, made=time.time())
        return Answer(200 if existing else 201, answer.body)

    async def patch(self, call: Call) -> Answer:
        """The tags alone."""
        call.body.pop("properties", None)
        return await super().patch(call)


class FederatedCredentials(ResourceType):
    """``userAssignedIdentities/federatedIdentityCredentials``."""

    namespace = "Microsoft.ManagedIdentity"
    kind = "userAssignedIdentities/federatedIdentityCredentials"
    pattern = re.compile(r"[A-Za-z0-9][-\w]{2,119}")

    def __init__(self) -> None:
        self._writing: set[str] = set()

    def complete(self, call: Call, body: Document, existing: Document | None) -> Document:
        """Issuer, subject and exactly one audience; at most so many, each pair of issuer and subject once."""
        given = mapping(body["properties"], "properties")
        audiences = sequence(given.get("audiences"), "audiences")
        issuer, subject = (text(given.get(name), name) for name in ("issuer", "subject"))
        if not self.pattern.fullmatch(call.name):
            raise bad_request(f"The federated identity credential name '{call.name}' is not valid.")
        if not issuer or not subject or len(audiences) != 1:
            raise bad_request("A federated identity credential needs an issuer, a subject and exactly one audience.")
        if not issuer.startswith("https://"):
            raise bad_request(f"The issuer '{issuer}' must be an https address.")
        for other in call.workspace.store.children(call.collection_id):
            pair = (other["properties"]["issuer"], other["properties"]["subject"])
            if pair == (issuer, subject) and other["name"].lower() != call.name.lower():
                message = "Issuer and subject combination already exists for this Managed Identity."
                raise ArmError(409, "Conflict", message)
        if existing is None and len(call.workspace.store.children(call.collection_id)) >= MOST:
            message = f"Too many federated identity credentials: an identity may have at most {MOST}."
            raise ArmError(400, "BadRequest", message)
        body["properties"] = {"issuer": issuer, "subject": subject, "audiences": audiences}
        body.pop("systemData", None)
        return body

    async def put(self, call: Call) -> Answer:
        """Create or replace, not two of an identity at once."""
        return await self._alone(call, super().put)

    async def delete(self, call: Call) -> Answer:
        """The same for taking one away."""
        return await self._alone(call, super().delete)

    async def _alone(self, call: Call, write: object) -> Answer:
        identity = call.parent_id
        if identity.lower() in self._writing:
            message = (
                "Too many Federated Identity Credentials are written concurrently for the managed identity "
                f"'{identity}'. Concurrent Federated Identity Credentials writes under the same managed identity are "
                "not supported."
            )
            raise ArmError(409, "ConcurrentFederatedIdentityCredentialsWritesForSingleManagedIdentity", message)
        self._writing.add(identity.lower())
        try:
            await asyncio.sleep(call.workspace.config.federated_write_s)
            answer: Answer = await write(call)  # type: ignore[operator]
        finally:
            self._writing.discard(identity.lower())
        return answer

    def missing(self, call: Call) -> ArmError:
        """ARM's own 404."""
        return ArmError(404, "NotFound", f"The federated identity credential '{call.name}' was not found.")


def assigned(access: Access, call: Call, identity_id: str) -> Document:
    """What a resource shows of an identity that it is given; the caller must be allowed to give it away.

    Raises:
        ArmError: there is no such identity, or the caller may not assign it.
    """
    identity = call.workspace.store.get(identity_id)
    action = "Microsoft.ManagedIdentity/userAssignedIdentities/assign/action"
    if not access.allows(call.oid, action, identity_id):
        message = (
            f"The client '{call.caller}' with object id '{call.oid}' has permission to perform the action on scope "
            f"'{call.resource_id}'; however, it does not have permission to perform action(s) '{action}' on the linked "
            f"scope(s) '{identity_id}' (respectively) or the linked scope(s) are invalid."
        )
        raise ArmError(403, "LinkedAuthorizationFailed", message)
    if identity is None:
        message = (
            f"Identity operation for resource '{call.resource_id}' failed: Resource '{identity_id}' was not found."
        )
        raise ArmError(400, "FailedIdentityOperation", message)
    return {"principalId": identity["properties"]["principalId"], "clientId": identity["properties"]["clientId"]}
