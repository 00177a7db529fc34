"""Signatures of the blob service: the account key on a request, and shared access signatures in a url.

Sources: "Authorize with Shared Key", "Create a service SAS", "Create an account SAS" and "Create a user delegation SAS"
in the Azure Storage REST reference.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, unquote

VERSION = "2021-12-02"
"""The version that this workspace signs its own signatures with."""

SIGNED_HEADERS = (
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
)
OVERRIDES = {
    "rscc": "Cache-Control",
    "rscd": "Content-Disposition",
    "rsce": "Content-Encoding",
    "rscl": "Content-Language",
    "rsct": "Content-Type",
}
"""What a signature may say of the answer's headers."""


class Forbidden(Exception):
    """A signature that does not open this; ``code`` is Azure's error code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, kw_only=True)
class Access:
    """What a request wants: which permission (any of the letters) on which blob or container."""

    account: str
    container: str
    name: str
    permissions: str

    @property
    def level(self) -> str:
        """The account SAS's letter for the kind of resource: service, container or object."""
        return "o" if self.name else ("c" if self.container else "s")


def sign(key: str, text: str) -> str:
    """HMAC-SHA256 under a base64 key, in base64."""
    digest = hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()
    return base64.b64encode(digest).decode()


def _same(left: str, right: str) -> bool:
    return hmac.compare_digest(left.encode(), right.encode())


# -- the account key -----------------------------------------------------------------------------------------------


def check_shared_key(
    authorization: str,
    *,
    key: str,
    account: str,
    method: str,
    raw_path: str,
    query: Sequence[tuple[str, str]],
    headers: Mapping[str, str],
) -> None:
    """Check ``SharedKey account:signature``; raises :class:`Forbidden`."""
    _, _, pair = authorization.partition(" ")
    name, _, signature = pair.partition(":")
    length = headers.get("content-length", "")
    signed = [
        ("" if length == "0" else length) if header == "content-length" else headers.get(header, "")
        for header in SIGNED_HEADERS
    ]
    own = [(header, value) for header, value in headers.items() if header.startswith("x-ms-")]
    grouped: dict[str, list[str]] = {}
    for parameter, value in query:
        grouped.setdefault(parameter.lower(), []).append(value)
    resource = f"/{account}{raw_path}"
    resource += "".join(f"\n{parameter}:{','.join(sorted(grouped[parameter]))}" for parameter in sorted(grouped))
    # The service sorts header names by its own collation, in which a dash counts last; libraries differ in it.
    for order in (lambda pair: pair[0], lambda pair: _collated(pair[0])):
        lines = "".join(f"{header}:{value.strip()}\n" for header, value in sorted(own, key=order))
        if name == account and _same(sign(key, "\n".join([method, *signed]) + "\n" + lines + resource), signature):
            return
    message = "The MAC signature found in the HTTP request is not the same as any computed signature."
    raise Forbidden("AuthenticationFailed", message)


def _collated(name: str) -> tuple[list[tuple[int, str]], str]:
    def weight(letter: str) -> tuple[int, str]:
        return (2 if letter.isalpha() else 1 if letter.isdigit() else 0, letter)

    return [weight(letter) for letter in name.replace("-", "")], name


# -- shared access signatures --------------------------------------------------------------------------------------


def service_sas(*, key: str, account: str, container: str, name: str = "", permissions: str, lifetime_s: float) -> str:
    """A query string that opens a blob, or a whole container where ``name`` is empty."""
    begin = datetime.now(UTC)
    values = {
        "sv": VERSION,
        "sp": permissions,
        "st": _stamp(begin - timedelta(minutes=5)),
        "se": _stamp(begin + timedelta(seconds=lifetime_s)),
        "spr": "https",
        "sr": "b" if name else "c",
    }
    access = Access(account=account, container=container, name=name, permissions=permissions)
    values["sig"] = sign(key, _service_texts(values, access)[0])
    return "&".join(f"{parameter}={quote(value, safe='')}" for parameter, value in values.items())


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def delegation_key(key: str, fields: Sequence[str]) -> str:
    """The value of a user delegation key: derived from what it says, so that it need not be kept."""
    return sign(key, "delegation\n" + "\n".join(fields))


def check_sas(query: Mapping[str, str], access: Access, *, key: str) -> None:
    """Check a signature's validity, times, resource and permissions; raises :class:`Forbidden`."""
    account_wide = "ss" in query
    texts = [_account_text(query, access.account)] if account_wide else _service_texts(query, access)
    if "skoid" in query:
        key = delegation_key(key, [query.get(name, "") for name in ("skoid", "sktid", "skt", "ske", "sks", "skv")])
    if not any(_same(sign(key, text), query["sig"]) for text in texts):
        raise Forbidden("AuthenticationFailed", "Signature did not match.")
    now = datetime.now(UTC)
    for name in ("st", "se", "ske"):
        if query.get(name) and (_moment(query[name]) > now) == (name == "st"):
            raise Forbidden("AuthenticationFailed", f"Signature not valid in the specified time frame ({name}).")
    if not query.get("se"):
        raise Forbidden("AuthenticationFailed", "The signature has no expiry (stored access policies are not kept).")
    if query.get("sip") and not _from_here(query["sip"]):
        raise Forbidden("AuthorizationSourceIPMismatch", "This source address is not authorized.")
    if account_wide and "b" not in query["ss"]:
        raise Forbidden("AuthorizationServiceMismatch", "The signature is not for the blob service.")
    if account_wide and access.level not in query.get("srt", ""):
        raise Forbidden("AuthorizationResourceTypeMismatch", "The signature is not for this type of resource.")
    if not account_wide and query.get("sr") in ("b", "d") and not access.name:
        raise Forbidden("AuthorizationFailure", "The signature is for a blob, not for its container.")
    if not set(access.permissions) & set(query.get("sp", "")):
        message = "This request is not authorized to perform this operation using this permission."
        raise Forbidden("AuthorizationPermissionMismatch", message)


def _service_texts(query: Mapping[str, str], access: Access) -> list[str]:
    """The texts that a service or user delegation SAS may have signed; they differ by version."""

    def of(*names: str) -> list[str]:
        return [query.get(name, "") for name in names]

    kind = query.get("sr", "")
    if not access.container or kind not in ("b", "c", "d"):
        return []
    resource = f"/blob/{access.account}/{access.container}"
    if kind == "b":
        resource += f"/{access.name}"
    elif kind == "d":
        depth = int(query["sdd"]) if query.get("sdd", "").isdigit() else 0
        resource += "/" + "/".join(access.name.split("/")[:depth])
    head = [*of("sp", "st", "se"), resource]
    tail = of("rscc", "rscd", "rsce", "rscl", "rsct")
    if "skoid" in query:
        owner = [*of("skoid", "sktid", "skt", "ske", "sks", "skv", "saoid", "suoid", "scid")]
        middles = [[*owner, *of("skdutid", "sduoid")], owner]
    else:
        middles = [of("si")]
    texts = []
    for middle in middles:
        for scope in (of("ses"), []):
            texts.append("\n".join([*head, *middle, *of("sip", "spr", "sv", "sr"), "", *scope, *tail]))
    return texts


def _account_text(query: Mapping[str, str], account: str) -> str:
    names = ["sp", "ss", "srt", "st", "se", "sip", "spr", "sv"]
    if query.get("sv", "") >= "2020-12-06":
        names.append("ses")
    return "\n".join([account, *(query.get(name, "") for name in names)]) + "\n"


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(unquote(text))
    except ValueError as error:
        raise Forbidden("AuthenticationFailed", f"'{text}' is not a time.") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _from_here(allowed: str) -> bool:
    first, _, last = allowed.partition("-")
    try:
        here = ipaddress.ip_address("127.0.0.1")
        return ipaddress.ip_address(first) <= here <= ipaddress.ip_address(last or first)  # type: ignore[operator]
    except (ValueError, TypeError):
        return False
