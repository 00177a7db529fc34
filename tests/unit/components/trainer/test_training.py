"""Batches and settings of the fine-tune; its results are in test_quality."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chat_completion.common.device import Device, choose_precision, find_device
from chat_completion.common.refusal import Refusal
from chat_completion.trainer.recipe import Inputs, conversations_per_step, evaluation_steps, training_arguments
from chat_completion.trainer.zero import agreeing, choose_deepspeed, generated_deepspeed, needless

CPU = Device(gpus=0, bf16=False)
AMPERE = Device(gpus=2, bf16=True)
VOLTA = Device(gpus=1, bf16=False)
INPUTS = Inputs(Path("tokens"), Path("base"), Path("out"))


@pytest.mark.parametrize(
    ("bits", "device", "precision"),
    [
        (16, AMPERE, "bfloat16"),
        (16, VOLTA, "float16"),
        (16, CPU, "float32"),
        (4, AMPERE, "bfloat16"),
        (4, VOLTA, "float16"),
        (4, CPU, "float32"),
        (32, AMPERE, "float32"),
        (32, CPU, "float32"),
    ],
)
def test_precision(bits: int, device: Device, precision: str) -> None:
    chosen, note = choose_precision(bits, device)
    assert chosen == precision
    assert (note is not None) is (bits != 32 and device is CPU)


@pytest.mark.parametrize(("major", "bf16"), [(7, False), (8, True)])
def test_emulated_sixteen_bits_do_not_count(monkeypatch: pytest.MonkeyPatch, major: int, bf16: bool) -> None:
    """PyTorch says yes to bfloat16 on a V100, where it only emulates it."""
    import torch

    properties = SimpleNamespace(major=major, total_memory=1 << 34)
    for name, value in {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_capability": (major, 0),
        "get_device_properties": properties,
        "_check_bf16_tensor_supported": True,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    assert find_device() == Device(gpus=1, bf16=bf16, capability=(major, 0), memory_bytes=1 << 34)


def test_weights_that_zero_has_spread_are_not_sent_round_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that writes the model has changed them: DeepSpeed would wait for the others to have done so too."""
    import torch

    from chat_completion.trainer.model import whole_weights

    asked: list[dict[str, object]] = []

    def gathered(parameters: list[torch.nn.Parameter], **arguments: object) -> contextlib.AbstractContextManager[None]:
        asked.append({"weights": len(parameters), **arguments})
        return contextlib.nullcontext()

    zero = SimpleNamespace(GatheredParameters=gathered)
    monkeypatch.setitem(sys.modules, "deepspeed", SimpleNamespace(zero=zero))
    layer = torch.nn.Linear(2, 2)
    with whole_weights(layer, partitioned=False):
        assert not asked
    with whole_weights(layer, partitioned=True):
        assert asked == [{"weights": 2, "modifier_rank": None}]


def test_a_large_model_is_not_trained_on_the_cpu_beside_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node whose driver is older than PyTorch's CUDA looks like one without GPU, and costs as much as one with."""
    import torch

    from chat_completion.common.device import settle_on_cpu

    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12040). Please update it.")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    threads = torch.get_num_threads()
    settle_on_cpu(3_800_000_000, devices=tmp_path)
    (tmp_path / "nvidia0").touch()
    with pytest.raises(Refusal, match=r"too old \(found version 12040\)\. Take nodes with a newer driver"):
        settle_on_cpu(3_800_000_000, devices=tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    settle_on_cpu(3_800_000_000, devices=tmp_path)
    assert torch.get_num_threads() == threads
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    settle_on_cpu(1_000_000, devices=tmp_path)  # a laptop's stand-in
    assert torch.get_num_threads() == 1
    torch.set_num_threads(threads)


def test_settings_reach_the_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    inputs = dataclasses.replace(
        INPUTS,
        learning_rate=0.5,
        warmup_steps=3,
        weight_decay=0.1,
        adam_beta1=0.8,
        adam_beta2=0.95,
        adam_epsilon=1e-6,
        eval_accumulation_steps=4,
        lr_scheduler_type="polynomial",
        seed=7,
        max_grad_norm=0.3,
        optim="adafactor",
        max_steps=9,
        num_train_epochs=4,
        logging_steps=6,
        logging_strategy="epoch",
        dataloader_num_workers=1,
        enable_full_determinism=True,
        per_device_train_batch_size=3,
        per_device_eval_batch_size=5,
    )
    arguments = training_arguments(inputs, device=CPU, rows=60)
    names = {"enable_full_determinism": "full_determinism"}
    left_to_the_model = {"precision", "evaluation_strategy", "eval_steps"}
    for field in dataclasses.fields(inputs):
        value = getattr(inputs, field.name)
        if value != getattr(INPUTS, field.name) and field.name not in left_to_the_model:
            assert arguments[names.get(field.name, field.name)] == value, field.name
    assert arguments["load_best_model_at_end"]
    assert arguments["report_to"] == []
    assert not arguments["bf16"]


def test_a_step_is_what_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accumulation and the search for a batch that fits are matters of packing: steps stay what they are."""
    inputs = dataclasses.replace(
        INPUTS,
        per_device_train_batch_size=3,
        gradient_accumulation_steps=4,
        auto_find_batch_size=True,
        evaluation_strategy="steps",
        evaluation_steps_interval=0.5,
    )
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert conversations_per_step(inputs) == 24
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert conversations_per_step(inputs) == 12
    arguments = training_arguments(inputs, device=CPU, rows=120)
    assert (arguments["gradient_accumulation_steps"], arguments["auto_find_batch_size"]) == (1, False)
    assert arguments["eval_steps"] == arguments["save_steps"] == 5


def test_defaults_that_mean_none() -> None:
    arguments = training_arguments(INPUTS, device=CPU, rows=60)
    assert arguments["eval_accumulation_steps"] is None
    off = training_arguments(dataclasses.replace(INPUTS, evaluation_strategy="disable"), device=CPU, rows=60)
    assert (off["eval_strategy"], off["save_strategy"], off["load_best_model_at_end"]) == ("no", "no", False)


def test_on_a_gpu() -> None:
    arguments = training_arguments(dataclasses.replace(INPUTS, precision=16), device=AMPERE, rows=60)
    assert arguments["bf16"]
    assert arguments["activation_checkpointing"]
    assert not arguments["use_cpu"]


def test_evaluation_steps() -> None:
    assert evaluation_steps(INPUTS, steps_per_epoch=40) == 500
    share = dataclasses.replace(INPUTS, evaluation_steps_interval=0.25)
    assert evaluation_steps(share, steps_per_epoch=40) == 10
    assert evaluation_steps(share, steps_per_epoch=1) == 1


def test_deepspeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(device: Device = AMPERE, *, file: Path | None = None, **changes: Any) -> Any:
        arguments = {"apply": True, "stage": 2, "lora": False, "processes": 1} | changes
        return choose_deepspeed(device=device, file=file, **arguments)

    assert choose(apply=False) == (None, None)
    assert choose(CPU) == (None, "apply_deepspeed is not applied: there is no GPU")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    configuration, note = choose(lora=True)
    assert configuration is None
    assert "The same is learnt" in note
    with pytest.raises(Refusal, match="no package 'deepspeed'"):
        choose()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(Refusal, match="torchrun --nproc-per-node 1"):
        choose()
    monkeypatch.setenv("RANK", "0")
    assert choose(stage=3, processes=2) == (generated_deepspeed(3), "DeepSpeed is applied: ZeRO, stage 3")
    file = tmp_path / "zero.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 1}, "train_batch_size": 8, "gradient_clipping": 0.5}))
    chosen, note = choose(file=file, lora=True)
    assert chosen["zero_optimization"] == {"stage": 1}
    assert (chosen["train_batch_size"], chosen["gradient_clipping"]) == ("auto", 0.5)
    assert chosen["bf16"] == {"enabled": "auto"}
    assert note == "DeepSpeed is applied, as 'zero.json' says"
    for text, message in (("{", "cannot be read as JSON"), ("[]", "no JSON object"), ("{}", "zero_optimization")):
        file.write_text(text)
        with pytest.raises(Refusal, match=message):
            choose(file=file)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("in_32_bits", [True, False])
def test_adapters_have_the_bits_that_their_optimiser_expects(tmp_path: Path, in_32_bits: bool) -> None:
    """ZeRO-3 does not cast: an adapter in 32 bits would meet its layer's 16."""
    import torch

    from chat_completion.trainer.model import Lora, load_model
    from tests.unit.components.tiny import model

    model().save_pretrained(tmp_path)
    loaded = load_model(
        tmp_path,
        lora=Lora(4, 8, 0.0, merge=True),
        dtype="bfloat16",
        ignore_mismatched_sizes=False,
        adapters_in_32_bits=in_32_bits,
    )
    kinds = {weight.requires_grad: weight.dtype for weight in loaded.parameters()}
    assert kinds == {True: torch.float32 if in_32_bits else torch.bfloat16, False: torch.bfloat16}


@pytest.mark.parametrize(
    ("stage", "lora", "processes", "saves"),
    [
        (2, True, 1, False),
        (2, True, 8, False),
        (3, True, 1, False),
        (3, False, 1, False),
        (2, False, 1, True),
        (2, False, 8, True),
        (3, True, 8, True),
        (3, False, 8, True),
    ],
)
def test_where_zero_saves_memory(stage: int, lora: bool, processes: int, saves: bool) -> None:
    assert (needless(stage=stage, lora=lora, processes=processes) is None) is saves


def test_a_deepspeed_file_that_contradicts_the_inputs_is_refused_in_a_line(tmp_path: Path) -> None:
    def fail(text: str) -> None:
        raise ValueError(text)

    refused = pytest.raises(Refusal, match=r"zero.json' does not go with the inputs: .* values: - ds bf16")
    with refused, agreeing(tmp_path / "zero.json"):
        fail("Please correct the following DeepSpeed config values:\n- ds bf16.enabled=True vs hf bf16=False")
    for file, text in ((None, "DeepSpeed"), (tmp_path / "zero.json", "a bug")):
        with pytest.raises(ValueError, match=text), agreeing(file):
            fail(text)


def test_zero_does_not_spread_weights_of_four_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    (tmp_path / "zero.json").write_text(json.dumps({"zero_optimization": {"stage": 3}}))
    monkeypatch.setenv("RANK", "0")
    four = dataclasses.replace(INPUTS, precision=4, apply_lora=True, apply_deepspeed=True)
    assert training_arguments(four, device=AMPERE, rows=60)["deepspeed"] is None
    with pytest.raises(Refusal, match="precision 4 does not work with stage 3"):
        training_arguments(dataclasses.replace(four, deepspeed=tmp_path / "zero.json"), device=AMPERE, rows=60)


@pytest.mark.parametrize("stage", [2, 3])
def test_generated_deepspeed(stage: int) -> None:
    configuration = generated_deepspeed(stage)
    assert configuration["zero_optimization"]["stage"] == stage
    assert ("offload_optimizer" in configuration["zero_optimization"]) is (stage == 2)
