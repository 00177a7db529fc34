"""Low-rank adapters without passes over the layer's output: their part is added inside the matrix product.

PEFT makes the adapter's output, scales it and adds it to the layer's, in an array each; counted in bytes, that is a
tenth of Phi-3's step on a fast GPU. The mathematics is that of Hu et al. 2021 (LoRA, equation 3), and so are its
gradients: y = x W' + b + s (x A') B', where ' transposes; W and b are frozen and get none.
"""

from functools import partial
from typing import Any

import torch
from torch.nn.functional import linear


class AdaptedLinear(torch.autograd.Function):  # type: ignore[misc]
    """y = x W' + b + s (x A') B' for x of (tokens, in), W (out, in), b (out,) or None, A (rank, in), B (out, rank)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        """The layer's output, (tokens, out)."""
        low = linear(x, down)
        ctx.save_for_backward(x, weight, down, up, low)
        ctx.scaling = scaling
        return linear(x, weight, bias).addmm_(low, up.t(), alpha=scaling)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradients of x, A and B."""
        x, weight, down, up, low = ctx.saved_tensors
        grad_low = torch.mm(grad, up).mul_(ctx.scaling)
        grad_x = torch.mm(grad, weight).addmm_(grad_low, down) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, torch.mm(grad_low.t(), x), torch.mm(grad.t(), low).mul_(ctx.scaling), None


def adapter_output(layer: Any, name: str, x: torch.Tensor) -> torch.Tensor:
    """What `layer` gives for x of (..., in), in the precision that autocast asks for, if it is on.

    Args:
        layer: PEFT's, of a linear layer.
        name: its adapter's.
        x: the input.
    """
    if layer.disable_adapters or layer.merged:
        plain: torch.Tensor = layer.base_layer(x)
        return plain
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    base, down, up = layer.base_layer, layer.lora_A[name].weight, layer.lora_B[name].weight
    bias = None if base.bias is None else base.bias.to(dtype)
    rows = x.reshape(-1, x.shape[-1]).to(dtype)
    arguments = (rows, base.weight.to(dtype), bias, down.to(dtype), up.to(dtype), layer.scaling[name])
    output: torch.Tensor = AdaptedLinear.apply(*arguments)
    return output.view(*x.shape[:-1], -1)


def is_plain(layer: Any) -> bool:
    """Whether PEFT's layer is a linear one with one adapter of the first kind: no dropout, nothing in 4 bits."""
    names = layer.active_adapters
    if type(layer.base_layer) is not torch.nn.Linear or len(names) != 1 or layer.lora_variant:
        return False
    (name,) = names
    return isinstance(layer.lora_dropout[name], torch.nn.Identity) and not layer.lora_bias[name]


def fuse_adapters(model: Any) -> int:
    """Gives adapted layers the forward of this module, where it is the same; returns how many got it."""
    from peft.tuners.lora import Linear

    layers = [layer for layer in model.modules() if isinstance(layer, Linear) and is_plain(layer)]
    for layer in layers:
        layer.forward = partial(adapter_output, layer, layer.active_adapters[0])
    return len(layers)
