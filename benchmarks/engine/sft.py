"""Supervised fine-tuning: loss and gradients of demonstrations of unequal lengths, ours and SFTTrainer's.

TRL pads the rows (packing off), or lays them out as one row whose positions start anew (`padding_free`, what its packing uses):
there, without FlashAttention, attention is computed of all rows' tokens with all, and masked.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from plaudit.methods import SFT, SFTConfig

from . import peers
from .cases import Case, load_policy, unequal_groups
from .flops import Floor, distinct
from .losses import Side, agreement, stepping
from .measuring import OURS, Step

SIDES = (OURS, "trl", "trl_padding_free")


def cases(model: str, dtypes: list[str]) -> list[Case]:
    """Eight demonstrations of prompts up to 256 tokens and outputs up to 128."""
    return [
        Case(workload="sft", model=model, dtype=dtype, prompts=8, outputs=1, prompt_tokens=256, output_tokens=128)
        for dtype in dtypes
    ]


def losses(case: Case, side: str) -> Side:
    """The trained module of a side, and its loss: the mean over all output tokens."""
    sequences = [sequence for group in unequal_groups(case) for sequence in group]
    if side != OURS:
        trainer = peers.sft_trainer(case)
        batch = peers.sft_batch(sequences, padding_free=side == "trl_padding_free")
        return trainer.model, lambda: peers.loss_of(trainer, batch)
    policy = load_policy(case)
    method = SFT(policy, sequences, SFTConfig())

    def loss() -> Tensor:
        found = method.loss(sequences)
        return (found.value * found.weight).sum() / found.weight.sum()

    return policy.model, loss


def build(case: Case, side: str) -> Step:
    """Forward and backward pass."""
    return stepping(*losses(case, side))


def check(case: Case) -> dict[str, Any]:
    """Ours beside each of TRL's ways; raises where they differ in float32."""
    return {side: agreement(case, losses(case, OURS), losses(case, side)) for side in SIDES if side != OURS}


def floor(case: Case, config: Any) -> dict[str, int]:
    """What the step cannot do without."""
    amount = distinct([sequence for group in unequal_groups(case) for sequence in group])
    costs = Floor(config, bytes_per_number=case.torch_dtype.itemsize)
    flop = costs.forward(amount) + costs.backward(amount)
    return {"tokens": amount.tokens, "flop": flop, "bytes": costs.training_bytes(amount)}
