"""The daemon's own routes below ``https://management.azure.com/__local/``, which Azure does not have; for its owner."""

from __future__ import annotations

import hmac
import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mlops.local.arm.roles import named
from mlops.local.daemon.faults import BadRules
from mlops.local.daemon.services import Services
from mlops.local.daemon.trace import Trace
from mlops.local.entra.federation import AUDIENCE, FederatedCredential
from mlops.local.entra.github import ISSUER
from mlops.local.entra.identity import TokenRefused

PREFIX = "/__local/"


class AdminApi:
    """What the owner may ask and do.

    ``faults`` (GET, POST, DELETE those of a name or all), ``crash`` (POST an endpoint and a deployment), ``requests``
    (POST whether to record them, GET those after a number), ``status`` (GET), ``federated-credentials`` (POST a subject
    that Entra is to trust, GET or DELETE them all), ``github-job`` (POST a subject and further claims),
    ``role-assignments`` (GET all; POST a role, with a scope and a principal where they are not the subscription and the
    login; DELETE those of a principal, the login's by default, or of them those of a role).
    """

    def __init__(self, services: Services, admin_token: str) -> None:
        self._services = services
        self._identity = services.identity
        self._faults = services.faults
        self._admin_token = admin_token
        self.trace = Trace()

    async def answer(self, request: Request) -> Response:
        """Answer one request; raises TokenRefused without the administrator's token."""
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(token.encode(), self._admin_token.encode()):
            raise TokenRefused("This route needs the local workspace's own token.")
        route = (request.method, request.scope["path"].removeprefix(PREFIX))
        if route == ("GET", "status"):
            return JSONResponse(self._status())
        if route == ("GET", "faults"):
            return JSONResponse(self._faults.shown())
        if route == ("GET", "requests"):
            after = request.query_params.get("after", "0")
            return JSONResponse(self.trace.after(int(after) if after.isdigit() else 0))
        if route == ("GET", "federated-credentials"):
            return JSONResponse(self._identity.federated.shown())
        if route == ("DELETE", "federated-credentials"):
            self._identity.federated.clear()
            return JSONResponse([])
        if route == ("DELETE", "faults"):
            self._faults.clear(request.query_params.get("name"))
            return JSONResponse(self._faults.shown())
        if route == ("GET", "role-assignments"):
            return JSONResponse(self._services.access.assignments())
        if route == ("DELETE", "role-assignments"):
            return self._revoke(request.query_params.get("principal"), request.query_params.get("role"))
        if route[0] == "POST":
            try:
                body = json.loads(await request.body() or b"null")
            except ValueError:
                return JSONResponse({"error": "The body is not JSON."}, 400)
            if route[1] == "faults":
                return self._add_faults(body)
            given = body if isinstance(body, dict) else {}
            if route[1] == "crash":
                crashed = self._faults.crash(str(given.get("endpoint", "")), str(given.get("deployment", "")))
                return JSONResponse({"crashed": crashed})
            if route[1] == "requests":
                self.trace.record(bool(given.get("record")))
                return JSONResponse({"record": self.trace.recording})
            if route[1] == "federated-credentials":
                return self._trust(given)
            if route[1] == "role-assignments":
                return self._grant(given)
            if route[1] == "github-job":
                claims = given.get("claims")
                subject = str(given.get("subject", ""))
                return JSONResponse(self._identity.github.job(subject, claims if isinstance(claims, dict) else {}))
        return JSONResponse({"error": f"There is no {route[0]} {PREFIX}{route[1]}."}, 404)

    def _trust(self, given: dict[str, Any]) -> Response:
        values = (str(given.get("issuer", ISSUER)), str(given.get("subject", "")), str(given.get("audience", AUDIENCE)))
        if not all(values):
            return JSONResponse({"error": "A federated credential needs a subject."}, 400)
        self._identity.federated.add(FederatedCredential(*values))
        return JSONResponse(self._identity.federated.shown())

    def _grant(self, given: dict[str, Any]) -> Response:
        role = named(str(given.get("role", "")))
        if role is None:
            return JSONResponse({"error": f"'{given.get('role')}' is not a built-in role."}, 400)
        self._services.subscription.grant(role, given.get("principal"), given.get("scope"))
        return JSONResponse(self._services.access.assignments())

    def _revoke(self, principal: str | None, role: str | None) -> Response:
        definition = named(role) if role else None
        if role and definition is None:
            return JSONResponse({"error": f"'{role}' is not a built-in role."}, 400)
        self._services.subscription.revoke(principal, definition)
        return JSONResponse(self._services.access.assignments())

    def _add_faults(self, body: Any) -> Response:
        try:
            self._faults.add(body)
        except BadRules as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse(self._faults.shown())

    def _status(self) -> dict[str, Any]:
        tracking = self._services.tracking
        return {"tracking": tracking.url if tracking else None, "parts": sorted(self._services.parts)}
