"""No control plane without authorization: it is given explicitly, and nobody without a role comes in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from mlops.local.arm.app import ControlPlane
from mlops.local.arm.roles import BUILT_IN
from mlops.local.daemon.catalogue import resource_types
from mlops.local.daemon.services import Services, build
from mlops.local.entra.credentials import Credentials
from mlops.local.state.config import Config
from mlops.local.state.layout import Layout
from mlops.local.state.limits import Limits
from mlops.local.state.workspace import Workspace

STRANGER = "00000000-0000-4000-8000-0000000000ff"


@pytest.fixture
def services(tmp_path: Path) -> Services:
    layout, config = Layout(root=tmp_path / "state", cache=tmp_path / "cache"), Config()
    return build(Workspace.open(layout, config), Credentials.load(layout, config), Limits())


async def ask(control: ControlPlane, path: str, oid: str) -> httpx.Response:
    """GET as a caller whose token was checked."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        response = await control.answer(Request(scope, receive), caller="tester", oid=oid)
        await response(scope, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
        return await client.get(f"https://management.azure.com{path}?api-version=2023-04-01")


def test_no_control_plane_without_authorization(services: Services) -> None:
    build_without: Callable[..., ControlPlane] = ControlPlane
    with pytest.raises(TypeError, match="authorization"):
        build_without(services.workspace, resource_types(services))


def test_no_service_has_a_default() -> None:
    assert [field.name for field in dataclasses.fields(Services) if field.default is not dataclasses.MISSING] == []


async def test_a_caller_without_a_role_is_refused_on_every_level(services: Services) -> None:
    types = resource_types(services)
    control = ControlPlane(services.workspace, types, services.subscription)
    services.subscription.grant(next(role for role in BUILT_IN if role.name == "Reader"))
    services.subscription.seed_group()
    workspace, group = services.workspace.config.workspace_id, services.workspace.config.group_id
    paths = (group, workspace, f"{workspace}/onlineEndpoints", f"{workspace}/jobs", f"{workspace}/models")
    for path in paths:
        answer = await ask(control, path, STRANGER)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "AuthorizationFailed"), path
    assert (await ask(control, group, Credentials.load(services.workspace.layout, Config()).object_id)).is_success
