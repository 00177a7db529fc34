"""GitHub's token service and Entra's federated credentials: who is vouched for, for how long, and who is trusted."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest

from mlops.local.entra.credentials import Credentials
from mlops.local.entra.federation import AUDIENCE, FederatedCredential, FederatedCredentials, NoMatch
from mlops.local.entra.github import ISSUER
from mlops.local.entra.identity import GrantRefused, Identity
from mlops.local.state.accounts import ServedAccounts
from mlops.local.state.config import Config
from mlops.local.state.layout import Layout
from tests.unit.local.conftest import Local

SUBJECT = "repo:acme@1/chat@2:environment:staging"


def make(root: Path, **config: Any) -> Identity:
    layout, made = Layout(root=root, cache=root), Config(**config)
    return Identity(layout, made, ServedAccounts(made.account), Credentials.load(layout, made))


def claims(**changes: str) -> dict[str, Any]:
    return {"iss": ISSUER, "sub": SUBJECT, "aud": AUDIENCE} | changes


@pytest.mark.parametrize(
    ("presented", "code"),
    [
        (claims(), None),
        (claims(sub="repo:acme@1/chat@2:environment:production"), 700213),
        (claims(sub=SUBJECT.replace("acme", "Acme")), 7002138),
        (claims(sub="repo:acme/chat:environment:staging"), 700213),
        (claims(aud="https://github.com/acme"), 700212),
        (claims(iss="https://token.example.com"), 700211),
    ],
)
def test_a_credential_matches_to_the_letter(tmp_path: Path, presented: dict[str, Any], code: int | None) -> None:
    known = FederatedCredentials(Layout(root=tmp_path, cache=tmp_path))
    with pytest.raises(NoMatch):
        known.check(claims())
    known.add(FederatedCredential(ISSUER, SUBJECT))
    known.add(FederatedCredential(ISSUER, SUBJECT))
    again = FederatedCredentials(Layout(root=tmp_path, cache=tmp_path))
    assert len(again.shown()) == 1
    if code is None:
        again.check(presented)
        return
    with pytest.raises(NoMatch) as refused:
        again.check(presented)
    assert refused.value.code == code
    again.clear()
    assert again.shown() == []


def test_an_assertion_is_stale_after_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = make(tmp_path, assertion_s=300)
    identity.federated.add(FederatedCredential(ISSUER, SUBJECT))
    assertion = identity.github.assertion({"sub": SUBJECT}, AUDIENCE)
    identity._check_assertion(assertion)
    later = time.time() + 300
    monkeypatch.setattr(time, "time", lambda: later)
    with pytest.raises(GrantRefused, match=r"not within its valid time range\. Current time: 20") as refused:
        identity._check_assertion(assertion)
    assert refused.value.code == 700024


def test_only_githubs_own_signature_counts(tmp_path: Path) -> None:
    identity, other = make(tmp_path / "a"), make(tmp_path / "b")
    identity.federated.add(FederatedCredential(ISSUER, SUBJECT))
    job = identity.github.job(SUBJECT, {})["ACTIONS_ID_TOKEN_REQUEST_TOKEN"]
    for assertion in (other.github.assertion({"sub": SUBJECT}, AUDIENCE), job, "no.token.this"):
        with pytest.raises(GrantRefused) as refused:
            identity._check_assertion(assertion)
        assert refused.value.code == 700027


def test_the_service_over_https(local: Local) -> None:
    out = local.run_python("""
        import json, jwt, requests
        import mlops.local.daemon.client as daemon
        body = {"subject": "repo:acme@1/chat@2:pull_request",
                "claims": {"repository": "acme/chat", "iss": "https://evil.example", "sub": "x"}}
        job = daemon.request("github-job", method="POST", body=body)
        url, token = (job[f"ACTIONS_ID_TOKEN_REQUEST_{name}"] for name in ("URL", "TOKEN"))
        def ask(token, more="&audience=api://AzureADTokenExchange"):
            return requests.get(url + more, headers={"Authorization": f"bearer {token}"})
        value = ask(token).json()["value"]
        issuer = "https://token.actions.githubusercontent.com"
        place = requests.get(f"{issuer}/.well-known/openid-configuration").json()
        assert place["issuer"] == issuer
        key = jwt.PyJWKSet.from_dict(requests.get(place["jwks_uri"]).json())["github"]
        claims = jwt.decode(value, key, algorithms=["RS256"], audience="api://AzureADTokenExchange", issuer=issuer)
        unnamed = jwt.decode(ask(token, "").json()["value"], options={"verify_signature": False})["aud"]
        refused = [ask(each).status_code for each in (value, "", "x.y.z", token[:-4] + "AAAA")]
        print(json.dumps([claims, unnamed, refused, requests.get(f"{issuer}/other").status_code]))
    """)
    token, unnamed, refused, other = json.loads(out)
    assert token["sub"] == "repo:acme@1/chat@2:pull_request"
    assert token["repository"] == "acme/chat"
    assert token["exp"] - token["iat"] == 300
    assert unnamed == "https://github.com/acme"
    assert refused == [401, 401, 401, 401]
    assert other == 404


def test_an_assertion_names_its_key(tmp_path: Path) -> None:
    assertion = make(tmp_path).github.assertion({"sub": SUBJECT}, AUDIENCE)
    assert jwt.get_unverified_header(assertion) == {"alg": "RS256", "kid": "github", "typ": "JWT"}
