"""The federated credentials of the workspace's client: whose statements Entra accepts in place of a secret."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass
from typing import Any

from mlops.local.state.layout import Layout
from mlops.local.state.private_files import read_json, write_private_json
from mlops.local.state.store import Document

AUDIENCE = "api://AzureADTokenExchange"
DOCUMENTATION = "https://learn.microsoft.com/entra/workload-id/workload-identity-federation"


@dataclass(frozen=True)
class FederatedCredential:
    """A subject of an issuer, for an audience; compared to the letter."""

    issuer: str
    subject: str
    audience: str = AUDIENCE


class NoMatch(Exception):
    """No credential matches, with Entra's code for what it misses."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class FederatedCredentials:
    """Kept in ``federated.json``; empty at first: who is not known is not trusted."""

    def __init__(self, layout: Layout) -> None:
        self._path = layout.root / "federated.json"
        self._lock = threading.Lock()
        stored = (read_json(self._path) or {}).get("credentials", [])
        self._known = [FederatedCredential(**entry) for entry in stored]

    def add(self, credential: FederatedCredential) -> None:
        """Trust it from now on."""
        with self._lock:
            if credential not in self._known:
                self._known.append(credential)
                self._save()

    def clear(self) -> None:
        """Trust nobody."""
        with self._lock:
            self._known = []
            self._save()

    def shown(self) -> list[dict[str, Any]]:
        """All of them."""
        return [asdict(entry) for entry in self._known]

    def check(self, claims: dict[str, Any]) -> None:
        """Look for the credential that matches an assertion; raises :class:`NoMatch`."""
        match(self._known, claims)

    def _save(self) -> None:
        write_private_json(self._path, {"credentials": self.shown()})


def of_documents(documents: list[Document]) -> list[FederatedCredential]:
    """The credentials that a managed identity's documents hold."""
    credentials = [body["properties"] for body in documents]
    return [FederatedCredential(item["issuer"], item["subject"], item["audiences"][0]) for item in credentials]


def match(credentials: list[FederatedCredential], claims: dict[str, Any]) -> None:
    """Look for the credential that matches an assertion; raises :class:`NoMatch`."""
    issuer, subject, audience = (str(claims.get(name, "")) for name in ("iss", "sub", "aud"))
    known = [entry for entry in credentials if entry.issuer == issuer]
    what = f"Check your federated identity credential Subject, Audience and Issuer. {DOCUMENTATION}"
    if credentials and not known:
        raise _no(700211, "issuer", issuer, what)
    here = [entry for entry in known if entry.subject == subject]
    if here and all(entry.audience != audience for entry in here):
        raise _no(700212, "audience", audience, what)
    if not here and any(entry.subject.lower() == subject.lower() for entry in known):
        other = "The subject matches with case-insensitive comparison, but not with case-sensitive comparison."
        raise _no(7002138, "subject", subject, f"{other} {what}")
    if not here:
        raise _no(700213, "subject", subject, what)


def _no(code: int, claim: str, value: str, what: str) -> NoMatch:
    return NoMatch(
        code, f"No matching federated identity record found for presented assertion {claim} '{value}'. {what}"
    )
