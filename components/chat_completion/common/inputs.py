"""The pipeline's inputs that say how to train, under the names and with the defaults of the registry's component."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TrainingInputs:
    """What is learnt, how, and what is kept of it."""

    apply_lora: bool = False
    merge_lora_weights: bool = True
    lora_alpha: int = 128
    lora_r: int = 8
    lora_dropout: float = 0.0
    num_train_epochs: int = 1
    max_steps: int = -1
    per_device_train_batch_size: int = 1
    per_device_eval_batch_size: int = 1
    auto_find_batch_size: bool = False
    optim: str = "adamw_torch"
    learning_rate: float = 2e-5
    warmup_steps: int = 0
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    gradient_accumulation_steps: int = 1
    eval_accumulation_steps: int = -1
    lr_scheduler_type: str = "linear"
    precision: int = 32
    seed: int = 42
    enable_full_determinism: bool = False
    dataloader_num_workers: int = 0
    ignore_mismatched_sizes: bool = False
    max_grad_norm: float = 1.0
    evaluation_strategy: str = "epoch"
    evaluation_steps_interval: float = 0.0
    eval_steps: int = 500
    logging_strategy: str = "steps"
    logging_steps: int = 10
    metric_for_best_model: str = "loss"
    resume_from_checkpoint: bool = False
    save_total_limit: int = -1
    apply_early_stopping: bool = False
    early_stopping_patience: int = 1
    early_stopping_threshold: float = 0.0
    apply_deepspeed: bool = False
    deepspeed: Path | None = None
    deepspeed_stage: int = 2
