"""Packed conversations are learnt from as padded ones are: dealing, isolation, losses, gradients, steps."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat_completion.common.device import Device
from chat_completion.data.tokens import IGNORED, Example, TokenFile
from chat_completion.trainer.batches import StepSampler, deal, pack
from tests.unit.components.tiny import VOCABULARY, conversations, model, padded, write_tokens

SHAPES = {
    "as Phi-3": {},
    "fewer heads of keys": {"num_key_value_heads": 2},
    "a window": {"sliding_window": 5},
}


@given(
    st.lists(st.integers(1, 500), min_size=1, max_size=24),
    st.integers(1, 5),
    st.integers(20, 1200),
    st.none() | st.integers(1, 500),
    st.randoms(),
)
def test_a_step_is_dealt_evenly(
    lengths: list[int], processes: int, most: int, threshold: int | None, draw: random.Random
) -> None:
    rows = draw.sample(range(len(lengths)), draw.randint(1, len(lengths)))
    shards = deal(rows, lengths, processes=processes, most_tokens=most, separate_above=threshold)
    assert sorted(row for batches in shards for batch in batches for row in batch) == sorted(rows)
    assert len(shards) == processes
    assert len({len(batches) for batches in shards}) == 1
    for batch in (batch for batches in shards for batch in batches):
        assert len(batch) <= 1 or sum(lengths[row] for row in batch) <= most
        assert threshold is None or len({lengths[row] > threshold for row in batch}) <= 1
    # Each process gets the same number of tokens, up to the length of one conversation.
    tokens = [sum(lengths[row] for batch in batches for row in batch) for batches in shards]
    assert max(tokens) - min(tokens) <= max(lengths[row] for row in rows)


def test_the_steps_do_not_depend_on_the_number_of_processes() -> None:
    lengths = [length % 17 + 3 for length in range(50)]

    def steps(process: int, processes: int, epoch: int) -> list[set[int]]:
        sampler = StepSampler(lengths, conversations=8, most_tokens=40, process=process, processes=processes, seed=5)
        sampler.set_epoch(epoch)
        return [{row for batch in step for row in batch} for step in sampler]

    alone = steps(0, 1, 0)
    assert [len(step) for step in alone] == [8] * 6 + [2]
    assert [one | two for one, two in zip(steps(0, 2, 0), steps(1, 2, 0), strict=True)] == alone
    assert alone == steps(0, 1, 0) != steps(0, 1, 1)


def test_what_a_packed_batch_holds() -> None:
    batch = pack([([5, 6, 7], [5, IGNORED, 7]), ([8, 9], [IGNORED, 9])])
    assert batch.inputs["input_ids"].tolist() == [[5, 6, 7, 8, 9]]
    assert batch.inputs["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert batch.inputs["logits_to_keep"].tolist() == [1, 3]
    assert batch.targets.tolist() == [7, 9]  # not 5: nothing precedes it
    assert batch.inputs["lengths"] == (3, 2)
    assert batch.inputs["cu_seq_lens_q"].tolist() == [0, 3, 5]
    assert "attention_mask" not in batch.inputs


def losses_alone(base: Any, examples: Sequence[Example]) -> Any:
    """The loss of each labelled token, each conversation by itself, by the plainest way there is."""
    import torch
    from torch.nn.functional import cross_entropy

    base.set_attn_implementation("eager")
    losses = []
    for example in examples:
        logits = base(input_ids=torch.tensor([example.input_ids]), use_cache=False).logits[0, :-1]
        losses.append(cross_entropy(logits, torch.tensor(example.labels[1:]), reduction="none", ignore_index=IGNORED))
    mask = torch.tensor([label != IGNORED for example in examples for label in example.labels[1:]])
    return torch.cat(losses)[mask]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_packed_tokens_have_the_losses_and_gradients_of_conversations_alone(shape: dict[str, int]) -> None:
    import torch
    from torch.nn.functional import cross_entropy

    from chat_completion.trainer.attention import register
    from chat_completion.trainer.loss import LabelledHead

    register()
    base, examples = model(**shape), conversations(7)
    expected = losses_alone(base, examples)
    expected.sum().backward()
    gradients = {name: weight.grad.clone() for name, weight in base.named_parameters()}
    base.zero_grad()

    base.set_attn_implementation("packed_each")
    base.config.use_cache = False
    batch = pack([(example.input_ids, example.labels) for example in examples])
    with torch.no_grad():
        logits = base(**batch.inputs).logits[0]
    assert (cross_entropy(logits, batch.targets, reduction="none") - expected).abs().max() < 2e-5
    head = LabelledHead(base)
    head.targets = batch.targets
    with head.in_place():
        summed = base(**batch.inputs).logits
    assert summed.item() == pytest.approx(expected.sum().item(), rel=1e-6)
    summed.backward()
    for name, weight in base.named_parameters():
        assert (weight.grad - gradients[name]).abs().max() < 1e-4, name
    # The same with the boundaries forgotten is off by far: the comparison would show it.
    with torch.no_grad():
        leaking = base(**batch.inputs | {"lengths": (sum(batch.inputs["lengths"]),)}).logits[0]
    assert (cross_entropy(leaking, batch.targets, reduction="none") - expected).abs().max() > 1e-2
    assert base(input_ids=torch.tensor([[1, 2]]), use_cache=False, lengths=(2,)).logits.shape == (1, 2, VOCABULARY)


def test_a_long_conversation_changes_no_short_one(tmp_path: Path) -> None:
    """Phi-3's long-context models turn the positions of a whole batch otherwise once one of its positions is high."""
    import torch

    from chat_completion.chat_model import rotation_border
    from chat_completion.trainer.attention import register
    from chat_completion.trainer.batches import PackedDataset, pack_step

    register()
    base = model(
        original_max_position_embeddings=32,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 4,
            "long_factor": [4.0] * 4,
            "original_max_position_embeddings": 32,
        },
    ).eval()
    assert rotation_border(model().config) is None
    write_tokens(tmp_path / "train.arrow", [*conversations(5), *conversations(3, longest=60)])
    split = TokenFile(tmp_path / "train.arrow")
    assert min(split.lengths) <= 32 < max(split.lengths)
    expected = losses_alone(base, list(split)).sum()
    base.set_attn_implementation("packed_each")
    sampler = StepSampler(split.lengths, conversations=8, most_tokens=1000, separate_above=rotation_border(base.config))
    (step,) = sampler
    actual = torch.tensor(0.0)
    with torch.no_grad():
        for packed in pack_step([PackedDataset(split)[rows] for rows in step])["packed"]:
            logits = base(**packed["inputs"], use_cache=False).logits[0]
            actual += torch.nn.functional.cross_entropy(logits, packed["targets"], reduction="sum")
    assert actual.item() == pytest.approx(expected.item(), rel=1e-5)


def test_attention_refuses_a_batch_that_is_not_packed() -> None:
    import torch

    from chat_completion.trainer.attention import register

    register()
    base = model()
    base.set_attn_implementation("packed_each")
    with pytest.raises(TypeError, match="lengths"):
        base(input_ids=torch.tensor([[1, 2]]), use_cache=False)


def test_many_logits_are_never_made_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from chat_completion.trainer import loss

    torch.manual_seed(1)
    hidden, weight = torch.randn(37, 16, requires_grad=True), torch.randn(97, 16)
    targets = torch.randint(0, 97, (37,))
    loss.summed_loss(hidden, weight, targets, bias=None).backward()
    expected, hidden.grad = hidden.grad, None
    monkeypatch.setattr(loss, "MOST_VALUES", 0)
    fused = loss.summed_loss(hidden, weight, targets, bias=None)
    fused.backward()
    assert fused.item() == pytest.approx(torch.nn.functional.cross_entropy(hidden @ weight.T, targets).item() * 37)
    assert (hidden.grad - expected).abs().max() < 1e-5
    assert weight.grad is None


@pytest.mark.parametrize("adapters", [True, False], ids=["adapters", "all weights"])
def test_a_long_sum_in_sixteen_bits_loses_nothing(monkeypatch: pytest.MonkeyPatch, adapters: bool) -> None:
    import torch

    from chat_completion.trainer import loss

    torch.manual_seed(1)
    hidden, weight = torch.randn(3000, 8), torch.randn(97, 8)
    targets = torch.randint(0, 97, (3000,))
    sums = []
    for values, half in ((1 << 24, False), (97 * 500, True)):
        monkeypatch.setattr(loss, "MOST_VALUES", values)
        states, head = hidden.clone().requires_grad_(), weight.clone().requires_grad_(not adapters)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            weights = head.to(torch.bfloat16) if half and adapters else head
            summed = loss.summed_loss(states.to(weights.dtype), weights, targets, bias=None)
        summed.backward()
        assert summed.dtype == torch.float32
        sums.append((summed.item(), states.grad, head.grad))
    (expected, states_expected, head_expected), (sum_half, states_half, head_half) = sums
    assert sum_half == pytest.approx(expected, rel=1e-3)
    assert (states_half - states_expected).norm() < 1e-2 * states_expected.norm()
    assert adapters or (head_half - head_expected).norm() < 1e-2 * head_expected.norm()


def test_a_process_without_conversations_reaches_every_weight() -> None:
    from chat_completion.trainer.attention import register
    from chat_completion.trainer.loss import LabelledHead

    register()
    base, batch = model(), pack([])
    base.set_attn_implementation("packed_each")
    head = LabelledHead(base)
    head.targets = batch.targets
    with head.in_place():
        base(**batch.inputs, use_cache=False).logits.backward()
    assert all(weight.grad is not None and not weight.grad.any() for weight in base.parameters())


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_steps_are_those_of_transformers_own_trainer(tmp_path: Path) -> None:
    """Same seed, same conversations per step: the curve is the one of padded batches, whatever the packing."""
    import torch
    from transformers import Trainer, TrainingArguments, set_seed

    from chat_completion.trainer.attention import register
    from chat_completion.trainer.batches import PackedDataset
    from chat_completion.trainer.loss import LabelledHead
    from chat_completion.trainer.training import PackedTrainer

    register()
    write_tokens(tmp_path / "train.arrow", conversations(30))
    tokens = TokenFile(tmp_path / "train.arrow")

    def arguments(*, batch: int, accumulation: int) -> TrainingArguments:
        return TrainingArguments(
            output_dir=str(tmp_path),
            use_cpu=True,
            report_to=[],
            logging_steps=1,
            learning_rate=0.01,
            seed=9,
            num_train_epochs=2,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            save_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )

    def curve(trainer: Trainer) -> list[tuple[float, float]]:
        trainer.train()
        return [(line["loss"], line["grad_norm"]) for line in trainer.state.log_history if "loss" in line]

    class Rows(torch.utils.data.Dataset[Example]):  # type: ignore[misc]
        def __len__(self) -> int:
            return len(tokens)

        def __getitem__(self, row: int) -> Example:
            example: Example = tokens[row]
            return example

    set_seed(9)
    expected = curve(Trainer(model(), arguments(batch=2, accumulation=2), train_dataset=Rows(), data_collator=padded))
    assert len(expected) == 16
    for most in (1000, 30):
        set_seed(9)
        packed = model()
        packed.set_attn_implementation("packed_each")
        head = LabelledHead(packed)
        with head.in_place():
            trainer = PackedTrainer(
                head=head,
                conversations=4,
                most_tokens=most,
                model=packed,
                train_dataset=PackedDataset(tokens),
                args=arguments(batch=2, accumulation=1),
            )
            actual = curve(trainer)
        for (loss, norm), (wanted_loss, wanted_norm) in zip(actual, expected, strict=True):
            assert loss == pytest.approx(wanted_loss, rel=1e-3)
            assert norm == pytest.approx(wanted_norm, rel=1e-2)


def test_which_attention() -> None:
    from chat_completion.trainer.attention import choose_attention

    def chosen(device: Device, **changes: Any) -> str:
        return choose_attention(device, **{"half": True, "dropout": 0.0, "deterministic": False} | changes)[0]

    ampere = Device(gpus=1, bf16=True, capability=(8, 0))
    assert chosen(ampere) == "packed_varlen"
    assert chosen(ampere, half=False) == chosen(ampere, dropout=0.1) == chosen(ampere, deterministic=True)
    assert chosen(ampere, half=False) == "packed_each"
    assert chosen(Device(gpus=1, bf16=False, capability=(7, 0))) == "packed_each"
    assert chosen(Device(gpus=0, bf16=False)) == "packed_each"


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("adapters", [True, False], ids=["adapters", "all weights"])
def test_sixteen_bits_are_those_of_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapters: bool) -> None:
    """What `precision` 16 sets up, with bfloat16 on the CPU in a GPU's stead: types meet in every layer."""
    import torch
    from transformers import TrainingArguments

    from chat_completion.trainer import loss
    from chat_completion.trainer.attention import register
    from chat_completion.trainer.batches import PackedDataset
    from chat_completion.trainer.loss import LabelledHead
    from chat_completion.trainer.model import Lora, load_model
    from chat_completion.trainer.training import PackedTrainer

    register()
    model().save_pretrained(tmp_path / "base")
    write_tokens(tmp_path / "train.arrow", conversations(12))
    split = PackedDataset(TokenFile(tmp_path / "train.arrow"))

    def losses(*, half: bool) -> list[float]:
        tuned = load_model(
            tmp_path / "base",
            lora=Lora(4, 8, 0.0, merge=True) if adapters else None,
            dtype="bfloat16" if half else "float32",
            ignore_mismatched_sizes=False,
        )
        tuned.set_attn_implementation("packed_each")
        assert {weight.dtype for weight in tuned.parameters() if weight.requires_grad} == {torch.float32}
        head = LabelledHead(tuned)
        arguments = TrainingArguments(
            output_dir=str(tmp_path / "out"),
            use_cpu=True,
            bf16=half,
            report_to=[],
            logging_steps=1,
            max_steps=3,
            learning_rate=1e-3,
            eval_strategy="steps",
            eval_steps=3,
            save_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            activation_checkpointing=half,
        )
        trainer = PackedTrainer(
            head=head,
            conversations=4,
            most_tokens=40,
            model=tuned,
            args=arguments,
            train_dataset=split,
            eval_dataset=split,
        )
        with head.in_place():
            trainer.train()
        return [line[name] for line in trainer.state.log_history for name in ("loss", "eval_loss") if name in line]

    expected = losses(half=False)
    assert len(expected) == 4
    assert losses(half=True) == pytest.approx(expected, rel=2e-2)
    monkeypatch.setattr(loss, "MOST_VALUES", 0)
    assert losses(half=True) == pytest.approx(expected, rel=2e-2)


def test_the_kernel_for_variable_lengths_is_called_as_it_wants() -> None:
    """Shapes and arguments of a kernel that this machine cannot run, checked against PyTorch's description."""
    import torch
    from torch._subclasses import FakeTensorMode

    from chat_completion.trainer.attention import packed_varlen

    with FakeTensorMode():
        query = torch.empty(1, 4, 10, 16, dtype=torch.bfloat16, requires_grad=True)
        key = value = torch.empty(1, 2, 10, 16, dtype=torch.bfloat16)
        ends = torch.empty(3, dtype=torch.int32)
        for window in (None, 5):
            output, _ = packed_varlen(
                torch.nn.Identity(),
                query,
                key,
                value,
                None,
                lengths=(4, 6),
                cu_seq_lens_q=ends,
                sliding_window=window,
                dropout=0.0,
                position_ids=None,
            )
            assert (output.shape, output.dtype) == ((1, 10, 4, 16), torch.bfloat16)


@pytest.mark.parametrize("window", [None, 5])
def test_both_attentions_mean_the_same(monkeypatch: pytest.MonkeyPatch, window: int | None) -> None:
    """The kernel played by its definition: query i sees keys from i - left to i + right, -1 is no limit."""
    import torch

    from chat_completion.trainer import attention

    def played(
        q: Any, k: Any, v: Any, starts: Any, _: Any, *longest: int, window_size: Any, scale: float, **__: Any
    ) -> Any:
        assert longest == (9, 9)
        output = torch.empty_like(q)
        for start, end in itertools.pairwise(starts):
            position = torch.arange(end - start)
            ahead = position[None, :] - position[:, None]
            before, after = (limit if limit >= 0 else len(position) for limit in window_size)
            scores = torch.einsum("qhd,khd->hqk", q[start:end], k[start:end].repeat_interleave(2, dim=1)) * scale
            weights = scores.masked_fill((ahead > after) | (ahead < -before), -torch.inf).softmax(dim=-1)
            output[start:end] = torch.einsum("hqk,khd->qhd", weights, v[start:end].repeat_interleave(2, dim=1))
        return output

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", played)
    torch.manual_seed(1)
    query, key, value = (torch.randn(1, heads, 16, 8).to(torch.bfloat16) for heads in (4, 2, 2))
    arguments: dict[str, Any] = {"attention_mask": None, "lengths": (9, 7), "sliding_window": window}
    starts = torch.tensor([0, 9, 16], dtype=torch.int32)
    whole, _ = attention.packed_varlen(torch.nn.Identity(), query, key, value, cu_seq_lens_q=starts, **arguments)
    each, _ = attention.packed_each(torch.nn.Identity(), query, key, value, **arguments)
    assert whole.shape == each.shape == (1, 16, 4, 8)
    assert (whole - each).abs().max() < 0.05
