"""Packed conversations have the loss that they have alone, or the training does not begin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chat_completion.common.refusal import Refusal


def prepared(base: Any, few: list[Any]) -> tuple[float, Any]:
    """The loss of conversations by themselves; the model is packed from then on, with this head."""
    import torch

    from chat_completion.trainer import sameness
    from chat_completion.trainer.loss import LabelledHead

    with torch.no_grad():
        expected = sameness.plain_loss(base, few)
    base.set_attn_implementation("packed_each")
    base.config.use_cache = False
    return expected, LabelledHead(base)


def test_a_packing_that_changes_the_loss_is_refused() -> None:
    """As if the model's type did something to its logits that the packed loss knows nothing of."""
    import torch

    from chat_completion.trainer import sameness
    from chat_completion.trainer.attention import register
    from tests.unit.components.tiny import conversations, model

    register()
    base = model().eval()
    few = [(torch.tensor(one.input_ids).numpy(), torch.tensor(one.labels).numpy()) for one in conversations(3)]
    expected, head = prepared(base, few)
    with head.in_place():
        sameness.check_sameness(base, head, few, expected=expected, half=False)
        with pytest.raises(Refusal, match=r"'phi3'.*packing would change what is learnt"):
            sameness.check_sameness(base, head, few, expected=expected + 0.1, half=False)


def test_a_window_that_attention_forgets_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shortest conversations fit into the window: the longest has to be looked at, too."""
    import torch

    from chat_completion.data.tokens import TokenFile
    from chat_completion.trainer import attention, sameness
    from tests.unit.components.tiny import conversations, model, write_tokens

    attention.register()
    write_tokens(tmp_path / "train.arrow", conversations(30))
    split = TokenFile(tmp_path / "train.arrow")
    assert sameness.long_conversations(split, window=None) == sameness.long_conversations(split, window=24) == []
    base = model(sliding_window=9).eval()
    few = sameness.shortest_conversations(split, count=3) + sameness.long_conversations(
        split, window=base.config.sliding_window
    )
    assert [len(ids) > 9 for ids, _ in few] == [False, False, False, True]
    expected, head = prepared(base, few)
    with head.in_place():
        sameness.check_sameness(base, head, few, expected=expected, half=False)
        monkeypatch.setattr(attention, "band", lambda length, *_: torch.ones(length, length, dtype=torch.bool).tril())
        with pytest.raises(Refusal, match="packing would change what is learnt"):
            sameness.check_sameness(base, head, few, expected=expected, half=False)
