"""Azure's exceptions turned into ours, each with its exit code and what to do next."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

from mlops.core.errors import AzureError, MlopsError, PreconditionError
from mlops.machines.quota import PAGE as QUOTA_PAGE
from mlops.machines.quota import shortage_in


class NotFoundError(AzureError):
    """Azure has no such resource."""


class UnavailableError(AzureError):
    """Azure did not answer, or said "not now", also when asked again: what was asked for may have happened."""


class DeniedError(AzureError):
    """This login has no role that allows it."""


class BusyError(PreconditionError):
    """Something else changes the resource at this moment."""


PASSING = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses that say nothing of the request; the SDK has asked again where it may."""
DENIED = re.compile(r"does not have (?:authorization|permission) to perform action", re.IGNORECASE)
BUSY = re.compile(r"is in state '?(Creating|Updating|Deleting)|another operation is in progress", re.IGNORECASE)
ABSENT = re.compile(r"^Asset \S+ does not exist in registry", re.IGNORECASE)
"""What the SDK itself says of a registry that has no version of something, where Azure would say 404."""
KNOWN: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"userAssignedIdentities/[^.]*(not found|does not exist|not exist)", re.IGNORECASE),
        "mlops setup makes the identity that deployment.identity in mlops.yaml names; null takes the endpoint's own",
    ),
    (
        re.compile(r"not enough quota|OutOfQuota|Quota reached|QuotaExceeded", re.IGNORECASE),
        f"ask for quota at {QUOTA_PAGE}, or choose another size; mlops cleanup frees what nobody uses",
    ),
    (
        re.compile(r"already an endpoint with this name|name needs to be unique", re.IGNORECASE),
        "endpoint names are unique within a region: change endpoint.name in mlops.yaml",
    ),
    (
        re.compile(
            r"(VM|instance|SKU|vm ?size)[^.]*(not supported|unknown|invalid|retired|not available)", re.IGNORECASE
        ),
        "choose a size that the region offers for this purpose in mlops.yaml",
    ),
)


@contextmanager
def translated(action: str) -> Iterator[None]:
    """Run calls to Azure; what they raise leaves as an :class:`~mlops.core.errors.MlopsError` that names the action."""
    from azure.ai.ml.exceptions import MlException, UserErrorException
    from azure.core import exceptions as core

    try:
        yield
    except MlopsError:
        raise
    except core.ResourceNotFoundError as error:
        raise NotFoundError(f"{action}: {explain(error)}") from error
    except core.ClientAuthenticationError as error:
        hint = "log in again (az login), or check AZURE_CLIENT_ID, AZURE_TENANT_ID and the credential's rights"
        raise AzureError(f"{action}: Azure did not accept the login: {explain(error)}", hint=hint) from error
    except core.HttpResponseError as error:
        if error.status_code in PASSING:
            raise UnavailableError(f"{action}: {explain(error)}", hint="try again") from error
        raise classified(action, explain(error)) from error
    except (core.ServiceRequestError, core.ServiceResponseError) as error:
        raise UnavailableError(
            f"{action}: no answer from Azure: {_first_line(str(error))}", hint="try again"
        ) from error
    except (core.AzureError, MlException, UserErrorException) as error:
        cause = error.__cause__ or error.__context__  # while it uploads, the SDK wraps what it was answered
        status = cause.status_code if isinstance(cause, core.HttpResponseError) else None
        if isinstance(cause, (core.ServiceRequestError, core.ServiceResponseError)) or status in PASSING:
            message = _first_line(str(cause))
            raise UnavailableError(f"{action}: no answer from Azure: {message}", hint="try again") from error
        sentence = explain(error) if isinstance(error, core.AzureError) else _first_line(str(error))
        raise classified(action, sentence) from error


def classified(action: str, message: str) -> MlopsError:
    """The error for a sentence of Azure's: a precondition where the cause is known, else Azure's refusal."""
    if BUSY.search(message):
        hint = "somebody else is changing it: look with mlops endpoint status, and try again"
        return BusyError(f"{action}: {message}", hint=hint)
    if ABSENT.search(message):
        return NotFoundError(f"{action}: {message}")
    if DENIED.search(message):
        return DeniedError(f"{action}: {message}")
    short = shortage_in(message)
    if short is not None:
        return PreconditionError(f"{action}: {short.sentence}", hint=short.hint)
    for pattern, hint in KNOWN:
        if pattern.search(message):
            return PreconditionError(f"{action}: {message}", hint=hint)
    return AzureError(f"{action}: {message}")


def explain(error: BaseException) -> str:
    """The sentence that matters in an Azure error: the innermost message, without wrappers and trace ids."""
    inner = getattr(error, "error", None)
    message = str(getattr(inner, "message", "") or getattr(error, "message", "") or error)
    details = [str(getattr(item, "message", "")) for item in (getattr(inner, "details", None) or [])]
    texts = [_unwrapped(text) for text in (message, *details) if text]
    return " ".join(dict.fromkeys(texts)) or type(error).__name__


def _unwrapped(text: str) -> str:
    """Validation errors come as JSON inside a sentence: keep the messages."""
    start = text.find('{"errors"')
    if start >= 0:
        try:
            errors = json.JSONDecoder().raw_decode(text[start:])[0]["errors"]
            return " ".join(str(item) for items in errors.values() for item in items)
        except (ValueError, KeyError, AttributeError, TypeError):
            pass
    return _first_line(text)


def _first_line(text: str) -> str:
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in text.splitlines()]
    return next((re.sub(r"^\((\w+)\)\s*", "", line) for line in lines if line), text)
