from __future__ import annotations

from pathlib import Path

import pytest

from mlops.config.settings import Settings, find_file, load
from mlops.core.errors import UsageError
from tests.support.checkout import ROOT


def write(folder: Path, old: str, new: str) -> Path:
    text = (ROOT / "mlops.yaml").read_text(encoding="utf-8")
    assert old in text
    path = folder / "mlops.yaml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return path


@pytest.mark.parametrize("target", ["local", "staging", "production"])
def test_every_target_of_the_shipped_file_is_valid(target: str) -> None:
    settings = load(target, ROOT / "mlops.yaml")

    assert settings.target == target
    assert settings.is_local == (target == "local")
    assert settings.experiment == "chat_completion_Phi-3-mini-4k-instruct"


def test_the_tutorials_values_hold_for_azure() -> None:
    settings = load("staging", ROOT / "mlops.yaml")

    assert settings.data.dataset == "HuggingFaceH4/ultrachat_200k"
    assert settings.data.percent == 5
    assert settings.compute.size == "Standard_NC24ads_A100_v4"
    assert (settings.compute.tier, settings.compute.max_nodes, settings.compute.idle_s) == ("Dedicated", 1, 120)
    assert settings.compute.max_nodes_low_priority == 2
    assert settings.deployment.request_timeout_ms == 90_000
    assert settings.deployment.liveness_initial_delay_s is None  # by the size of the model, not 600 s for all
    parameters = settings.training.parameters
    assert (parameters["num_train_epochs"], parameters["learning_rate"]) == (3, 5e-6)
    assert (parameters["apply_lora"], parameters["apply_deepspeed"], parameters["deepspeed_stage"]) == (True, True, 2)


def test_a_targets_value_overrides_the_default_one_and_no_other() -> None:
    local, staging = (load(name, ROOT / "mlops.yaml") for name in ("local", "staging"))

    assert local.training.parameters["learning_rate"] == 7e-3
    assert local.training.parameters["lr_scheduler_type"] == staging.training.parameters["lr_scheduler_type"]
    assert local.deployment.instance_type == staging.deployment.instance_type


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    concurrency: 4", "    concurency: 4", "did you mean 'concurrency'"),
        ("    concurrency: 4", "    concurrency: 400", "'gate.concurrency' is '400'"),
        ("    steps: [10, 50, 100]", "    steps: [10, 50]", "must rise and end at 100"),
        (
            "  endpoint:\n    name: ultrachat-completion",
            "  endpoint:\n    name: 9-ultrachat",
            "'endpoint.name' is '9-ultrachat'",
        ),
        ("    tier: Dedicated", "    tier: Spot", "'compute.tier' is 'Spot'"),
    ],
)
def test_a_wrong_value_is_named_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = write(tmp_path, old, new)
    text = new.splitlines()[-1].strip().split(" #")[0]

    with pytest.raises(UsageError) as caught:
        load("production", path)

    assert message in caught.value.message
    location = caught.value.location
    assert location is not None
    assert location.line is not None
    assert text in path.read_text(encoding="utf-8").splitlines()[location.line - 1]


def test_an_unknown_target_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UsageError) as caught:
        load("prodction", ROOT / "mlops.yaml")

    assert "'prodction'" in caught.value.message
    assert "production" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("defaults: {", None),
        ("defaults:\n  data: [\n", None),
        ("targets:\n  local: {}\n  local: {}\n", 3),
        ("- a\n", None),
    ],
)
def test_a_broken_file_is_an_error_of_use(tmp_path: Path, text: str, line: int | None) -> None:
    path = tmp_path / "mlops.yaml"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(UsageError) as caught:
        load("local", path)

    if line is not None:
        assert caught.value.location is not None
        assert caught.value.location.line == line


def test_a_missing_section_says_which(tmp_path: Path) -> None:
    path = tmp_path / "mlops.yaml"
    path.write_text("targets:\n  local: {}\n", encoding="utf-8")

    with pytest.raises(UsageError, match="'data' is missing"):
        load("local", path)


def test_the_file_is_found_from_a_folder_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLOPS_SETTINGS", raising=False)
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (tmp_path / "mlops.yaml").write_text("targets: {}\n", encoding="utf-8")

    assert find_file(below) == tmp_path / "mlops.yaml"


def test_settings_cannot_be_changed() -> None:
    settings = load("local", ROOT / "mlops.yaml")

    with pytest.raises(ValueError, match="frozen"):
        settings.target = "production"
    assert isinstance(settings, Settings)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("defaults: [1]\ntargets: {local: {}}", "'defaults' is '\\[1\\]'"),
        ("targets: {local: [1]}", "'targets.local' is '\\[1\\]'"),
        ("targets:\n  local: {root: /x}", "unknown key 'root'"),
        ("targets:\n  local: {1: 2}", "unknown key '1'"),
        ("targets:\n  local: {gaet: {}}", "did you mean 'gate'"),
        ("targets: {local: hello}", "'targets.local' is 'hello'"),
    ],
)
def test_sections_of_an_odd_shape_are_explained(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "mlops.yaml"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(UsageError, match=says):
        load("local", path)
