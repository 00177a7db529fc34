from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.training import display_name, folder_hash, literal, resolve_parameters, truth

values = st.one_of(st.integers(), st.booleans(), st.sampled_from(["cosine", "linear", "true"]))
parameters = st.dictionaries(st.sampled_from(["a", "b", "learning_rate", "apply_lora"]), values)


@given(parameters, parameters)
def test_a_users_setting_beats_the_models_default_which_beats_ours(
    wanted: dict[str, object], model: dict[str, object]
) -> None:
    found = {item.name: item for item in resolve_parameters(wanted, model)}

    for name, item in found.items():
        source = "setting" if name in wanted else "model" if name in model else "default"
        assert item.source == source
        assert name not in wanted or item.value == wanted[name]
        assert name in wanted or name not in model or item.value == model[name]
    assert set(wanted) | set(model) <= set(found)


def test_the_display_name_is_the_tutorials() -> None:
    values = {
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 2,
        "lr_scheduler_type": "cosine",
        "apply_deepspeed": "true",
        "deepspeed_stage": 2,
        "apply_lora": True,
        "save_total_limit": 1,
        "max_seq_length": -1,
    }

    name = display_name("Phi-3-mini-4k-instruct", values, gpus_per_node=4, nodes=2)

    assert name == "Phi-3-mini-4k-instruct-ultrachat-bs16-cosine-ds2-lora-save_limit1-seqlen-1"


def test_the_display_name_says_what_is_off() -> None:
    name = display_name("m", {"apply_deepspeed": False, "apply_lora": "false"}, gpus_per_node=1, nodes=1)

    assert "-nods-nolora-" in name


@pytest.mark.parametrize(
    ("value", "text"), [(True, "true"), (False, "false"), (3, 3), (5e-6, 5e-6), ("cosine", "cosine")]
)
def test_booleans_travel_in_lower_case(value: object, text: object) -> None:
    assert literal(value) == text
    if isinstance(value, bool):
        assert truth(literal(value)) == value


def test_a_folders_hash_follows_names_and_contents_and_no_caches(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1", encoding="utf-8")
    first = folder_hash(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_text("x", encoding="utf-8")

    assert folder_hash(tmp_path) == first
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert folder_hash(tmp_path) != first
