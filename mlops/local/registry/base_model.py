"""What the catalogue says of the base model: its tags as strings that hold Python literals, as the real ones are.

Source: the public definition of Phi-3-mini-4k-instruct, version 15, in the registry ``azureml``.
"""

from __future__ import annotations

FINETUNE = (
    "Standard_NC24ads_A100_v4",
    "Standard_NC48ads_A100_v4",
    "Standard_NC96ads_A100_v4",
    "Standard_ND96asr_v4",
    "Standard_ND96amsr_A100_v4",
)
INFERENCE = (
    "Standard_NC6s_v3",
    "Standard_NC12s_v3",
    "Standard_NC24s_v3",
    "Standard_ND40rs_v2",
    *FINETUNE,
)
DEFAULTS = {
    "apply_deepspeed": "true",
    "deepspeed_stage": 2,
    "apply_lora": "true",
    "apply_ort": "false",
    "precision": 16,
    "ignore_mismatched_sizes": "false",
    "num_train_epochs": 1,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "learning_rate": 5e-6,
    "lr_scheduler_type": "cosine",
    "logging_strategy": "steps",
    "logging_steps": 10,
    "save_total_limit": 1,
}
TAGS = {
    "task": "chat-completion",
    "author": "microsoft",
    "license": "mit",
    "huggingface_model_id": "microsoft/Phi-3-mini-4k-instruct",
    "finetuning-tasks": "chat-completion",
    "finetune_compute_allow_list": str(list(FINETUNE)),
    "inference_compute_allow_list": str(list(INFERENCE)),
    "model_specific_defaults": str(DEFAULTS),
}


def description() -> str:
    """Honest about what lies behind the name here."""
    return (
        "A stand-in for Phi-3-mini-4k-instruct: the same architecture with about a million parameters, trained on the "
        "chats of this repository. The real entry was retired from the catalogue on 2025-08-30."
    )
