"""A job on GitHub as the local workspace plays it: what it may ask for, and whom Entra trusts."""

from __future__ import annotations

from typing import Any


def trust(subject: str) -> None:
    """Register the federated credential for a subject."""
    from mlops.local.daemon import client

    client.request("federated-credentials", method="POST", body={"subject": subject})


def github_job(subject: str, **claims: Any) -> dict[str, str]:
    """The variables of a job that has ``permissions: id-token: write``."""
    from mlops.local.daemon import client

    variables: dict[str, str] = client.request("github-job", method="POST", body={"subject": subject, "claims": claims})
    return variables
