"""Who we are for Azure: the job on GitHub, else what this machine is logged in as, else a person at a browser.

A login in a job lasts as long as the job: each new token is asked for with a statement of GitHub's made in that moment.
Who takes one statement at the start is locked out when the first token has ended (AADSTS700024).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mlops.azure import github
from mlops.azure.errors import PASSING, UnavailableError, explain, translated
from mlops.core.errors import AzureError, MlopsError, PreconditionError

if TYPE_CHECKING:
    from mlops.config.settings import Settings
    from mlops.core.console import Console

SCOPE = "https://management.azure.com/.default"
IDENTITY = ("AZURE_CLIENT_ID", "AZURE_TENANT_ID")
"""The variables that say which application a job logs in as."""
REASON = re.compile(r"AADSTS(\d+): ?(.*?)(?= ?(?:Trace ID:|Check your|Review the)|['\r\n]*$)", re.DOTALL)
"""Entra's code and what it says, without the advice that follows."""
NO_MATCH = "70021"
"""How the codes begin by which Entra says that no federated credential matches: 70021, 700211 to 700213, 7002138."""
CAUSES = {
    "700016": "AZURE_CLIENT_ID is no application or managed identity of the tenant AZURE_TENANT_ID: check both",
    "90002": "there is no tenant AZURE_TENANT_ID: check it",
    "900023": "AZURE_TENANT_ID is no tenant's id: check it",
    "700024": "the statement was too old or too new: check the clock of the machine that runs this",
}


def credential(settings: Settings, console: Console) -> Any:
    """A credential that has shown that it works, by a token for Azure's management.

    Raises:
        PreconditionError: this is a job on GitHub that is not set up for it; says what is missing and where it is set.
        AzureError: the login is refused; in a job with what GitHub said of it, and whom Azure would have to trust.
    """
    job = None if settings.is_local else github.statements(console, settings.http)
    client, tenant = (os.environ.get(name, "") for name in IDENTITY)
    if job is None or not (client and tenant):
        return _of_this_machine(settings, console)
    job_credential = JobCredential(job, client=client, tenant=tenant, settings=settings)
    job_credential.get_token(SCOPE)
    return job_credential


class JobCredential:
    """Azure's tokens for a job on GitHub; of the protocols that Azure's clients ask for."""

    def __init__(self, job: github.Statements, *, client: str, tenant: str, settings: Settings) -> None:
        from azure.identity import ClientAssertionCredential

        self._job = job
        self._client = client
        self._target = settings.target
        self._inner = ClientAssertionCredential(
            tenant,
            client,
            job.fresh,
            connection_timeout=settings.http.connect_timeout_s,
            read_timeout=settings.http.read_timeout_s,
        )

    def get_token(self, *scopes: str, **options: Any) -> Any:
        """A token that is valid, a new one where the last is about to end."""
        with self._explained():
            return self._inner.get_token(*scopes, **options)

    def get_token_info(self, *scopes: str, options: Any = None) -> Any:
        """The same with more said about it."""
        with self._explained():
            return self._inner.get_token_info(*scopes, options=options)

    def close(self) -> None:
        """Close the connections."""
        self._inner.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        from azure.core.exceptions import ClientAuthenticationError

        with translated("log in to Azure"):
            try:
                yield
            except ClientAuthenticationError as error:
                raise self._refused(error) from None  # the cause holds the request, and that the statement

    def _refused(self, error: Any) -> MlopsError:
        status = getattr(getattr(error, "response", None), "status_code", None)
        match = REASON.search(str(error))
        code, message = (match[1], f"AADSTS{match[1]}: {match[2].strip()}") if match else ("", explain(error))
        if status in PASSING:
            return UnavailableError(f"log in to Azure: {message}", hint="try again")
        claims = self._job.last
        if claims is None:
            return AzureError(f"log in to Azure: {message}")
        details = [
            "GitHub said of this job:",
            f"  subject   {claims.subject}",
            f"  issuer    {claims.issuer}",
            f"  audience  {claims.audience}",
        ]
        hint = CAUSES.get(code, "check what the application or managed identity AZURE_CLIENT_ID may do")
        if code.startswith(NO_MATCH):
            if ":environment:" not in claims.subject:
                details.append(f"It names no environment; to trust is a job with `environment: {self._target}` alone.")
            details += self._matching(claims)
            hint = f"let Azure trust this subject, once, then run the job again; AZURE_CLIENT_ID is '{self._client}'"
        return AzureError(f"log in to Azure: it does not accept this job: {message}", hint=hint, details=details)

    def _matching(self, claims: github.Claims) -> list[str]:
        """The federated credential that would match, as the parameters of the two commands that make one."""
        name = f"github-{self._target}"
        parameters = {
            "name": name,
            "issuer": claims.issuer,
            "subject": claims.subject,
            "audiences": [claims.audience],
        }
        options = f"--issuer {claims.issuer} --subject {shlex.quote(claims.subject)} --audiences {claims.audience}"
        return [
            "The federated credential that matches, for an app registration:",
            f"  az ad app federated-credential create --id {self._client} --parameters "
            f"{shlex.quote(json.dumps(parameters))}",
            "or for a user-assigned managed identity:",
            f"  az identity federated-credential create --identity-name NAME --resource-group GROUP --name {name} "
            f"{options}",
        ]


def where_to_set(settings: Settings, names: Sequence[str]) -> list[str]:
    """For a job on GitHub: each variable that is not set, with the place to set it; nothing elsewhere."""
    if settings.is_local or not github.in_a_job():
        return []
    page = f"Settings → Environments → {settings.target} → Environment variables"
    return [f"{name} is not set: {page}" for name in names if not os.environ.get(name)]


def _of_this_machine(settings: Settings, console: Console) -> Any:
    """DefaultAzureCredential with a token asked for at once; a browser only where there is a terminal."""
    from azure.core.exceptions import AzureError as CoreError
    from azure.identity import DefaultAzureCredential, InteractiveBrowserCredential

    default_credential = DefaultAzureCredential()
    try:
        default_credential.get_token(SCOPE)
    except CoreError as error:
        if not settings.is_local and github.in_a_job():
            raise _not_set_up(settings) from error
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            first, *tried = [line.strip() for line in str(error).strip().splitlines()]
            hint = "run `az login`, or set AZURE_TENANT_ID, AZURE_CLIENT_ID and a credential"
            raise AzureError(f"log in to Azure: {first}", hint=hint, details=tried[1:8]) from error
        console.say("no login found; a browser opens")
        browser = InteractiveBrowserCredential()
        with translated("log in to Azure"):
            browser.get_token(SCOPE)
        return browser
    return default_credential


def _not_set_up(settings: Settings) -> PreconditionError:
    """What a job on GitHub lacks."""
    unset = where_to_set(settings, IDENTITY)
    may_ask = os.environ.get(github.ADDRESS) and os.environ.get(github.REQUEST_TOKEN)
    if may_ask:
        names = " and ".join(name for name in IDENTITY if not os.environ.get(name))
        hint = "set them, and hand them to the step: `env:` with `${{ vars.NAME }}`, in a job with `environment:`"
        return PreconditionError(f"log in to Azure: not set: {names}", hint=hint, details=unset)
    if github.from_a_fork():
        return PreconditionError(
            "log in to Azure: this run is for a pull request from a fork, and GitHub vouches for none of those",
            hint="push the branch to this repository, or leave this step out for forks",
            details=unset,
        )
    return PreconditionError(
        "log in to Azure: the job may not ask GitHub to vouch for it: `permissions: id-token: write` is missing",
        hint="give the job that permission, and the job that calls its workflow too; a run from a fork never has it",
        details=unset,
    )
