"""Rights: what a login lacks is said as that, and what needs a role on the subscription is not needed."""

from __future__ import annotations

import pytest

from mlops.azure.errors import DeniedError, classified
from mlops.azure.roles import IDS, ROLES, Permission, may
from mlops.config.settings import load_all
from mlops.setup.plan import ENDPOINT_ROLES, GITHUB_ROLES
from mlops.training import preflight

DENIED = (
    "The client 'c' with object id 'o' does not have authorization to perform action "
    "'Microsoft.MachineLearningServices/locations/vmSizes/read' over scope '/subscriptions/s' or the scope is invalid. "
    "If access was recently granted, please refresh your credentials."
)


def test_a_missing_role_is_no_wrong_machine_size() -> None:
    error = classified("list the machine sizes of the region", DENIED)
    assert isinstance(error, DeniedError)
    assert error.exit_code == 8


def test_every_size_of_the_settings_is_known_without_asking() -> None:
    targets, problems = load_all()
    assert not problems
    known = {size.name: size for size in preflight.known_sizes()}
    for settings in targets.values():
        for name in (settings.compute.size, settings.deployment.instance_type):
            assert known[name].gpus >= 1


@pytest.mark.parametrize(
    ("actions", "taken", "action", "allowed"),
    [
        (["*"], [], "Microsoft.Authorization/roleAssignments/write", True),
        (["*"], ["Microsoft.Authorization/*/Write"], "Microsoft.Authorization/roleAssignments/write", False),
        (["Microsoft.Storage/*"], [], "microsoft.storage/storageAccounts/write", True),
        (["*/read"], [], "Microsoft.Storage/storageAccounts/write", False),
    ],
)
def test_permissions_as_azure_reads_them(actions: list[str], taken: list[str], action: str, allowed: bool) -> None:
    assert may([Permission(actions=tuple(actions), not_actions=tuple(taken))], action) == allowed


def test_the_two_identities_have_what_they_need_and_nothing_more() -> None:
    assert dict(ENDPOINT_ROLES) == {"Storage Blob Data Reader": "storage", "AcrPull": "registry"}
    assert dict(GITHUB_ROLES) == {"Contributor": "group", "Storage Blob Data Contributor": "storage"}
    assert {IDS[role] for role, _ in (*ENDPOINT_ROLES, *GITHUB_ROLES)} <= set(ROLES)
