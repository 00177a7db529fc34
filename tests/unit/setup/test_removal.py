"""What a deletion spares: another target's workspace beside it, and what is not setup's to take."""

from __future__ import annotations

from dataclasses import replace

from mlops.azure.groups import GroupResource
from mlops.azure.roles import Assignment
from mlops.setup.removal import belongs, own_roles
from tests.unit.setup.subscription import SUBJECT, Subscription


def test_the_workspace_of_another_target_in_the_same_group_stays_with_all_that_it_uses(fresh: Subscription) -> None:
    fresh.made()
    before = {item["id"] for item in fresh.resources()}
    subject = SUBJECT.replace("staging", "production")
    other = {"AZUREML_WORKSPACE_NAME": "other"}
    done = fresh.setup(
        "--yes", "--no-request-quota", "--subject", f"production={subject}", target="production", env=other
    )
    assert "workspace other" in done.document["made"], done.log
    outcome = fresh.setup("--delete", "--dry-run", target="production", env=other)
    assert "workspace other" in outcome.document["delete"]
    assert "workspace local" not in outcome.document["delete"]
    removed = fresh.setup("--delete", "--yes", target="production", env=other)
    assert removed.code == 0, removed.log
    assert not removed.document["group_deleted"]
    assert {item["id"] for item in fresh.resources()} == before
    assert any(line.startswith("identity mlops-github: ") and "local" in line for line in removed.document["left"])
    assert fresh.made().document["made"] == []
    assert fresh.setup("--delete", "--yes").document["group_deleted"]


def test_what_azure_made_beside_the_insights_goes_with_them() -> None:
    ours = GroupResource(id="/i", name="chat-insights", type="Microsoft.Insights/components")
    theirs = GroupResource(id="/j", name="their-insights", type="Microsoft.Insights/components")
    kind = "microsoft.alertsmanagement/smartDetectorAlertRules"
    rule = GroupResource(id="/r", name="Failure Anomalies - chat-insights", type=kind)
    actions = GroupResource(
        id="/a", name="Application Insights Smart Detection", type="microsoft.insights/actiongroups"
    )
    own = replace(actions, name="on-call")

    assert [belongs(each, [ours], [ours, rule, actions, own]) for each in (rule, actions, own)] == [True, True, False]
    assert [belongs(each, [ours], [ours, theirs, rule, actions]) for each in (rule, actions)] == [True, False]
    assert not any(belongs(each, [], [ours, rule, actions]) for each in (rule, actions))


def test_roles_of_a_group_that_an_identity_is_in_are_not_its_own() -> None:
    group = "/subscriptions/s/resourceGroups/chat"

    def assignment(name: str, scope: str, principal: str) -> Assignment:
        return Assignment(id=name, role="Reader", scope=scope, principal=principal)

    assignments = [
        assignment("own", f"{group}/providers/x/y/z", "identity"),
        assignment("of-its-team", group, "team"),
        assignment("above", "/subscriptions/s", "identity"),
        assignment("beside", f"{group}-2", "identity"),
        assignment("on-the-group", group.upper(), "identity"),
    ]
    assert own_roles(assignments, "identity", group) == ["own", "on-the-group"]
