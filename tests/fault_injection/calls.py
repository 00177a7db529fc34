"""The calls of one clean rollout, as places where a fault can strike: each is named so that it is found again.

A place is a kind of call (method, service, path with its names taken out) and when it comes: the n-th since the k-th
call of another kind that changed something. So the number of polls in between, which differs from run to run, does not
matter.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WORKSPACE = re.compile(r"^/subscriptions/.*?/workspaces/local", re.IGNORECASE)
GUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
PARTS = {
    "{slot}": "(?:blue|green)",
    "{number}": "[0-9]+",
    "{hash}": "[0-9a-f]{32,64}",
    "{id}": GUID,
}
"""What stands for a name, and the pattern that finds any such name."""
HOSTS = {
    "login": r"^login\.microsoftonline\.com$",
    "arm": r"^management\.azure\.com$",
    "api": r"\.api\.azureml\.ms$|^ml\.azure\.com$",
    "blob": r"\.blob\.core\.windows\.net$",
}


NAMES = (
    (r"^/?$", "workspace"),
    (r"/deployments/\{slot\}/getLogs$", "logs"),
    (r"/deployments/\{slot\}$", "deployment"),
    (r"/deployments$", "deployments"),
    (r"/onlineEndpoints/\{e\}/listKeys$", "keys"),
    (r"/onlineEndpoints/\{e\}$", "endpoint"),
    (r"^/operation/oe$", "operation of the endpoint"),
    (r"^/operation/od$", "operation of the deployment"),
    (r"/mlops/endpoints/\{e\}\.jsonl$", "ledger"),
    (r"/mlops/endpoints/\{e\}\.copy\.jsonl$", "copy of the ledger"),
    (r"^/models/\w+/versions/\{number\}$", "model version"),
    (r"^/models/\w+/versions$", "model versions"),
    (r"^/codes/.*/startPendingUpload$", "place for the code"),
    (r"^/codes/.*/\{number\}$", "code version"),
    (r"^/codes/", "code versions"),
    (r"^/environments/", "environment"),
    (r"/listSecrets$", "secret of the datastore"),
    (r"^/datastores", "datastore"),
    (r"/usages$", "quota"),
    (r"^/upload-", "code file"),
    (r"/LocalUpload/", "files of the environment"),
    (r"/az-ml-artifacts/", "older files of the environment"),
    (r"/vmSizes$", "sizes"),
    (r"^/azureml-blobstore-\{id\}$", "list of the model's files"),
)
"""What people call what is behind a path."""


@dataclass(frozen=True)
class Kind:
    """A kind of call; ``path`` holds ``{e}`` for the endpoint and the keys of PARTS."""

    method: str
    service: str
    path: str
    query: str = ""

    @classmethod
    def of(cls, entry: Mapping[str, Any], endpoint: str) -> Kind:
        """From an entry of the trace."""
        host, path = entry["host"], entry["path"]
        if host.startswith(f"{endpoint}."):
            return cls(entry["method"], "score", "/score")
        service = next((name for name, pattern in HOSTS.items() if re.search(pattern, host)), host)
        path = WORKSPACE.sub("", path)
        path = re.sub(r"^/subscriptions/.*/mfeOperationsStatus/(o[ed]).*$", r"/operation/\1", path)
        path = re.sub(GUID, "{id}", path.replace(endpoint, "{e}"))
        path = re.sub(r"(?<=[/-])[0-9a-f]{32,64}(?=/|$)", "{hash}", path)
        path = re.sub(r"(?<=/deployments/)(blue|green)\b", "{slot}", path)
        path = re.sub(r"(?<=/versions/)\d+$", "{number}", path)
        comp = re.search(r"\bcomp=(\w+)", entry["query"])
        return cls(entry["method"], service, path, comp[1] if comp and service == "blob" else "")

    @property
    def polls(self) -> bool:
        """Whether it only asks how far an operation is."""
        return self.path.startswith("/operation/")

    @property
    def changes(self) -> bool:
        """Whether it changes something; a lease does not, as its renewals come with time."""
        quiet = self.service in ("login", "score") or self.query == "lease"
        reads = self.path.endswith(("/listKeys", "/listSecrets", "/getLogs", "/startPendingUpload"))
        return self.method not in ("GET", "HEAD") and not quiet and not reads

    @property
    def operation(self) -> str:
        """The kind of long-running operation that it starts."""
        if self.service != "arm" or self.method != "PUT":
            return ""
        return {
            "onlineEndpoints/{e}": "endpoint.write",
            "onlineEndpoints/{e}/deployments/{slot}": "deployment.write",
        }.get(self.path.strip("/"), "")

    def match(self, endpoint: str, agent: str) -> dict[str, str]:
        """The pattern that a rule needs to find it, of one command on one endpoint."""
        rule = {"method": f"^{self.method}$"}
        if self.service == "score":
            return {**rule, "host": f"^{re.escape(endpoint)}\\."}
        if self.polls:
            path = f"/mfeOperationsStatus/{self.path[-2:]}"
        else:
            path = re.escape(self.path)
            for name, pattern in {**PARTS, "{e}": re.escape(endpoint)}.items():
                path = path.replace(re.escape(name), pattern)
            path = f"(?:^|/workspaces/local){path}$"
        return {
            **rule,
            "host": HOSTS[self.service],
            "path": path,
            "agent": re.escape(agent),
            **({"query": f"\\bcomp={self.query}\\b"} if self.query else {}),
        }

    def __str__(self) -> str:
        if self.service in ("score", "login"):
            return f"{self.method} {self.service}"
        if self.query == "lease":
            return "lease of the ledger"
        name = next((name for pattern, name in NAMES if re.search(pattern, self.path)), self.path)
        if self.query == "appendblock":
            return "append to the ledger"
        return f"{self.method} {'metadata of the ' if self.query == 'metadata' else ''}{name}"


@dataclass(frozen=True)
class CallPoint:
    """One call of a rollout: the ``nth`` of its kind since the ``since_nth`` of another."""

    kind: Kind
    nth: int
    since: Kind | None
    since_nth: int
    total: int
    """Which of all of its kind it is."""
    stage: str = ""
    """What the ledger said last."""

    def __str__(self) -> str:
        since = f"after {self.since}" if self.since and self.since.query != "appendblock" else ""
        stage = ", ".join(filter(None, (self.stage, since)))
        which = f" ({self.nth})" if self.nth > 1 else ""
        return f"{stage or 'at first'}: {self.kind}{which}"

    def rule(self, endpoint: str, agent: str) -> dict[str, Any]:
        """The part of a fault rule that says where."""
        rule: dict[str, Any] = {"match": self.kind.match(endpoint, agent), "skip": self.nth - 1}
        if self.since is not None:
            rule |= {"since": self.since.match(endpoint, agent), "since_count": self.since_nth}
        return rule


def call_points(
    trace: Iterable[Mapping[str, Any]], endpoint: str, agent: str, stages: Sequence[str] = ()
) -> list[CallPoint]:
    """Every call of the command that bears the agent's name, and of its requests to the endpoint.

    ``stages`` says in a word what each append to the ledger is. Of polls only the first after each change is a place,
    of requests to the model the first and one in the middle.
    """
    ours = [entry for entry in trace if agent in entry["agent"] or entry["host"].startswith(f"{endpoint}.")]
    kinds = [Kind.of(entry, endpoint) for entry in ours]
    total: Counter[Kind] = Counter()
    here: Counter[Kind] = Counter()
    points: list[CallPoint] = []
    since: Kind | None = None
    appended = 0
    for kind in kinds:
        here[kind] += 1
        total[kind] += 1
        if not kind.polls or here[kind] == 1:
            before = total[since] - (since == kind) if since else 0
            stage = stages[min(appended, len(stages)) - 1] if appended and stages else ""
            points.append(CallPoint(kind, here[kind], since, before, total[kind], stage))
        appended += kind.query == "appendblock"
        if kind.changes:
            since, here = kind, Counter()
    return _thinned(points)


def _thinned(points: list[CallPoint]) -> list[CallPoint]:
    """Of a run of requests to the model the first and one in the middle; how many there are differs from run to run."""
    sample, scores = [], Counter((point.since, point.since_nth) for point in points if point.kind.service == "score")
    for point in points:
        count = scores[(point.since, point.since_nth)]
        if point.kind.service != "score" or point.nth in (1, min(count // 2 + 1, 8)):
            sample.append(point)
    return sample
