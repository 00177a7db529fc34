"""What the path of a management request names: a scope, a namespace, and types with names below them."""

from __future__ import annotations

from dataclasses import dataclass

RESOURCES = "Microsoft.Resources"
"""The namespace of what Azure's own resource manager keeps: subscriptions, groups, providers."""
MARK = "/providers/"


@dataclass(frozen=True)
class Target:
    """A path, taken apart at its last ``/providers/``, as Azure does for resources that extend another one.

    Attributes:
        path: the path with single slashes and none at its end.
        scope: what the resource lies in or extends; empty for the tenant.
        namespace: the provider, as the client wrote it.
        segments: types and names in turn; an odd number names a collection, or an action of a POST.
    """

    path: str
    scope: str
    namespace: str
    segments: tuple[str, ...]

    @classmethod
    def parse(cls, path: str, method: str) -> Target:
        """Take a path apart."""
        segments = [part for part in path.split("/") if part]
        plain = "/" + "/".join(segments)
        at = plain.lower().rfind(MARK)
        rest = segments[plain[: at + len(MARK)].count("/") - 1 :] if at >= 0 else []
        provider = len(rest) == 1 or (len(rest) == 2 and method == "POST")
        if at < 0 or (provider and plain.lower().startswith("/subscriptions/")):
            return cls(plain, "", RESOURCES, tuple(segments))
        return cls(plain, plain[:at], rest[0], tuple(rest[1:]))

    @property
    def kind(self) -> str:
        """The types alone: ``workspaces/jobs``."""
        return "/".join(self.segments[0::2])

    @property
    def is_collection(self) -> bool:
        """Whether the path ends with a type (or an action) instead of a name."""
        return len(self.segments) % 2 == 1

    @property
    def subscription(self) -> str | None:
        """The subscription that the path lies in."""
        segments = self.path.split("/")
        return segments[2] if len(segments) > 2 and segments[1].lower() == "subscriptions" else None

    @property
    def group(self) -> str | None:
        """The resource group that the path lies in."""
        segments = self.path.split("/")
        return segments[4] if len(segments) > 4 and segments[3].lower() == "resourcegroups" else None

    @property
    def container(self) -> str:
        """The scope in which a list is asked for: the path without its last type."""
        if self.segments[0].lower() == "locations":
            return self.scope or "/"
        if len(self.segments) == 1 and self.namespace != RESOURCES:
            return self.scope or "/"
        return self.path.rsplit("/", 1)[0] or "/"
