"""What the inputs' wishes for precision and DeepSpeed mean on the machine at hand."""

import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from chat_completion.refusal import Refusal

Precision = Literal["float32", "bfloat16", "float16"]

SMALL_MODEL_PARAMETERS = 20_000_000
"""Below this a second CPU thread costs more in waiting than it brings in arithmetic."""


@dataclass(frozen=True)
class Device:
    """The accelerators that this process sees.

    Attributes:
        gpus: number of CUDA devices; 0 is a machine that trains on its CPU.
        bf16: whether they compute in bfloat16.
        capability: the CUDA compute capability of the first of them.
        memory_bytes: of one of them, or of the machine where there is none.
    """

    gpus: int
    bf16: bool
    capability: tuple[int, int] = (0, 0)
    memory_bytes: int = 0

    @property
    def is_cuda(self) -> bool:
        """Whether there is a GPU."""
        return self.gpus > 0


def find_device() -> Device:
    """Looks at this machine."""
    import torch

    if not torch.cuda.is_available():
        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Device(gpus=0, bf16=False, memory_bytes=memory_bytes)
    return Device(
        gpus=torch.cuda.device_count(),
        # Older GPUs emulate it, many times slower than their own float16.
        bf16=torch.cuda.is_bf16_supported(including_emulation=False),
        capability=torch.cuda.get_device_capability(),
        memory_bytes=torch.cuda.get_device_properties(0).total_memory,
    )


def choose_precision(bits: int, device: Device) -> tuple[Precision, str | None]:
    """What to compute in.

    Args:
        bits: 4, 16 or 32, as the input `precision` says; 4 keeps frozen weights in 4 bits and computes as 16 does.
        device: where.

    Returns:
        The precision, and a note where it is not what was asked for.
    """
    if bits not in (4, 16, 32):
        raise Refusal(f"precision {bits} is none of 4, 16 and 32")
    if bits == 32:
        return "float32", None
    if device.is_cuda:
        return ("bfloat16" if device.bf16 else "float16"), None
    if bits == 4:
        return "float32", "with precision 4, a machine without GPU computes in 32 bits"
    return "float32", "precision 16 is not applied: there is no GPU, and on a CPU 16 bits are slower than 32"


def generated_deepspeed(stage: int) -> dict[str, Any]:
    """A ZeRO configuration whose sizes and types come from the training arguments ('auto').

    Stage 2 keeps the optimiser's state in the host's memory, as the registry's component does; stage 3 spreads
    the weights too. Not run on the machines that this project is tested on: they have no GPU.
    """
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": True, "contiguous_gradients": True}
    if stage == 2:
        zero |= {"offload_optimizer": {"device": "cpu", "pin_memory": True}, "reduce_scatter": True}
    else:
        zero |= {"stage3_gather_16bit_weights_on_model_save": True}
    return {
        "zero_optimization": zero,
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "zero_allow_untested_optimizer": True,
    }


def choose_deepspeed(
    *, apply: bool, stage: int, file: Path | None, device: Device
) -> tuple[dict[str, Any] | None, str | None]:
    """The DeepSpeed configuration to train with, or None, and a note where the wish is not granted.

    Raises:
        Refusal: for a stage other than 2 and 3, a file that is no JSON object, or a missing package on a GPU.
    """
    if not apply:
        return None, None
    if stage not in (2, 3):
        raise Refusal(f"deepspeed_stage {stage} is neither 2 nor 3")
    if not device.is_cuda:
        return None, "apply_deepspeed is not applied: there is no GPU"
    if importlib.util.find_spec("deepspeed") is None:
        raise Refusal("apply_deepspeed is true, but the environment has no package 'deepspeed'")
    if file is None:
        return generated_deepspeed(stage), None
    try:
        configuration = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Refusal(f"deepspeed '{file}' cannot be read as JSON: {error}") from error
    if not isinstance(configuration, dict):
        raise Refusal(f"deepspeed '{file}' holds no JSON object")
    return configuration, None
