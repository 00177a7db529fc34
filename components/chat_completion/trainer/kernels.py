"""Fused layers for GPUs: Liger's kernels for norms, rotations and activations, where that package is there.

The loss is not among them: loss.py makes logits piece by piece already. No GPU has run them for this project yet; in
Triton's interpreter a packed batch had the plain layers' loss and gradients in 32 bits (also with fewer heads of keys,
rotations of a part, odd widths). The preflight compares the loss with and without them before the first step.
"""

import importlib.util
import os
from typing import Any

from chat_completion.common.device import Device

CHOSEN = {
    "rope": True,
    "rms_norm": True,
    "swiglu": True,
    "cross_entropy": False,
    "fused_linear_cross_entropy": False,
}


def kernels_enabled() -> bool:
    """Whether kernels are used where there are any; MLOPS_KERNELS=off in the environment says no."""
    return os.environ.get("MLOPS_KERNELS", "on").lower() != "off"


def trouble() -> str | None:
    """Why Liger's kernels do not run on this machine, found out by running one; None where they do."""
    import torch

    try:
        from liger_kernel.transformers import LigerRMSNorm

        norm = LigerRMSNorm(64).to("cuda")
        norm(torch.ones(2, 64, device="cuda", requires_grad=True)).sum().backward()
    except Exception as error:  # whatever a compiler, a driver or an import raises
        return f"Liger's kernels do not run here: {error}"
    return None


def fuse_layers(model: Any, device: Device) -> tuple[bool, str]:
    """Replaces a model's layers by fused ones.

    Returns:
        Whether it did, and why.
    """
    if not device.is_cuda:
        return False, "there is no GPU"
    if not kernels_enabled():
        return False, "MLOPS_KERNELS is off"
    if importlib.util.find_spec("liger_kernel") is None:
        return False, "the environment has no package 'liger_kernel'"
    if why := trouble():
        return False, why
    from liger_kernel.transformers.monkey_patch import (
        MODEL_TYPE_TO_APPLY_LIGER_FN,
    )
    from transformers.integrations.liger import apply_liger_kernel

    kind = model.config.model_type
    if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        return False, f"Liger has none for models of type '{kind}'"
    apply_liger_kernel(model, CHOSEN)
    return True, "Liger's"
