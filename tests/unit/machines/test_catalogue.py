from __future__ import annotations

from datetime import date

import pytest

from mlops.core.errors import PreconditionError
from mlops.core.resources import ModelVersion, VmSize
from mlops.machines import catalogue


def test_a_retired_size_is_refused_with_its_date_and_what_to_use() -> None:
    with pytest.raises(PreconditionError) as caught:
        catalogue.check_size("standard_nc6s_V3", today=date(2026, 1, 1))

    assert "2025-09-30" in caught.value.message
    assert "Standard_NC24ads_A100_v4" in (caught.value.hint or "")


def test_a_size_is_usable_until_its_day() -> None:
    catalogue.check_size("Standard_NC6s_v3", today=date(2025, 9, 29))
    catalogue.check_size("Standard_NC24ads_A100_v4")


def test_a_retirement_that_is_near_is_known_before_its_day() -> None:
    name = "standard_nv12s_v3"

    assert catalogue.retires_soon(name, today=date(2026, 4, 2)) is None
    retirement = catalogue.retires_soon(name, today=date(2026, 4, 4))
    assert retirement is not None
    assert retirement.since == date(2026, 9, 30)
    assert catalogue.retires_soon(name, today=date(2026, 9, 30)) is None
    assert catalogue.retired_size(name, today=date(2026, 9, 30)) == retirement


def test_each_retirement_has_a_source_and_something_to_use_that_is_alive() -> None:
    table = catalogue._table()
    for kind, entries in table.items():
        for retirement in entries.values():
            assert retirement.source, retirement.name
            assert retirement.instead.lower() not in table[kind], retirement.name


@pytest.mark.parametrize(
    ("name", "stage", "says"),
    [("Phi-3.5-mini-instruct", None, "2025-08-30"), ("anything", "Retired", "'anything' was retired")],
)
def test_a_model_is_retired_by_its_date_or_by_the_registrys_word(name: str, stage: str | None, says: str) -> None:
    with pytest.raises(PreconditionError, match=says):
        catalogue.check_model(ModelVersion(name=name, version="1", id="", stage=stage), today=date(2026, 1, 1))
    catalogue.check_model(ModelVersion(name="Phi-4", version="1", id="", stage="Production"))


def test_a_size_is_offered_in_any_case_or_those_with_gpus_are_named() -> None:
    sizes = [
        VmSize(name="Standard_NC24ads_A100_v4", family="f", cores=24, gpus=1, memory_gb=220),
        VmSize(name="Standard_DS3_v2", family="g", cores=4, gpus=0, memory_gb=14),
    ]

    assert catalogue.check_offered("STANDARD_ds3_v2", sizes, setting="s") == sizes[1]
    with pytest.raises(PreconditionError) as caught:
        catalogue.check_offered("x", sizes, setting="compute.size")
    assert caught.value.hint == (
        "choose another compute.size in mlops.yaml; with GPUs there are: Standard_NC24ads_A100_v4"
    )


def test_the_base_models_catalogue_entry_is_retired() -> None:
    retirement = catalogue.retired_model("phi-3-mini-4k-instruct", today=date(2026, 1, 1))

    assert retirement is not None
    assert retirement.since == date(2025, 8, 30)
    assert "huggingface" in retirement.instead


def test_an_allow_list_is_a_string_holding_a_python_list_and_has_no_case() -> None:
    allowed = catalogue.allowed_sizes(
        {"finetune_compute_allow_list": "['Standard_NC24ads_A100_v4', 'Standard_ND96asr_v4']"}, {}, purpose="finetune"
    )

    assert allowed == ("Standard_NC24ads_A100_v4", "Standard_ND96asr_v4")
    catalogue.check_allowed("STANDARD_nc24ADS_a100_v4", allowed, model="m", purpose="finetune")
    with pytest.raises(PreconditionError, match="allow-list"):
        catalogue.check_allowed("Standard_NC4as_T4_v3", allowed, model="m", purpose="finetune")


def test_newer_models_carry_the_list_in_their_properties() -> None:
    sizes = catalogue.allowed_sizes({}, {"inference-compute-allow-list": ["a", "b"]}, purpose="inference")

    assert sizes == ("a", "b")


@pytest.mark.parametrize("size", ["Standard_NC6", "standard_nc12", "STANDARD_NC24", "standard_nc24r"])
def test_without_a_list_the_oldest_sizes_are_refused(size: str) -> None:
    with pytest.raises(PreconditionError):
        catalogue.check_allowed(size, None, model="m", purpose="finetune")
    catalogue.check_allowed(size, None, model="m", purpose="inference")


@pytest.mark.parametrize("text", ["__import__('os').system('true')", "[1, 2", "['a'] + ['b']"])
def test_a_tag_is_read_as_a_literal_and_never_run(text: str) -> None:
    with pytest.raises(PreconditionError, match="cannot be read"):
        catalogue.allowed_sizes({"finetune_compute_allow_list": text}, {}, purpose="finetune")


def test_model_defaults_are_a_string_holding_a_dict() -> None:
    assert catalogue.model_defaults({"model_specific_defaults": "{'num_train_epochs': 1}"}) == {"num_train_epochs": 1}
    assert catalogue.model_defaults({}) == {}
    with pytest.raises(PreconditionError, match="no mapping"):
        catalogue.model_defaults({"model_specific_defaults": "[1]"})
