"""An empty subscription of the local workspace, `mlops setup` as processes of their own, and the owner's eyes."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from tests.fault_injection.workspace import Command, Done, can_start
from tests.support.checkout import ROOT
from tests.support.waiting import HANG_S, until

MANAGEMENT = "https://management.azure.com"
SHORT = {
    "RETRY_AFTER_S": "0.05",
    "ENDPOINT_S": "0.05",
    "DEPLOYMENT_S": "0.05",
    "COMPUTE_S": "0.05",
    "DELETE_S": "0.05",
    "RESOURCE_S": "0.05",
    "PRINCIPAL_S": "0.3",
    "PARTS": "registry,jobs,serving",
    "EMPTY": "1",
}
NEEDED = [
    "azure.mgmt.resource.resources",
    "azure.mgmt.msi.v2024_11_30.models",
    "azure.mgmt.quota",
    "mlops.cli.setup",
    "azure.mgmt.authorization.v2022_04_01.models",
    "mlops.setup.apply",
    "mlops.setup.removal",
    "mlops.setup.github_variables",
]
"""What commands need beside what a rollout does; imported once, before they are forked."""
SUBJECT = "repo:octo@11/chat@22:environment:staging"
CHANGES = ("PUT", "PATCH", "POST", "DELETE")
PASSING = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\d{4}-\d\d-\d\dT[\d:.+]+Z?", re.I)


@dataclass
class Outcome:
    """How a command ended."""

    code: int | None
    log: str

    @property
    def document(self) -> Any:
        """What it printed on stdout with --json."""
        start = self.log.index("\n{\n") if not self.log.startswith("{\n") else -1
        return json.JSONDecoder().raw_decode(self.log[start + 1 :])[0]

    def line(self, title: str) -> dict[str, str]:
        """A part of the plan, by how its title begins."""
        lines = self.document["parts"]
        return next(part for part in lines if f"{part['what']} {part['name']}".strip().startswith(title))


class Subscription:
    """The daemon, and the process that forks commands."""

    def __init__(self, folder: Path, cache: Path, **settings: str) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._socket = folder / "z"
        base = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        base |= {"MLOPS_HOME": str(folder / "home"), "MLOPS_CACHE": str(cache)}
        base |= {f"MLOPS_LOCAL_{name}": value for name, value in {**SHORT, **settings}.items()}
        self._base = base
        self._numbers = iter(range(1, 1_000_000))

    # -- life ----------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Start everything."""
        command = [sys.executable, "-m", "mlops.local.daemon", "ensure"]
        done = subprocess.run(command, cwd=ROOT, env=self._base, capture_output=True, text=True, check=True)
        variables: dict[str, str | None] = json.loads(done.stdout)["env"]
        self.env = {**self._base, **{name: value for name, value in variables.items() if value is not None}}
        for name in [name for name, value in variables.items() if value is None]:
            self.env.pop(name, None)
        own = str(self.folder / "home" / "local" / "tls" / "ca.pem")  # without the public roots: it is read often
        self.env |= dict.fromkeys(("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE"), own)
        self._forkserver = subprocess.Popen(
            [sys.executable, "-m", "tests.fault_injection.forkserver", str(self._socket), str(os.getpid())],
            cwd=ROOT,
            env=self.env,
        )
        trust = ssl.create_default_context(cafile=own)
        self.http = httpx.Client(proxy=self.env["HTTPS_PROXY"], verify=trust, timeout=HANG_S, trust_env=False)
        self._admin = json.loads((self.folder / "home" / "local" / "credentials.json").read_text())["admin_token"]
        tenant = f"https://login.microsoftonline.com/{self.env['AZURE_TENANT_ID']}/oauth2/v2.0/token"
        body = {
            "grant_type": "client_credentials",
            "client_id": self.env["AZURE_CLIENT_ID"],
            "client_secret": self.env["AZURE_CLIENT_SECRET"],
            "scope": f"{MANAGEMENT}/.default",
        }
        self._bearer = {"Authorization": f"Bearer {self.http.post(tenant, data=body).json()['access_token']}"}
        until(lambda: can_start(self._forkserver, self._socket), what="the process that starts commands")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(str(self._socket))
            connection.sendall(json.dumps({"import": NEEDED}).encode() + b"\n")
            connection.makefile("rb").readline()

    def close(self) -> None:
        """Leave nothing behind that runs."""
        self.http.close()
        self._forkserver.kill()
        self._forkserver.wait()
        code = "from mlops.local.daemon import client; client.stop()"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=self._base, check=True)

    # -- commands ------------------------------------------------------------------------------------------------------

    def command(
        self, *arguments: str, target: str = "staging", env: Mapping[str, str] | None = None, as_json: bool = True
    ) -> Command:
        """`mlops setup`, waiting to be started."""
        number = next(self._numbers)
        log = self.folder / f"{number}.log"
        argv = ["setup", "-t", target, "--repository", "octo/chat", *(["--json"] if as_json else []), *arguments]
        environment = {"MLOPS_SETTINGS": str(ROOT / "mlops.yaml"), "COLUMNS": "120", **(env or {})}
        return Command(self._socket, {"argv": argv, "env": environment, "log": str(log)})

    def setup(self, *arguments: str, target: str = "staging", env: Mapping[str, str] | None = None) -> Outcome:
        """`mlops setup` from beginning to end."""
        done: Done = self.command(*arguments, target=target, env=env).finish()
        return Outcome(done.code, done.log)

    def setup_text(self, *arguments: str) -> str:
        """What it says to people."""
        command = self.command(*arguments, as_json=False)
        done: Done = command.finish()
        assert done.code == 0, done.log
        return done.log

    def made(self, *arguments: str) -> Outcome:
        """A setup that must succeed; GitHub's answer is given."""
        done = self.setup("--yes", "--subject", f"staging={SUBJECT}", *arguments)
        assert done.code == 0, done.log
        return done

    # -- eyes ----------------------------------------------------------------------------------------------------------

    def arm(self, method: str, path: str, body: Any = None, api: str = "2024-10-01") -> httpx.Response:
        """A call of Azure's management, as the owner."""
        joint = "&" if "?" in path else "?"
        url = f"{MANAGEMENT}{path}{joint}api-version={api}"
        return self.http.request(method, url, json=body, headers=self._bearer)

    def is_gone(self, path: str) -> bool:
        """Whether there is no such resource."""
        return self.arm("GET", path).status_code == 404

    def local(self, method: str, path: str, body: Any = None) -> Any:
        """One of the local workspace's own routes."""
        headers = {"Authorization": f"Bearer {self._admin}"}
        answer = self.http.request(method, f"{MANAGEMENT}/__local/{path}", json=body, headers=headers)
        answer.raise_for_status()
        return answer.json()

    def record(self) -> None:
        """From now on, requests are written down."""
        self.local("POST", "requests", {"record": False})
        self.local("POST", "requests", {"record": True})

    def trace(self) -> list[dict[str, Any]]:
        """The requests to Azure's management since then."""
        self.local("POST", "requests", {"record": False})
        requests = self.local("GET", "requests")
        return [each for each in requests if "management.azure" in each["host"] and "/__local/" not in each["path"]]

    def changes(self) -> list[str]:
        """Those that could change something."""
        return [f"{each['method']} {each['path']}" for each in self.trace() if each["method"] in CHANGES]

    @property
    def root(self) -> str:
        """ARM id of the subscription."""
        return f"/subscriptions/{self.env['AZURE_SUBSCRIPTION_ID']}"

    @property
    def group(self) -> str:
        """ARM id of the group."""
        return f"{self.root}/resourceGroups/{self.env['AZURE_RESOURCE_GROUP']}"

    def resources(self) -> list[dict[str, Any]]:
        """What is in the group."""
        answer = self.arm("GET", f"{self.group}/resources")
        items = answer.json()["value"] if answer.status_code == 200 else []
        return [item for item in items if "/microsoft.authorization/" not in item["id"].lower()]

    def state(self) -> dict[str, Any]:
        """All that setup decides, without what differs from one creation to the next."""
        paths = [item["id"] for item in self.resources()]
        documents: dict[str, Any] = {self.group: self.arm("GET", self.group).json()}
        for path in paths:
            documents[path] = self.arm("GET", path).json()
            if "userAssignedIdentities" in path:
                documents[f"{path}/f"] = self.arm("GET", f"{path}/federatedIdentityCredentials").json()
            if path.endswith(f"workspaces/{self.env['AZUREML_WORKSPACE_NAME']}"):
                documents[f"{path}/c"] = self.arm("GET", f"{path}/computes").json()
        listed = self.arm("GET", f"{self.group}/providers/Microsoft.Authorization/roleAssignments", api="2022-04-01")
        assigned = sorted(
            f"{item['properties']['roleDefinitionId'].rsplit('/', 1)[-1]} at {item['properties']['scope']}"
            for item in listed.json()["value"]
        )
        return {path: _lasting(body) for path, body in sorted(documents.items())} | {"roles": assigned}

    def empty(self) -> None:
        """Take everything away, providers included, as it was at first."""
        self.local("DELETE", "faults")
        listed = self.arm("GET", f"{self.root}/providers/Microsoft.Authorization/roleAssignments", api="2022-04-01")
        for item in listed.json()["value"]:
            if self.group.lower() in item["id"].lower():
                self.arm("DELETE", item["id"], api="2022-04-01")
        if self.arm("GET", self.group).status_code == 200:
            self.arm("DELETE", self.group)
            until(partial(self.is_gone, self.group))
        for vault in self.arm("GET", f"{self.root}/providers/Microsoft.KeyVault/deletedVaults").json()["value"]:
            self.arm("POST", f"{vault['id']}/purge")
            until(partial(self.is_gone, vault["id"]))
        for provider in self.arm("GET", f"{self.root}/providers").json()["value"]:
            if (
                provider["registrationState"] != "NotRegistered"
                and provider["registrationPolicy"] != "RegistrationFree"
            ):
                self.arm("POST", f"{provider['id']}/unregister")


def _lasting(body: Any) -> Any:
    """A document without times, and with every id that Azure makes up replaced."""
    if isinstance(body, dict):
        dropped = ("systemData", "etag", "ConnectionString", "creationTime", "modifiedTime")
        return {key: _lasting(value) for key, value in sorted(body.items()) if key not in dropped}
    if isinstance(body, list):
        return [_lasting(item) for item in body]
    return PASSING.sub("…", body) if isinstance(body, str) else body
