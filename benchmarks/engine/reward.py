"""A reward model: loss and gradients of pairs of unequal lengths, ours and RewardTrainer's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from plaudit.methods import RewardConfig, RewardModelling
from plaudit.rewards import RewardModel

from . import peers
from .cases import ADAPTERS, Case, as_pairs, fill_adapters, unequal_groups
from .flops import Floor, distinct
from .losses import Side, agreement, stepping
from .measuring import OURS, Step

SIDES = (OURS, "trl")


def cases(model: str, dtypes: list[str]) -> list[Case]:
    """Four pairs of prompts up to 256 tokens and outputs up to 128."""
    return [
        Case(workload="reward", model=model, dtype=dtype, prompts=4, outputs=2, prompt_tokens=256, output_tokens=128)
        for dtype in dtypes
    ]


def losses(case: Case, side: str) -> Side:
    """The trained module of a side, and its loss."""
    pairs = as_pairs(unequal_groups(case))
    if side != OURS:
        trainer, head = peers.reward_trainer(case)
        fill_head(head)
        batch = peers.reward_batch(pairs)
        return trainer.model, lambda: peers.loss_of(trainer, batch)
    model = RewardModel.load(case.folder, lora=ADAPTERS, dtype=case.dtype)
    fill_adapters(model.scorer)
    fill_head(model.scorer.head.weight)
    method = RewardModelling(model, pairs, RewardConfig())

    def loss() -> Tensor:
        return method.loss(pairs).value.mean()

    return model.scorer, loss


def fill_head(weight: Tensor) -> None:
    """Give a head values that are alike on both sides."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))


def build(case: Case, side: str) -> Step:
    """Forward and backward pass."""
    return stepping(*losses(case, side))


def check(case: Case) -> dict[str, Any]:
    """Both sides' loss and gradients; raises where they differ in float32."""
    return {"trl": agreement(case, losses(case, OURS), losses(case, "trl"))}


def floor(case: Case, config: Any) -> dict[str, int]:
    """What the step cannot do without; the head's one number a sequence does not count."""
    amount = distinct([sequence for group in unequal_groups(case) for sequence in group], whole=True)
    costs = Floor(config, bytes_per_number=case.torch_dtype.itemsize)
    flop = costs.forward(amount) + costs.backward(amount)
    return {"tokens": amount.tokens, "flop": flop, "bytes": costs.training_bytes(amount)}
