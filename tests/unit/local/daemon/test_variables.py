"""``MLOPS_LOCAL_*``: defaults, what would do, and messages that name the variable."""

from __future__ import annotations

import dataclasses
import re

import pytest

from mlops.local.daemon import variables
from mlops.local.state.config import Config
from mlops.local.state.limits import Limits
from tests.unit.local.conftest import Local, make_local


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of this process's own."""
    for field in variables.Variables.model_fields:
        monkeypatch.delenv(f"MLOPS_LOCAL_{field.upper()}", raising=False)


def test_the_defaults_are_those_of_config_and_limits() -> None:
    defaults = variables.read()
    assert defaults.config() == Config()
    assert defaults.limits() == Limits()
    assert not defaults.empty
    assert defaults.wanted_parts() == ["registry", "tracking", "jobs", "serving"]
    assert [role.name for role in defaults.login_roles()] == ["Owner", "Storage Blob Data Contributor"]


def test_values_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"ENDPOINT_S": "1.5", "QUOTAS": '{"f": 24}', "TAKEN_NAMES": "A, b", "EMPTY": "1", "PARTS": "none"}
    for name, value in {**given, "LAZY_START": "1", "WORKSPACE": "mine", "MAX_PROCESSES": "4"}.items():
        monkeypatch.setenv(f"MLOPS_LOCAL_{name}", value)
    values = variables.read()
    assert values.empty
    assert values.wanted_parts() == ["none"]
    assert values.config() == Config(endpoint_operation_s=1.5, workspace="mine", max_processes=4)
    assert values.limits() == Limits(quotas={"f": 24}, taken_names=frozenset({"a", "b"}), lazy=True)


def test_empty_counts_as_left_out_where_it_always_did(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORKSPACE", "RESOURCE_GROUP", "EMPTY", "ROLES", "PARTS", "TAKEN_NAMES"):
        monkeypatch.setenv(f"MLOPS_LOCAL_{name}", "")
    values = variables.read()
    assert (values.config(), values.empty, values.login_roles(), values.wanted_parts()) == (Config(), False, [], [])


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("ENDPOINT_S", "soon", "is 'soon': give seconds, 0 or more"),
        ("LATENCY_S", "-1", "is '-1': give seconds, 0 or more"),
        ("TOKEN_S", "nan", "is 'nan': give seconds, 0 or more"),
        ("DRAIN_S", "", "is '': give seconds, 0 or more"),
        ("QUOTA_GRANT", "1.5", "is '1.5': give a whole number, 0 or more"),
        ("EMPTY", "perhaps", "is 'perhaps': give 1 or 0"),
        ("QUOTAS", "24", "is '24': give JSON: {\"standardNCADSA100v4Family\": 24}"),
        ("QUOTAS", '{"f": "many"}', "['f'] is 'many': give JSON"),
        ("QUOTAS", "{", "is '{': Expecting property name"),
        ("ROLES", "Owner,Boss", "is 'Owner,Boss': 'Boss' is not a built-in role; give names"),
        ("PARTS", "jobs", "is 'jobs': 'jobs' needs registry; give some of registry, tracking"),
        ("PARTS", "job", "is 'job': there is no part 'job'; give some of registry"),
    ],
)
def test_a_wrong_value_names_its_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str) -> None:
    monkeypatch.setenv(f"MLOPS_LOCAL_{name}", value)
    with pytest.raises(
        variables.WrongVariable, match="^" + re.escape(f"MLOPS_LOCAL_{name}{' ' * (says[0] == 'i')}{says}")
    ):
        variables.read()


def test_all_wrong_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_LOCAL_ENDPOINT_S", "soon")
    monkeypatch.setenv("MLOPS_LOCAL_JOB_S", "late")
    with pytest.raises(variables.WrongVariable) as caught:
        variables.read()
    assert [line.split()[0] for line in str(caught.value).splitlines()] == [
        "MLOPS_LOCAL_ENDPOINT_S",
        "MLOPS_LOCAL_JOB_S",
    ]


def test_a_config_is_as_frozen_as_it_says() -> None:
    assert {type(getattr(Config(), field.name)) for field in dataclasses.fields(Config)} <= {str, int, float}
    with pytest.raises(TypeError):
        Limits().quotas["f"] = 1  # type: ignore[index]


def test_the_daemon_says_which_variable_is_wrong(bare_local: Local) -> None:
    bare_local.base["MLOPS_LOCAL_ENDPOINT_S"] = "soon"
    done = bare_local.cli("start", check=False)
    assert done.returncode == 2
    assert "MLOPS_LOCAL_ENDPOINT_S is 'soon': give seconds, 0 or more" in done.stderr
    assert "Traceback" not in done.stderr


def test_clients_are_told_what_the_daemon_was_started_with(bare_local: Local) -> None:
    bare_local.base["MLOPS_LOCAL_WORKSPACE"] = "mine"
    bare_local.start()
    other = make_local(bare_local.home, bare_local.home / "cache", MLOPS_LOCAL_WORKSPACE="other")
    assert other.start()["AZUREML_WORKSPACE_NAME"] == "mine"
