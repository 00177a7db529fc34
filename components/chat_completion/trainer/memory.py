"""How much of a device's memory a training needs, estimated from the model's shape before anything runs.

What is kept for the backward pass is counted tensor by tensor for a decoder layer with gated feed-forward (Phi-3,
Llama, Mistral and their like); attention's scores are never kept. The preflight measures what is estimated here.
"""

from dataclasses import dataclass
from typing import Any

GIB = 2**30
SHARE = 0.92
"""Of a device's memory: the rest is lost to fragments and to the libraries' own buffers."""

ENOUGH_TOKENS = 4096
"""In a packed batch: fewer leave a large GPU waiting, so rather than that, activations are computed twice."""

FOUR_BITS_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Per weight in NF4: 64 share a constant of 8 bits, 256 of these one of 32 bits (Dettmers et al. 2023, QLoRA)."""

ZERO_BUFFERS = 1e9
"""Weights that DeepSpeed's buffers hold, at most: two for gradients on their way (reduce_bucket_size, overlap_comm),
or, where stage 3 has spread the weights, those of a few layers put together again (stage3_max_live_parameters)."""

OPTIMISER_BYTES = {"adamw_torch": 8.0, "adafactor": 0.1}
"""Per trained weight: AdamW keeps two values, Adafactor one per row and column."""


@dataclass(frozen=True)
class Shape:
    """What of a model decides its memory.

    Attributes:
        weights: number of all of them.
        trained: number of those that are trained.
        layers: decoder layers.
        hidden: width of the residual stream.
        keys: width of all keys, and of all values.
        intermediate: width of the feed-forward.
        vocabulary: of the head.
        packed: number of weights in 4 bits; none of them is trained.
    """

    weights: int
    trained: int
    layers: int
    hidden: int
    keys: int
    intermediate: int
    vocabulary: int
    packed: int = 0


def shape_of(model: Any) -> Shape:
    """A causal model's shape, from its configuration and its weights (those that ZeRO-3 has spread counted too)."""

    def size(weight: Any) -> int:
        packed = getattr(weight, "quant_state", None)
        return int(packed.shape.numel() if packed else getattr(weight, "ds_numel", weight.numel()))

    config = model.config
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    weights = list(model.parameters())
    return Shape(
        weights=sum(map(size, weights)),
        trained=sum(size(weight) for weight in weights if weight.requires_grad),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        keys=(getattr(config, "num_key_value_heads", None) or heads) * width,
        intermediate=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        vocabulary=config.vocab_size,
        packed=sum(size(weight) for weight in weights if getattr(weight, "quant_state", None)),
    )


@dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
        weights: of the model, and of the copies that autocast makes of trained ones.
        gradients: of the trained weights, and what DeepSpeed sends them round in.
        optimiser: its state.
        head: the largest piece of logits with its gradients.
        per_token: kept for the backward pass for each token of a packed batch.
        per_token_twice: the same where layers are computed a second time in the backward pass.
    """

    weights: float
    gradients: float
    optimiser: float
    head: float
    per_token: float
    per_token_twice: float

    @property
    def fixed(self) -> float:
        """What does not depend on the batch."""
        return self.weights + self.gradients + self.optimiser + self.head

    def tokens(self, device_bytes: float, *, recompute: bool) -> int:
        """The largest packed batch that fits, in tokens; 0 or less where the model alone does not."""
        return int((SHARE * device_bytes - self.fixed) / (self.per_token_twice if recompute else self.per_token))


def estimate(
    shape: Shape,
    *,
    half: bool,
    fused_layers: bool,
    optim: str,
    processes: int = 1,
    zero_stage: int = 0,
    offload: bool = False,
) -> Memory:
    """The memory of one device.

    Args:
        shape: the model's.
        half: whether it computes in 16 bits; trained weights, gradients and optimiser stay in 32, but for ZeRO, which
            keeps weights and gradients in 16, and a copy in 32 beside the optimiser's state.
        fused_layers: whether norms and activations are fused kernels, which keep no copies in 32 bits.
        optim: the optimiser, as the input of this name says.
        processes: how many devices share what ZeRO spreads.
        zero_stage: 0 without ZeRO; 1 spreads the optimiser's state over the devices, 2 gradients too, 3 weights too.
        offload: whether the optimiser's state is kept in the host's memory.
    """
    value = 2 if half else 4
    frozen = shape.weights - shape.trained - shape.packed
    trained = value if zero_stage else 4 + (2 if half else 0)
    weights = 1.0 * frozen * value + shape.trained * trained
    if shape.packed:
        # The widest layer is unpacked while it computes.
        weights += shape.packed * FOUR_BITS_BYTES + 2.0 * shape.hidden * shape.intermediate * value
    gradients = 4.0 * shape.trained
    optimiser = OPTIMISER_BYTES[optim] * shape.trained
    buffers = 0.0
    if zero_stage:
        weights /= processes if zero_stage == 3 else 1
        gradients = 1.0 * shape.trained * value / (processes if zero_stage > 1 else 1)
        optimiser = 0.0 if offload else (4 + OPTIMISER_BYTES[optim]) * shape.trained / processes
        buffers = ZERO_BUFFERS * value * (2 if zero_stage == 3 else 1)
    # Input and output of two norms, queries, keys and values before and after their rotation, what attention
    # gives, what the feed-forward's two halves, its activation and their product are.
    kept = 7 * shape.hidden + 3 * shape.keys + 4 * shape.intermediate
    layer = kept * value + (0 if fused_layers else 16 * shape.hidden)
    return Memory(
        weights=weights,
        gradients=gradients + buffers,
        optimiser=optimiser,
        head=3 * 4.0 * min(1 << 24, shape.vocabulary * ENOUGH_TOKENS) + value * shape.vocabulary * shape.hidden,
        per_token=float(shape.layers * layer + 4 * value * shape.hidden),
        per_token_twice=float(shape.layers * shape.hidden * value + layer + 4 * value * shape.hidden),
    )


def choose_tokens(memory: Memory, device_bytes: float, *, longest: int, most: int) -> tuple[int, bool] | None:
    """How many tokens a packed batch may hold, and whether activations have to be computed twice for that.

    Args:
        memory: what the model needs.
        device_bytes: what there is.
        longest: the longest conversation: a batch holds at least one.
        most: tokens beyond which a larger batch brings nothing.

    Returns:
        None where not even the longest conversation fits.
    """
    least = max(longest, min(ENOUGH_TOKENS, most))
    for recompute, minimum in ((False, least), (True, longest)):
        tokens = memory.tokens(device_bytes, recompute=recompute)
        if tokens >= minimum:
            return max(longest, min(tokens, most)), recompute
    return None
