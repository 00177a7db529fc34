"""Entra ID as far as clients need it: discovery documents, a token endpoint, and the check of tokens.

Tokens are RS256 JWTs signed by a key of this workspace. Errors carry Entra's own codes (AADSTS…), which client
libraries and people know.
"""

from __future__ import annotations

import base64
import hmac
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

import jwt
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mlops.local.arm.principals import Principals
from mlops.local.daemon import hosts
from mlops.local.entra.credentials import Credentials
from mlops.local.entra.federation import FederatedCredentials, NoMatch, match, of_documents
from mlops.local.entra.github import ISSUER, GitHub
from mlops.local.entra.keys import public_jwk, public_pem, signing_key
from mlops.local.state.accounts import ServedAccounts
from mlops.local.state.config import Config
from mlops.local.state.layout import Layout
from mlops.local.state.store import Document

LOGIN = "https://login.microsoftonline.com"
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
EXPIRED = "ExpiredAuthenticationToken"
MAX_FORM = 64 * 1024
MAX_CACHED = 1024

MANAGEMENT = ("https://management.azure.com", "https://management.core.windows.net")
MACHINE_LEARNING = ("https://ml.azure.com",)
STORAGE = ("https://storage.azure.com",)


class TokenRefused(Exception):
    """A bearer token (or none) that opens nothing here; with the code that ARM has for it."""

    def __init__(self, message: str, code: str = "InvalidAuthenticationToken") -> None:
        super().__init__(message)
        self.code = code


class GrantRefused(Exception):
    """The token endpoint says no."""

    def __init__(self, status: int, error: str, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error = error
        self.code = code


@dataclass(frozen=True, kw_only=True)
class Principal:
    """Somebody for whom tokens are issued."""

    client_id: str
    object_id: str
    resource_id: str | None = None
    """ARM id of a managed identity."""


class Identity:
    """Issues and checks the tokens of one workspace."""

    def __init__(
        self,
        layout: Layout,
        config: Config,
        accounts: ServedAccounts,
        credentials: Credentials,
        principals: Principals | None = None,
    ) -> None:
        self._accounts = accounts
        self._config = config
        self._credentials = credentials
        self._principals = principals
        self.tenant = credentials.tenant
        self._key = signing_key(layout, "token.key")
        self.github = GitHub(layout, config)
        self.federated = FederatedCredentials(layout)
        self._public = self._key.public_key()
        self._key_id = uuid.uuid5(uuid.NAMESPACE_URL, public_pem(self._key)).hex
        self._checked: dict[str, dict[str, Any]] = {}
        self._audiences = {
            *MANAGEMENT,
            *MACHINE_LEARNING,
            *STORAGE,
            "https://graph.microsoft.com",
            "https://vault.azure.net",
            "https://containerregistry.azure.net",
        }

    # -- tokens ----------------------------------------------------------------------------------------------------

    def issue(self, audience: str, *, lifetime_s: float | None = None, principal: Principal | None = None) -> str:
        """A signed access token for the workspace's client, or for another principal."""
        begin = int(time.time())
        lifetime = self._config.token_s if lifetime_s is None else lifetime_s
        credentials = self._credentials
        who = principal or Principal(client_id=credentials.client_id, object_id=credentials.object_id)
        claims = {
            "aud": audience,
            "iss": f"https://sts.windows.net/{credentials.tenant}/",
            "iat": begin,
            "nbf": begin - 5,
            "exp": begin + int(lifetime),
            "appid": who.client_id,
            "appidacr": "1",
            "idp": f"https://sts.windows.net/{credentials.tenant}/",
            "idtyp": "app",
            "oid": who.object_id,
            "sub": who.object_id,
            "tid": credentials.tenant,
            "uti": uuid.uuid4().hex[:22],
            "ver": "1.0",
        }
        if who.resource_id:
            claims["xms_mirid"] = who.resource_id
        return jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": self._key_id, "x5t": self._key_id})

    def check(self, authorization: str | None, audiences: tuple[str, ...]) -> dict[str, Any]:
        """The claims of a bearer token, if its signature, issuer, expiry and audience are right."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise TokenRefused("The request has no bearer token.", "AuthenticationFailed")
        claims = self._claims(token.strip())
        if str(claims["aud"]).rstrip("/") not in audiences:
            raise TokenRefused(
                f"The access token is for the wrong audience '{claims['aud']}'.", "InvalidAuthenticationTokenAudience"
            )
        return claims

    def _claims(self, token: str) -> dict[str, Any]:
        claims = self._checked.get(token)
        if claims is None:
            try:
                claims = jwt.decode(
                    token,
                    self._public,
                    algorithms=["RS256"],
                    issuer=f"https://sts.windows.net/{self._credentials.tenant}/",
                    options={"verify_aud": False, "require": ["exp", "aud", "iss"]},
                )
            except jwt.ExpiredSignatureError as error:
                raise TokenRefused("The access token expired.", EXPIRED) from error
            except jwt.PyJWTError as error:
                raise TokenRefused("The access token is not valid here.") from error
            if len(self._checked) >= MAX_CACHED:
                self._checked.clear()
            self._checked[token] = claims
        if claims["exp"] <= time.time():
            self._checked.pop(token, None)
            raise TokenRefused("The access token expired.", EXPIRED)
        return claims

    # -- http ------------------------------------------------------------------------------------------------------

    async def answer(self, request: Request) -> Response:
        """Answer for login.microsoftonline.com."""
        path = request.scope["path"]
        segments = [segment for segment in path.split("/") if segment]
        tail = "/".join(segments[1:])
        if path.endswith("/discovery/instance"):
            return JSONResponse(_instances())
        try:
            if tail in ("oauth2/v2.0/token", "oauth2/token") and request.method == "POST":
                return await self._token(request, segments[0])
            if tail in ("v2.0/.well-known/openid-configuration", ".well-known/openid-configuration"):
                return JSONResponse(self._configuration(self._tenant(segments[0]), v2=tail.startswith("v2.0")))
            if tail in ("discovery/v2.0/keys", "discovery/keys"):
                return JSONResponse({"keys": [public_jwk(self._key, self._key_id)]})
        except GrantRefused as refused:
            return _refusal(refused)
        return JSONResponse({"error": "not_found"}, status_code=404)

    def _tenant(self, name: str) -> str:
        if name.lower() not in (self._credentials.tenant, "common", "organizations"):
            message = (
                f"Tenant '{name}' not found. This local workspace knows the tenant '{self._credentials.tenant}' only."
            )
            raise GrantRefused(400, "invalid_tenant", 90002, message)
        return name

    def _configuration(self, tenant: str, *, v2: bool) -> dict[str, Any]:
        version = "v2.0/" if v2 else ""
        shown = "{tenantid}" if tenant in ("common", "organizations") else tenant
        issuer = f"{LOGIN}/{shown}/v2.0" if v2 else f"https://sts.windows.net/{shown}/"
        return {
            "issuer": issuer,
            "authorization_endpoint": f"{LOGIN}/{tenant}/oauth2/{version}authorize",
            "token_endpoint": f"{LOGIN}/{tenant}/oauth2/{version}token",
            "device_authorization_endpoint": f"{LOGIN}/{tenant}/oauth2/{version}devicecode",
            "end_session_endpoint": f"{LOGIN}/{tenant}/oauth2/{version}logout",
            "jwks_uri": f"{LOGIN}/{tenant}/discovery/{version}keys",
            "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt", "client_secret_basic"],
            "response_modes_supported": ["query", "fragment", "form_post"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
            "scopes_supported": ["openid", "profile", "email", "offline_access"],
            "claims_supported": ["sub", "iss", "aud", "exp", "iat", "tid", "ver"],
            "tenant_region_scope": "NA",
            "cloud_instance_name": "microsoftonline.com",
            "cloud_graph_host_name": "graph.windows.net",
            "msgraph_host": "graph.microsoft.com",
        }

    async def _token(self, request: Request, tenant: str) -> Response:
        if int(request.headers.get("content-length") or 0) > MAX_FORM:
            raise GrantRefused(413, "invalid_request", 90015, "The request is too long.")
        self._tenant(tenant)
        form = dict(parse_qsl((await request.body()).decode("utf-8", "replace")))
        if form.get("grant_type") != "client_credentials":
            message = f"The grant type '{form.get('grant_type', '')}' is not supported here; use client_credentials."
            raise GrantRefused(400, "unsupported_grant_type", 70003, message)
        principal = self._check_client({**_basic(request.headers.get("authorization")), **form})
        token = self.issue(self._audience(form), principal=principal)
        whole = self._config.token_s
        lifetime = max(int(whole - min(2, whole / 2)), 1)  # Azure, too, says a little less: what is under way arrives
        return JSONResponse(
            {"token_type": "Bearer", "expires_in": lifetime, "ext_expires_in": lifetime, "access_token": token},
            headers={"Cache-Control": "no-store"},
        )

    def _check_client(self, form: dict[str, str]) -> Principal | None:
        """Who signs in: the workspace's own client (None), or a managed identity, by a statement of GitHub's alone."""
        credentials = self._credentials
        client = form.get("client_id", "").lower()
        identity = self._principals.identity(client) if self._principals and client != credentials.client_id else None
        if client != credentials.client_id and identity is None:
            message = f"Application with identifier '{form.get('client_id', '')}' was not found in the directory."
            raise GrantRefused(400, "unauthorized_client", 700016, message)
        if "client_secret" in form:
            known = hmac.compare_digest(form["client_secret"].encode(), credentials.client_secret.encode())
            if identity is not None or not known:
                raise GrantRefused(401, "invalid_client", 7000215, "Invalid client secret provided.")
            return None
        if form.get("client_assertion_type") != ASSERTION_TYPE or "client_assertion" not in form:
            message = "The request body must contain the following parameter: 'client_assertion' or 'client_secret'."
            raise GrantRefused(401, "invalid_client", 7000218, message)
        self._check_assertion(form["client_assertion"], identity)
        if identity is None:
            return None
        properties = identity["properties"]
        return Principal(
            client_id=properties["clientId"], object_id=properties["principalId"], resource_id=identity["id"]
        )

    def _check_assertion(self, assertion: str, identity: Document | None = None) -> None:
        """A statement of GitHub's must be signed by it, be fresh, and be about somebody who is trusted."""
        try:
            claims = jwt.decode(
                assertion,
                self.github.public_key,
                algorithms=["RS256"],
                issuer=ISSUER,
                options={"require": ["exp", "nbf", "sub"], "verify_aud": False, "verify_exp": False},
            )
        except jwt.PyJWTError as error:
            message = "Client assertion failed signature, issuer or audience validation."
            raise GrantRefused(401, "invalid_client", 700027, message) from error
        if time.time() >= claims["exp"]:
            message = (
                f"Client assertion is not within its valid time range. Current time: {_precise(time.time())}, assertion"
                f" valid from {_precise(claims['nbf'])}, expiry time of assertion {_precise(claims['exp'])}. Review the"
                " documentation at https://learn.microsoft.com/entra/identity-platform/certificate-credentials ."
            )
            raise GrantRefused(401, "invalid_client", 700024, message)
        try:
            if identity is None or self._principals is None:
                self.federated.check(claims)
            else:
                match(of_documents(self._principals.credentials(identity["id"])), claims)
        except NoMatch as error:
            raise GrantRefused(401, "invalid_client", error.code, str(error)) from error

    def _audience(self, form: dict[str, str]) -> str:
        scope = form.get("scope", "").split(" ")[0]
        audience = scope.removesuffix("/.default") if scope else form.get("resource", "")
        if scope and not scope.endswith("/.default"):
            raise GrantRefused(400, "invalid_scope", 1002012, f"The provided value for scope {scope} is not valid.")
        account = audience.rstrip("/").removeprefix("https://").removesuffix(hosts.BLOB_SUFFIX)
        if audience.rstrip("/") not in self._audiences and account not in self._accounts:
            message = f"The resource principal named {audience} was not found in the tenant."
            raise GrantRefused(400, "invalid_resource", 500011, message)
        return audience


def _refusal(refused: GrantRefused) -> Response:
    trace = str(uuid.uuid4())
    stamp = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    body = {
        "error": refused.error,
        "error_description": f"AADSTS{refused.code}: {refused} Trace ID: {trace} Timestamp: {stamp}",
        "error_codes": [refused.code],
        "timestamp": stamp,
        "trace_id": trace,
        "correlation_id": trace,
    }
    return JSONResponse(body, status_code=refused.status)


def _precise(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f0Z")


def _basic(authorization: str | None) -> dict[str, str]:
    """A client that names itself in a header instead of in the form."""
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return {}
    try:
        name, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        return {}
    return {"client_id": unquote_plus(name), "client_secret": unquote_plus(secret)}


def _instances() -> dict[str, Any]:
    """The known clouds; clients look for aliases of the authority they use."""
    return {
        "tenant_discovery_endpoint": f"{LOGIN}/common/v2.0/.well-known/openid-configuration",
        "api-version": "1.1",
        "metadata": [
            {
                "preferred_network": "login.microsoftonline.com",
                "preferred_cache": "login.windows.net",
                "aliases": ["login.microsoftonline.com", "login.windows.net", "login.microsoft.com", "sts.windows.net"],
            }
        ],
    }
