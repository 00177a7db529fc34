"""Tokens: who gets one, what it says, and who is turned away."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from mlops.local.entra.credentials import Credentials
from mlops.local.entra.identity import MANAGEMENT, Identity, TokenRefused
from mlops.local.state.accounts import ServedAccounts
from mlops.local.state.config import Config
from mlops.local.state.layout import Layout
from tests.unit.local.conftest import Local, make_local

ARM = "https://management.azure.com"


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return make_identity(tmp_path_factory.mktemp("identity"))


def make_identity(root: Path) -> Identity:
    layout, config = Layout(root=root, cache=root), Config()
    return Identity(layout, config, ServedAccounts(config.account), Credentials.load(layout, config))


def bearer(token: str) -> str:
    return f"Bearer {token}"


def test_a_token_says_who_and_for_what(identity: Identity) -> None:
    claims = identity.check(bearer(identity.issue(ARM)), MANAGEMENT)
    assert claims["aud"] == ARM
    assert claims["tid"] == Config().tenant
    assert claims["exp"] - claims["iat"] == 3600


def test_an_audience_with_a_slash_is_the_same(identity: Identity) -> None:
    identity.check(bearer(identity.issue(f"{ARM}/")), MANAGEMENT)


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer ", "Basic eDp5", "Bearer a.b.c", "Bearer x"])
def test_what_is_no_token_is_refused(identity: Identity, authorization: str | None) -> None:
    with pytest.raises(TokenRefused):
        identity.check(authorization, MANAGEMENT)


def test_a_token_for_another_service_is_refused(identity: Identity) -> None:
    with pytest.raises(TokenRefused, match=r"wrong audience 'https://storage\.azure\.com'"):
        identity.check(bearer(identity.issue("https://storage.azure.com")), MANAGEMENT)


def test_a_token_expires_also_when_it_was_seen_before(identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    token = identity.issue(ARM, lifetime_s=3600)
    identity.check(bearer(token), MANAGEMENT)
    later = time.time() + 3600
    monkeypatch.setattr(time, "time", lambda: later)
    with pytest.raises(TokenRefused, match="expired"):
        identity.check(bearer(token), MANAGEMENT)
    monkeypatch.undo()
    with pytest.raises(TokenRefused, match="expired"):
        identity.check(bearer(identity.issue(ARM, lifetime_s=-1)), MANAGEMENT)


def test_a_token_of_another_workspace_is_refused(identity: Identity, tmp_path: Path) -> None:
    other = make_identity(tmp_path)
    with pytest.raises(TokenRefused, match="not valid"):
        identity.check(bearer(other.issue(ARM)), MANAGEMENT)


@pytest.mark.parametrize("change", [{"iss": "https://sts.windows.net/other/"}, {"exp": None}, {"aud": None}])
def test_a_token_with_wrong_or_missing_claims_is_refused(identity: Identity, change: dict[str, Any]) -> None:
    claims = jwt.decode(identity.issue(ARM), options={"verify_signature": False}) | change
    claims = {name: value for name, value in claims.items() if value is not None}
    with pytest.raises(TokenRefused, match="not valid"):
        identity.check(bearer(jwt.encode(claims, identity._key, algorithm="RS256")), MANAGEMENT)


def test_a_changed_or_unsigned_token_is_refused(identity: Identity) -> None:
    token = identity.issue(ARM)
    head, body, signature = token.split(".")
    claims = jwt.decode(token, options={"verify_signature": False})
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    forged = [
        f"{head}.{body}.{signature[::-1]}",
        jwt.encode(claims, "", algorithm="none"),
        jwt.encode(claims, stranger, algorithm="RS256"),
        jwt.encode(claims, "x" * 32, algorithm="HS256"),
    ]
    for each in forged:
        with pytest.raises(TokenRefused):
            identity.check(bearer(each), MANAGEMENT)


def test_clients_sign_in_with_a_secret_and_with_githubs_token(local: Local) -> None:
    out = local.run_python("""
        import base64, json, os, requests, time
        from azure.core.exceptions import ClientAuthenticationError
        from azure.identity import (
            ClientAssertionCredential, ClientSecretCredential, DefaultAzureCredential, EnvironmentCredential)
        import mlops.local.daemon.client as daemon
        scope = "https://management.azure.com/.default"
        tenant, client, secret = (os.environ[f"AZURE_{name}"] for name in ("TENANT_ID", "CLIENT_ID", "CLIENT_SECRET"))
        token = DefaultAzureCredential().get_token(scope)
        assert 3500 < token.expires_on - time.time() <= 3600
        claims = json.loads(base64.urlsafe_b64decode(token.token.split(".")[1] + "=="))
        assert claims["aud"] == "https://management.azure.com" and claims["appid"] == client
        for scope in ("https://ml.azure.com/.default", "https://management.core.windows.net//.default"):
            EnvironmentCredential().get_token(scope)
        subject = "repo:a@1/b@2:ref:refs/heads/main"
        daemon.request("federated-credentials", method="POST", body={"subject": subject})
        def assertion():
            job = daemon.request("github-job", method="POST", body={"subject": subject})
            headers = {"Authorization": f"bearer {job['ACTIONS_ID_TOKEN_REQUEST_TOKEN']}"}
            url = job["ACTIONS_ID_TOKEN_REQUEST_URL"] + "&audience=api://AzureADTokenExchange"
            return requests.get(url, headers=headers).json()["value"]
        ClientAssertionCredential(tenant, client, assertion).get_token(scope)
        subject = "repo:a@1/b@3:ref:refs/heads/main"
        wrong = {
            "AADSTS7000215": ClientSecretCredential(tenant, client, "wrong"),
            "AADSTS700016": ClientSecretCredential(tenant, "00000000-0000-0000-0000-0000000000ff", secret),
            "AADSTS700213": ClientAssertionCredential(tenant, client, assertion),
            "AADSTS700027": ClientAssertionCredential(tenant, client, lambda: token.token),
            "AADSTS500011": ClientSecretCredential(tenant, client, secret),
        }
        for code, credential in wrong.items():
            try:
                credential.get_token("https://nothing.example/.default" if code.endswith("500011") else scope)
            except ClientAuthenticationError as error:
                assert code in str(error), (code, error)
            else:
                raise AssertionError(code)
        try:
            ClientSecretCredential("11111111-1111-1111-1111-111111111111", client, secret).get_token(scope)
        except (ClientAuthenticationError, ValueError) as error:
            assert "AADSTS90002" in str(error) or "tenant" in str(error).lower(), error
        else:
            raise AssertionError("tenant")
        print("ok")
    """)
    assert out.strip() == "ok"


def test_a_refusal_names_the_authority(local: Local) -> None:
    out = local.run_python("""
        import json, requests
        url = "https://management.azure.com/subscriptions?api-version=2022-12-01"
        bad = requests.get(url, headers={"Authorization": "Bearer no"})
        none = requests.get(url)
        data = requests.get("https://eastus.api.azureml.ms/history/v1.0/x")
        blob = requests.get("https://mlopslocal.blob.core.windows.net/azureml?restype=container&comp=list")
        answers = (bad, none, data, blob)
        print(json.dumps([[r.status_code, r.headers.get("WWW-Authenticate", ""), r.text] for r in answers]))
    """)
    bad, none, data, blob = json.loads(out)
    for status, challenge, _ in (bad, none, data, blob):
        assert status == 401
        assert challenge.startswith("Bearer authorization_uri=")
        assert f"https://login.microsoftonline.com/{Config().tenant}" in challenge
    assert json.loads(bad[2])["error"]["code"] == "InvalidAuthenticationToken"
    assert json.loads(none[2])["error"]["code"] == "AuthenticationFailed"
    assert "<Code>NoAuthenticationInformation</Code>" in blob[2]


def test_the_code_says_why_a_token_is_refused(tmp_path: Path, shared_cache: Path) -> None:
    short = make_local(tmp_path / "home", shared_cache, MLOPS_LOCAL_PARTS="none", MLOPS_LOCAL_TOKEN_S="3")
    try:
        out = short.run_python(
            """
            import os, requests, time
            from requests.auth import HTTPBasicAuth
            address = f"https://login.microsoftonline.com/{os.environ['AZURE_TENANT_ID']}/oauth2/v2.0/token"
            basic = HTTPBasicAuth(os.environ["AZURE_CLIENT_ID"], os.environ["AZURE_CLIENT_SECRET"])
            def ask(scope):
                form = {"grant_type": "client_credentials", "scope": f"{scope}/.default"}
                token = requests.post(address, form, auth=basic).json()["access_token"]
                return {"Authorization": f"Bearer {token}"}
            url = "https://management.azure.com/subscriptions?api-version=2022-12-01"
            print(requests.get(url, headers=ask("https://storage.azure.com")).json()["error"]["code"])
            headers = ask("https://management.azure.com")
            while "error" not in (answer := requests.get(url, headers=headers).json()):
                time.sleep(0.1)
            print(answer["error"]["code"])
            grant = {"grant_type": "client_credentials"}
            for auth in (("x", "y"), (os.environ["AZURE_CLIENT_ID"], "y")):
                print(requests.post(address, grant, auth=auth).json()["error"])
            print(requests.post(address, grant, headers={"Authorization": "Basic ???"}).json()["error"])
            """,
        )
    finally:
        short.stop()
    assert out.split() == [
        "InvalidAuthenticationTokenAudience",
        "ExpiredAuthenticationToken",
        "unauthorized_client",
        "invalid_client",
        "unauthorized_client",
    ]


def test_the_own_routes_need_the_own_token(local: Local) -> None:
    out = local.run_python("""
        import requests
        from azure.identity import DefaultAzureCredential
        token = DefaultAzureCredential().get_token("https://management.azure.com/.default").token
        url = "https://management.azure.com/__local/faults"
        tries = ({}, {"Authorization": f"Bearer {token}"}, {"Authorization": "Bearer é".encode()})
        print([requests.get(url, headers=headers).status_code for headers in tries])
    """)
    assert out.strip() == "[401, 401, 401]"
