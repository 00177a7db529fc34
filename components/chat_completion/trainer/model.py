"""The model that is trained: loaded, given adapters, and written as a Hugging Face folder."""

import contextlib
import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chat_completion.common.model_folder import copy_model, copy_settings, read_json
from chat_completion.common.refusal import Refusal

ADAPTER = "adapter"
TRAINING = "training.json"
"""Written beside a trained model: what it was made from, and how."""

LORA_TARGETS = {"phi3": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]}
"""Layers that get an adapter, by model type. PEFT knows none for Phi-3; others get all their linear layers."""


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters, as the inputs of these names describe them."""

    r: int
    alpha: int
    dropout: float
    merge: bool


def four_bit_settings(dtype: str) -> Any:
    """How frozen weights are packed: NF4, its constants packed as well (Dettmers et al. 2023, QLoRA).

    Args:
        dtype: what they are unpacked to for computing.

    Raises:
        Refusal: where the package that packs them is missing.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise Refusal("precision 4 is asked for, but the environment has no package 'bitsandbytes': set precision 16")
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )


def load_model(
    folder: Path,
    *,
    lora: Lora | None,
    dtype: str,
    ignore_mismatched_sizes: bool,
    four_bits: bool = False,
    adapters_in_32_bits: bool = True,
) -> Any:
    """The base model, ready to be trained: in full, or with LoRA adapters around it.

    Args:
        folder: the base model's.
        lora: the adapters, or None to train all weights.
        dtype: of the weights that stay as they are; trained ones are kept in 32 bits.
        ignore_mismatched_sizes: whether weights of other sizes are drawn anew, where all weights are trained.
        four_bits: whether the linear layers that stay as they are, all but the head, are kept in 4 bits.
        adapters_in_32_bits: whether adapters are, whatever `dtype` says; with DeepSpeed its optimiser's copy is.

    Raises:
        Refusal: for weights that are not there, for those of other sizes than the configuration's that nobody would
            train, and for 4 bits without the package that packs them.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model, loading = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, dtype) if lora else torch.float32,
        quantization_config=four_bit_settings(dtype) if four_bits else None,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        trust_remote_code=False,
        local_files_only=True,
    )
    if absent := sorted(loading["missing_keys"]):
        raise Refusal(f"the base model's '{absent[0]}' is missing from its files: give a whole model")
    drawn = sorted(key for key, *_ in loading["mismatched_keys"])
    if drawn and (lora is not None or not ignore_mismatched_sizes):
        raise Refusal(
            f"the base model's '{drawn[0]}' has another size than its config.json says: give a whole model, or draw "
            "such weights anew with ignore_mismatched_sizes true and apply_lora false"
        )
    for module in model.modules():
        # A layer of 4 bits that some CPUs have answered with, without gradients, would never give any again.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    # A cache is of no use in training, and with it the model would take other paths through its masks.
    model.config.use_cache = False
    if lora is None:
        return model
    from peft import LoraConfig, get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapters = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=LORA_TARGETS.get(model.config.model_type, "all-linear"),
    )
    model = get_peft_model(model, adapters, autocast_adapter_dtype=adapters_in_32_bits)
    if dtype != "float32":
        # Autocast brings an adapter's weights to the layer's 16 bits; PEFT would bring the layer's input to 32.
        for module in model.modules():
            if isinstance(module, BaseTunerLayer):
                module.cast_input_dtype_enabled = False
    return model


def merge(base: Path, adapter: Path) -> Any:
    """The base model on the host, in the precision that it is stored in, with an adapter merged into it.

    The weights that a training has kept frozen may be rounded, so they are read anew. The adapter stays in 32 bits:
    a weight is rounded once, and one without an adapter not at all.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto", trust_remote_code=False, local_files_only=True)
    return PeftModel.from_pretrained(model, adapter, torch_device="cpu").merge_and_unload()


def save_model(model: Any, *, base: Path, output: Path, lora: Lora | None) -> None:
    """Writes the trained model as a Hugging Face folder, in the precision that the base model has.

    Adapters that are not merged go into a folder beside the base's weights, which stay as they are.
    """
    import torch
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    if lora is None:
        copy_settings(base, output)
        stored = read_json(base / "config.json")
        dtype = getattr(torch, str(stored.get("dtype") or stored.get("torch_dtype") or "float32"))
        model.config.use_cache = True
        model.to(dtype).save_pretrained(output)
        return
    adapter = output / ADAPTER
    model.save_pretrained(adapter, safe_serialization=True)
    if not lora.merge:
        copy_model(base, base, output)
        return
    copy_settings(base, output)
    # While ZeRO-3 is set up, every model that is loaded is spread over the processes, and this is one of them.
    unset_hf_deepspeed_config()
    merge(base, adapter).save_pretrained(output)
    shutil.rmtree(adapter)


def whole_weights(model: Any, *, partitioned: bool) -> contextlib.AbstractContextManager[Any]:
    """A context in which every process holds all of the model's weights; every process has to enter it.

    What a process changes them to inside is its own: they are not sent round when the context ends, for the process
    that writes the model has merged them and brought them to another precision by then.

    Args:
        model: the trained model.
        partitioned: whether ZeRO-3 has spread the weights over the processes.
    """
    if not partitioned:
        return contextlib.nullcontext()
    import deepspeed

    gathered: contextlib.AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(
        list(model.parameters()), modifier_rank=None
    )
    return gathered
