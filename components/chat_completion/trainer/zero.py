"""DeepSpeed's ZeRO: whether a training has a use for it, and with which configuration."""

import importlib.util
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chat_completion.common.device import Device
from chat_completion.common.refusal import Refusal

FROM_INPUTS = {
    "bf16": {"enabled": "auto"},
    "fp16": {"enabled": "auto"},
    "gradient_clipping": "auto",
}
"""What the training's inputs decide, unless a configuration of the user's own does."""

SIZES = {
    "gradient_accumulation_steps": "auto",
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
}
"""What the inputs decide in any case: a step's conversations are packed, so DeepSpeed knows no micro-batches."""


def generated_deepspeed(stage: int) -> dict[str, Any]:
    """A ZeRO configuration whose sizes and types come from the training arguments ('auto').

    Stage 2 keeps the optimiser's state in the host's memory, as the registry's component does; stage 3 spreads
    the weights too. PyTorch's AdamW takes a step there as fast as DeepSpeed's, which would be compiled first.
    """
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": True, "contiguous_gradients": True}
    if stage == 2:
        zero |= {"offload_optimizer": {"device": "cpu", "pin_memory": True}, "reduce_scatter": True}
    else:
        zero |= {"stage3_gather_16bit_weights_on_model_save": True}
    optimiser = {"zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False}
    return {"zero_optimization": zero, **optimiser, **FROM_INPUTS, **SIZES}


def own_deepspeed(file: Path) -> dict[str, Any]:
    """The user's own configuration; where it is silent, and for a step's size, the training's inputs decide.

    Raises:
        Refusal: for a file that is no JSON object, or that says nothing of ZeRO.
    """
    try:
        configuration = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Refusal(f"deepspeed '{file}' cannot be read as JSON: {error}") from error
    if not isinstance(configuration, dict):
        raise Refusal(f"deepspeed '{file}' holds no JSON object")
    if not isinstance(configuration.get("zero_optimization"), dict):
        raise Refusal(f"deepspeed '{file}' has no object 'zero_optimization': add one with a 'stage'")
    return {**FROM_INPUTS, **configuration, **SIZES}


def needless(*, stage: int, lora: bool, processes: int) -> str | None:
    """Why ZeRO would save nothing worth its time; None where it saves memory."""
    if stage == 2 and lora:
        return "stage 2 moves the optimiser's state out of the way, and that of adapters is small"
    if stage == 3 and processes == 1:
        return "stage 3 spreads weights over processes, and there is one"
    return None


def choose_deepspeed(
    *, apply: bool, stage: int, file: Path | None, device: Device, lora: bool, processes: int
) -> tuple[dict[str, Any] | None, str | None]:
    """The DeepSpeed configuration to train with, or None, and a note for whoever has asked for it.

    Args:
        apply: whether DeepSpeed is asked for.
        stage: of ZeRO, 2 or 3; a file has one of its own.
        file: the user's own configuration, which is applied wherever there is a GPU.
        device: where the training runs.
        lora: whether adapters alone are trained.
        processes: that share the training.

    Raises:
        Refusal: for another stage, a file of no use, or, on a GPU, a missing package or launcher.
    """
    if not apply:
        return None, None
    if stage not in (2, 3):
        raise Refusal(f"deepspeed_stage {stage} is neither 2 nor 3")
    if not device.is_cuda:
        return None, "apply_deepspeed is not applied: there is no GPU"
    if file is None and (why := needless(stage=stage, lora=lora, processes=processes)):
        return None, (
            f"apply_deepspeed changes nothing here and is left out: {why}. The same is learnt; a configuration of your "
            "own, as the input deepspeed, is applied in any case"
        )
    if importlib.util.find_spec("deepspeed") is None:
        raise Refusal("apply_deepspeed is true, but the environment has no package 'deepspeed'")
    if "RANK" not in os.environ:
        raise Refusal(
            "apply_deepspeed needs a launcher, also for one process: start the step with "
            "`torchrun --nproc-per-node 1 -m chat_completion.finetune`"
        )
    if file is not None:
        return own_deepspeed(file), f"DeepSpeed is applied, as '{file.name}' says"
    return generated_deepspeed(stage), f"DeepSpeed is applied: ZeRO, stage {stage}"


@contextmanager
def agreeing(file: Path | None) -> Iterator[None]:
    """A context in which DeepSpeed reads its configuration.

    Raises:
        Refusal: where the user's own contradicts the inputs or itself.
    """
    try:
        yield
    except ValueError as error:
        if file is None or "DeepSpeed" not in str(error):
            raise
        raise Refusal(f"deepspeed '{file}' does not go with the inputs: {' '.join(str(error).split())}") from error
