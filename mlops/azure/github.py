"""What GitHub says of the job that runs here: asked for again and again, since one statement is good for five minutes.

A job with ``permissions: id-token: write`` has an address and a request token. The answer is a JWT that Azure takes in
place of a secret. It is masked in GitHub's log before anything else happens to it, and is written nowhere.
"""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlops.azure.errors import PASSING, UnavailableError
from mlops.core import retry
from mlops.core.errors import AzureError
from mlops.core.retry import Backoff

if TYPE_CHECKING:
    import httpx

    from mlops.config.settings import Http
    from mlops.core.console import Console

AUDIENCE = "api://AzureADTokenExchange"
ADDRESS, REQUEST_TOKEN = "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"
ACTION = "ask GitHub for a statement of who this job is"
MIN_DURATION_S, MIN_ATTEMPTS = 20.0, 4
"""For so long it is asked again, and at least so often: on a busy runner one try may take all of that time. A rollout's
lease, which waits for a token too, must outlast that."""
BACKOFF = Backoff(first_s=0.5, longest_s=5.0)
LONGEST_WAIT_S = 6.0


@dataclass(frozen=True)
class Claims:
    """What a statement says, as GitHub worded it; the subject's form differs between repositories."""

    issuer: str
    subject: str
    audience: str


@dataclass
class Statements:
    """The source of a job's statements; ``last`` is what the newest one said."""

    address: str
    request_token: str = field(repr=False)
    console: Console = field(repr=False)
    http: Http = field(repr=False)
    last: Claims | None = None

    def fresh(self) -> str:
        """A statement made in this moment.

        Raises:
            UnavailableError: GitHub did not answer, also when asked again.
            AzureError: GitHub refused.
        """
        import httpx

        def once() -> str:
            try:
                response = self._ask()
            except httpx.TransportError as error:
                raise _unavailable(f"no answer: {error or type(error).__name__}") from None
            if response.status_code in PASSING:
                raise _unavailable(f"it answered {response.status_code}")
            return self._read(response)

        return retry.call(
            once,
            attempts=MIN_ATTEMPTS,
            min_duration_s=MIN_DURATION_S,
            backoff=BACKOFF,
            passing=lambda error: isinstance(error, UnavailableError),
        )

    def _ask(self) -> httpx.Response:
        import httpx

        connect, read = (
            min(limit, LONGEST_WAIT_S) for limit in (self.http.connect_timeout_s, self.http.read_timeout_s)
        )
        return httpx.get(
            httpx.URL(self.address).copy_merge_params({"audience": AUDIENCE}),
            headers={"Authorization": f"bearer {self.request_token}", "Accept": "application/json"},
            timeout=httpx.Timeout(read, connect=connect),
        )

    def _read(self, response: httpx.Response) -> str:
        if response.status_code != 200:
            hint = "what a job may ask with ends with the job: was this started by another one?"
            raise AzureError(f"{ACTION}: it answered {response.status_code}", hint=hint)
        try:
            value = response.json()["value"]
            self.console.mask(value)
            claims = _claims(value)
            self.last = Claims(str(claims["iss"]), str(claims["sub"]), str(claims["aud"]))
        except (ValueError, TypeError, LookupError, AttributeError):
            raise AzureError(f"{ACTION}: its answer holds none") from None  # not the cause: that may quote the answer
        return str(value)


def _unavailable(trouble: str) -> UnavailableError:
    hint = "try again; www.githubstatus.com says whether Actions has trouble"
    return UnavailableError(f"{ACTION}: {trouble}", hint=hint)


def statements(console: Console, http: Http) -> Statements | None:
    """Where to ask; None where this is no job that may."""
    address, token = os.environ.get(ADDRESS), os.environ.get(REQUEST_TOKEN)
    return Statements(address, token, console, http) if address and token else None


def in_a_job() -> bool:
    """Whether this process runs in a job on GitHub."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def from_a_fork() -> bool:
    """Whether the job runs for a pull request from a fork, which GitHub lets ask for nothing."""
    try:
        with open(os.environ.get("GITHUB_EVENT_PATH", ""), encoding="utf-8") as file:  # noqa: PTH123 - "" is no path
            event = json.load(file)
        return bool(event["pull_request"]["head"]["repo"]["fork"])
    except (OSError, ValueError, TypeError, LookupError):
        return False


def _claims(token: str) -> Any:
    """What a JWT says, its signature aside."""
    body = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
