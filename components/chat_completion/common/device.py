"""The machine at hand, and what the input `precision` means on it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from chat_completion.common.refusal import Refusal

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


def unused_gpu(devices: Path = Path("/dev")) -> str | None:
    """Why PyTorch does without the GPU that this machine has; None where it has none, or neither wants one."""
    import torch

    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if torch.version.cuda is None or hidden or not [*devices.glob("nvidia[0-9]*")] or torch.cuda.is_available():
        return None
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).partition(". ")[0]
    return "it does not answer"


def settle_on_cpu(weights: int, *, devices: Path = Path("/dev")) -> None:
    """Makes this process ready to train a model of so many weights without a GPU.

    Args:
        weights: of the model.
        devices: where the machine lists its devices.

    Raises:
        Refusal: where a large model was to be trained on a GPU that is there, and would be on the CPU, for days.
    """
    import torch

    if weights < SMALL_MODEL_PARAMETERS:
        torch.set_num_threads(1)
    elif why := unused_gpu(devices):
        raise Refusal(
            f"PyTorch {torch.__version__} cannot use this machine's GPU: {why}. Take nodes with a newer driver, or an "
            f"environment with a PyTorch that goes with theirs; CUDA_VISIBLE_DEVICES=-1 trains {weights:,} weights on "
            "the CPU all the same"
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
