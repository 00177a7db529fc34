"""Fused layers for GPUs: Liger's kernels for norms, rotations and activations, where that package is there.

The loss is not among them: loss.py makes logits piece by piece already. Not run on the machines that this project is
tested on: they have no GPU. The preflight compares the loss with and without them before the first step.
"""

import importlib.util
import os
from typing import Any

from chat_completion.device import Device

CHOSEN = {
    "rope": True,
    "rms_norm": True,
    "swiglu": True,
    "cross_entropy": False,
    "fused_linear_cross_entropy": False,
}


def wanted() -> bool:
    """Whether kernels are used where there are any; MLOPS_KERNELS=off in the environment says no."""
    return os.environ.get("MLOPS_KERNELS", "on").lower() != "off"


def fuse_layers(model: Any, device: Device) -> tuple[bool, str]:
    """Replaces a model's layers by fused ones.

    Returns:
        Whether it did, and why.
    """
    if not device.is_cuda:
        return False, "there is no GPU"
    if not wanted():
        return False, "MLOPS_KERNELS is off"
    if importlib.util.find_spec("liger_kernel") is None:
        return False, "the environment has no package 'liger_kernel'"
    from liger_kernel.transformers.monkey_patch import (  # type: ignore[import-not-found]
        MODEL_TYPE_TO_APPLY_LIGER_FN,
    )
    from transformers.integrations.liger import apply_liger_kernel

    kind = model.config.model_type
    if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        return False, f"Liger has none for models of type '{kind}'"
    apply_liger_kernel(model, CHOSEN)
    return True, "Liger's"
