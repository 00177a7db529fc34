"""GitHub's token service: it states in writing, for a moment, which job of which repository is asking.

A job with ``permissions: id-token: write`` is given an address and a request token. With them it asks for an assertion,
a JWT signed by GitHub, whose subject Entra looks for among the federated credentials of an application.
"""

from __future__ import annotations

import math
import time
import uuid
from typing import Any

import jwt
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mlops.local.daemon import hosts
from mlops.local.entra.keys import public_jwk, signing_key
from mlops.local.state.config import Config
from mlops.local.state.layout import Layout

ISSUER = f"https://{hosts.GITHUB_ISSUER}"
KEY_ID = "github"
OWN = frozenset({"iss", "aud", "sub", "iat", "nbf", "exp", "jti"})
"""Claims that the service decides."""


class GitHub:
    """Signs and checks what GitHub would."""

    def __init__(self, layout: Layout, config: Config) -> None:
        self._config = config
        self._key = signing_key(layout, "github.key")
        self.public_key = self._key.public_key()

    def job(self, subject: str, claims: dict[str, Any]) -> dict[str, str]:
        """The two variables of a job that may ask.

        Args:
            subject: the subject of its assertions.
            claims: others for them (repository, ref, actor, …).
        """
        begin = int(time.time())
        ours = {name: value for name, value in claims.items() if name not in OWN}
        body = {
            "iss": f"https://{hosts.GITHUB_REQUESTS}",
            "aud": hosts.GITHUB_REQUESTS,
            "iat": begin,
            "exp": begin + int(self._config.job_s),
            "job": {**ours, "sub": subject},
        }
        plan, job = uuid.uuid4(), uuid.uuid4()
        return {
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"https://{hosts.GITHUB_REQUESTS}/0//idtoken/{plan}/{job}?api-version=2.0",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": jwt.encode(body, self._key, algorithm="RS256", headers={"kid": KEY_ID}),
        }

    def assertion(self, claims: dict[str, Any], audience: str) -> str:
        """What the service hands out."""
        begin = int(time.time())
        body = {
            **claims,
            "iss": ISSUER,
            "aud": audience,
            "iat": begin,
            "nbf": begin - 600,
            "exp": begin + math.ceil(self._config.assertion_s),
            "jti": str(uuid.uuid4()),
        }
        return jwt.encode(body, self._key, algorithm="RS256", headers={"kid": KEY_ID})

    def answer(self, request: Request, host: str) -> Response:
        """Answer for GitHub's two hosts."""
        path = request.scope["path"]
        if host == hosts.GITHUB_REQUESTS and "/idtoken/" in path and request.method in ("GET", "POST"):
            return self._token(request)
        if host == hosts.GITHUB_ISSUER and path == "/.well-known/openid-configuration":
            return JSONResponse(_configuration())
        if host == hosts.GITHUB_ISSUER and path == "/.well-known/jwks":
            return JSONResponse({"keys": [public_jwk(self._key, KEY_ID)]})
        return JSONResponse({"message": "Not Found"}, 404)

    def _token(self, request: Request) -> Response:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        try:
            if scheme.lower() != "bearer":
                raise jwt.InvalidTokenError("no bearer token")
            decoded = jwt.decode(
                token,
                self.public_key,
                algorithms=["RS256"],
                audience=hosts.GITHUB_REQUESTS,
                issuer=f"https://{hosts.GITHUB_REQUESTS}",
                options={"require": ["exp", "job"]},
            )
        except jwt.PyJWTError as error:
            return JSONResponse({"message": f"The request token was refused: {error}."}, 401)
        claims: dict[str, Any] = decoded["job"]
        owner = str(claims.get("repository", "")).partition("/")[0]
        value = self.assertion(claims, request.query_params.get("audience") or f"https://github.com/{owner}")
        return JSONResponse({"count": len(value), "value": value}, headers={"Cache-Control": "no-store"})


def _configuration() -> dict[str, Any]:
    return {
        "issuer": ISSUER,
        "jwks_uri": f"{ISSUER}/.well-known/jwks",
        "subject_types_supported": ["public", "pairwise"],
        "response_types_supported": ["id_token"],
        "claims_supported": sorted(OWN | {"repository", "repository_id", "ref", "environment", "actor", "run_id"}),
        "id_token_signing_alg_values_supported": ["RS256"],
        "scopes_supported": ["openid"],
    }
