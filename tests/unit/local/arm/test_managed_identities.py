"""Managed identities: principals of the directory, and jobs on GitHub that log in as them."""

from __future__ import annotations

import os
import threading
import uuid
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.support.waiting import HANG_S
from tests.unit.local.arm.conftest import QUICK, STANDING, Cloud, admin, refused
from tests.unit.local.conftest import make_local

ISSUER = "https://token.actions.githubusercontent.com"
AUDIENCE = "api://AzureADTokenExchange"
SCOPE = "https://management.azure.com/.default"


def trust(cloud: Cloud, identity: str, name: str, subject: str) -> Any:
    """Let a subject of GitHub's log in as an identity."""
    body = {"properties": {"issuer": ISSUER, "subject": subject, "audiences": [AUDIENCE]}}
    return cloud.identities.federated_identity_credentials.create_or_update(cloud.group, identity, name, body)


def job(subject: str, client_id: str) -> Any:
    """The credential of a job on GitHub."""
    import requests
    from azure.identity import ClientAssertionCredential

    def assertion() -> str:
        found = admin("github-job", "POST", {"subject": subject})
        headers = {"Authorization": f"bearer {found['ACTIONS_ID_TOKEN_REQUEST_TOKEN']}"}
        url = f"{found['ACTIONS_ID_TOKEN_REQUEST_URL']}&audience={AUDIENCE}"
        value: str = requests.get(url, headers=headers, timeout=HANG_S).json()["value"]
        return value

    return ClientAssertionCredential(os.environ["AZURE_TENANT_ID"], client_id, assertion)


def test_an_identity_keeps_its_ids(cloud: Cloud) -> None:
    made = cloud.identity("id-keeps")
    again = cloud.identities.user_assigned_identities.create_or_update(
        cloud.group, "id-keeps", {"location": "eastus", "tags": {"a": "b"}}
    )
    assert (again.principal_id, again.client_id, again.tags) == (made.principal_id, made.client_id, {"a": "b"})
    updated = cloud.identities.user_assigned_identities.update(cloud.group, "id-keeps", {"tags": {"c": "d"}})
    assert (updated.principal_id, updated.tags) == (made.principal_id, {"c": "d"})
    assert "id-keeps" in [item.name for item in cloud.identities.user_assigned_identities.list_by_subscription()]
    cloud.identities.user_assigned_identities.delete(cloud.group, "id-keeps")
    refused("ResourceNotFound", lambda: cloud.identities.user_assigned_identities.get(cloud.group, "id-keeps"))


def test_a_job_logs_in_as_the_identity_that_trusts_it(cloud: Cloud) -> None:
    from azure.core.exceptions import ClientAuthenticationError
    from azure.identity import ClientSecretCredential

    identity = cloud.identity("id-github")
    subject = "repo:acme@1/chat@2:environment:staging"
    trust(cloud, "id-github", "staging", subject)
    token = job(subject, identity.client_id).get_token(SCOPE).token
    claims = jwt.decode(token, options={"verify_signature": False})
    assert (claims["appid"], claims["oid"]) == (identity.client_id, identity.principal_id)
    assert claims["xms_mirid"] == identity.id
    for wrong, code in (
        (job("repo:acme@1/chat@2:pull_request", identity.client_id), "AADSTS700213"),
        (job(subject.replace("acme", "Acme"), identity.client_id), "AADSTS7002138"),
        (ClientSecretCredential(os.environ["AZURE_TENANT_ID"], identity.client_id, "guessed"), "AADSTS7000215"),
        (job(subject, str(uuid.uuid4())), "AADSTS700016"),
    ):
        with pytest.raises(ClientAuthenticationError, match=code):
            wrong.get_token(SCOPE)
    cloud.identities.federated_identity_credentials.delete(cloud.group, "id-github", "staging")
    with pytest.raises(ClientAuthenticationError, match="AADSTS700213"):
        job(subject, identity.client_id).get_token(SCOPE)


def test_federated_credentials_have_their_limits(cloud: Cloud) -> None:
    cloud.identity("id-limits")
    trust(cloud, "id-limits", "one", "repo:a/b:environment:one")
    refused("Conflict", lambda: trust(cloud, "id-limits", "two", "repo:a/b:environment:one"))
    trust(cloud, "id-limits", "one", "repo:a/b:environment:changed")
    for number in range(19):
        trust(cloud, "id-limits", f"more-{number}", f"repo:a/b:environment:{number}")
    refused("BadRequest", lambda: trust(cloud, "id-limits", "last", "repo:a/b:environment:last"))
    refused("ResourceNotFound", lambda: trust(cloud, "id-nobody", "one", "repo:a/b:environment:one"))


def test_two_writes_at_once_are_one_too_many(cloud: Cloud, tmp_path: Path, shared_cache: Path) -> None:
    """With writes slow enough to meet."""
    from azure.core.exceptions import HttpResponseError
    from azure.identity import ClientSecretCredential

    del cloud
    slow = make_local(tmp_path / "home", shared_cache, MLOPS_LOCAL_FEDERATED_S="5", **QUICK, **STANDING)
    before = dict(os.environ)
    try:
        os.environ.update(slow.env)
        names = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")
        own = Cloud(
            slow, ClientSecretCredential(*(os.environ[name] for name in names)), os.environ["AZURE_SUBSCRIPTION_ID"]
        )
        own.group = "local"
        own.identity("id-one")
        codes: list[str] = []

        def write(name: str) -> None:
            try:
                trust(own, "id-one", name, f"repo:a/b:environment:{name}")
                codes.append("written")
            except HttpResponseError as error:
                codes.append(str(error.error.code if error.error else error))

        threads = [threading.Thread(target=write, args=(name,)) for name in ("one", "two")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(codes) == ["ConcurrentFederatedIdentityCredentialsWritesForSingleManagedIdentity", "written"]
    finally:
        os.environ.clear()
        os.environ.update(before)
        slow.stop()
