"""The ways of fine-tuning that are compared, each as its users would start it, and the clock that all of them carry."""

import shutil
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.training.load import LORA_ALPHA, LORA_R, SHAPES, Plan, has_gpu, wait

EPOCHS = 2  # the last is timed


def install_clock() -> dict[str, Any]:
    """Makes every Trainer of this process measure its last epoch into the returned values."""
    import torch
    import transformers.trainer
    from transformers import TrainerCallback

    measurement: dict[str, Any] = {"seconds": 0.0, "steps": 0, "losses": []}

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            wait()
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            self.start, self.step = time.perf_counter(), state.global_step

        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            wait()
            measurement["seconds"] = time.perf_counter() - self.start
            measurement["steps"] = state.global_step - self.step
            if torch.cuda.is_available():
                measurement["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            measurement["losses"] += [logs["loss"]] if logs and "loss" in logs else []

    transformers.trainer.DEFAULT_CALLBACKS.append(Clock)
    return measurement


def common_arguments(plan: Plan) -> dict[str, Any]:
    """What transformers' and TRL's arguments have in common."""
    gpu = has_gpu()
    return {
        "output_dir": str(Path(plan.folder) / "checkpoints"),
        "num_train_epochs": EPOCHS,
        "learning_rate": 2e-5,
        "bf16": gpu,
        "use_cpu": not gpu,
        "activation_checkpointing": plan.checkpointing,
        "activation_checkpointing_kwargs": {"use_reentrant": False} if plan.checkpointing else None,
        "save_strategy": "no",
        "logging_strategy": "epoch",
        "report_to": [],
        "disable_tqdm": True,
        "seed": 42,
    }


def flash_or_sdpa() -> str:
    """Flash attention where transformers has it, else PyTorch's own, whose kernel for one conversation is the same."""
    from transformers.utils import is_flash_attn_2_available

    return "flash_attention_2" if is_flash_attn_2_available() else "sdpa"


def adapted_model(plan: Plan) -> Any:
    """The base model with adapters, as transformers and PEFT give it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    dtype = torch.bfloat16 if has_gpu() else torch.float32
    model = AutoModelForCausalLM.from_pretrained(plan.model, dtype=dtype, attn_implementation=flash_or_sdpa())
    model.config.use_cache = False
    if plan.checkpointing:
        model.enable_input_require_grads()
    if not has_gpu():
        torch.set_num_threads(1)  # as ours does for a model of this size
    targets = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
    return get_peft_model(
        model, LoraConfig(task_type="CAUSAL_LM", r=LORA_R, lora_alpha=LORA_ALPHA, target_modules=targets)
    )


def train_azure(plan: Plan) -> None:
    """The way of Azure's component."""
    import torch
    from transformers import Trainer, TrainingArguments, set_seed

    from chat_completion.data.tokens import TokenFile

    class Rows(torch.utils.data.Dataset[Any]):  # type: ignore[misc]
        tokens = TokenFile(plan.tokens / "train.arrow")

        def __len__(self) -> int:
            return len(self.tokens)

        def __getitem__(self, index: int) -> dict[str, Any]:
            ids, labels = (torch.tensor(array) for array in self.tokens.arrays(index))
            return {"input_ids": ids, "labels": labels.long(), "attention_mask": torch.ones_like(ids)}

    set_seed(42)
    arguments = TrainingArguments(
        **common_arguments(plan),
        per_device_train_batch_size=1,  # a batch of one is as long as its conversation: there is nothing to pad
        gradient_accumulation_steps=plan.conversations,
    )
    Trainer(model=adapted_model(plan), args=arguments, train_dataset=Rows()).train()


def train_trl(plan: Plan) -> None:
    """TRL with packing."""
    import datasets
    from transformers import AutoTokenizer, set_seed
    from trl import SFTConfig, SFTTrainer

    from chat_completion.data.tokens import TokenFile

    set_seed(42)
    shape = SHAPES[plan.shape]
    tokens = TokenFile(plan.tokens / "train.arrow")
    rows = datasets.Dataset.from_dict(
        {
            "input_ids": [tokens[index].input_ids for index in range(len(tokens))],
            "labels": [tokens[index].labels for index in range(len(tokens))],
        }
    )
    # As many rows of the context's length as hold a step's tokens. They become one row in a batch: fine for flash
    # attention, and a mask of all against all elsewhere.
    packs = max(1, round(plan.conversations * sum(tokens.lengths) / len(tokens) / shape.context))
    at_once = packs if flash_or_sdpa() == "flash_attention_2" else 1
    arguments = SFTConfig(
        **common_arguments(plan),
        max_length=shape.context,
        packing=True,
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=packs // at_once,
    )
    tokenizer = AutoTokenizer.from_pretrained(plan.model)
    SFTTrainer(model=adapted_model(plan), args=arguments, train_dataset=rows, processing_class=tokenizer).train()


def train_ours(plan: Plan) -> None:
    """The component's step."""
    from chat_completion import finetune

    inputs: dict[str, Any] = {
        "preprocess_output": plan.tokens,
        "model_selector_output": plan.model,
        "pytorch_model_folder": Path(plan.folder) / "ours",
        "apply_lora": str(not plan.full).lower(),
        "merge_lora_weights": "false",
        "lora_r": LORA_R,
        "lora_alpha": LORA_ALPHA,
        "num_train_epochs": EPOCHS,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": plan.conversations,
        "learning_rate": 2e-5,
        "precision": 16,
        "evaluation_strategy": "disable",
        "logging_strategy": "epoch",
    }
    finetune.run([part for name, value in inputs.items() for part in (f"--{name}", str(value))])
    shutil.rmtree(inputs["pytorch_model_folder"])


WAYS = {"azure": train_azure, "trl": train_trl, "ours": train_ours}
