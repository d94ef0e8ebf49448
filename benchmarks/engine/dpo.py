"""DPO: loss and gradients of a batch of pairs, ours and DPOTrainer's.

The reference's log-probabilities are computed in the step, by switching the adapters off, or beforehand, on both sides. The
optimiser's step, which is the same, is on neither side.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from plaudit.methods import DPO, DPOConfig
from plaudit.policies import Reference

from . import peers
from .cases import Case, as_pairs, groups, load_policy
from .flops import Floor, distinct
from .losses import Side, agreement, stepping
from .measuring import OURS, Step

SIDES = (OURS, "trl")


def cases(model: str, dtypes: list[str], prompt_tokens: list[int], references: list[str]) -> list[Case]:
    """Four pairs with outputs of 64 tokens."""
    return [
        Case(
            workload="dpo",
            model=model,
            dtype=dtype,
            prompts=4,
            outputs=2,
            prompt_tokens=length,
            output_tokens=64,
            reference=reference,
        )
        for length in prompt_tokens
        for reference in references
        for dtype in dtypes
    ]


def losses(case: Case, side: str) -> Side:
    """The trained module of a side, and its loss."""
    pairs = as_pairs(groups(case))
    if side != OURS:
        trainer = peers.dpo_trainer(case)
        batch = peers.dpo_batch(trainer, pairs)
        return trainer.model, lambda: peers.loss_of(trainer, batch)
    policy = load_policy(case)
    prepared = Reference(policy)
    if case.reference == "beforehand":
        prepared.prepare([sequence for pair in pairs for sequence in (pair.chosen, pair.rejected)])

    def loss() -> Tensor:
        reference = prepared if case.reference == "beforehand" else Reference(policy)
        return DPO(policy, reference, pairs, DPOConfig(beta=0.1)).loss(pairs).value.mean()

    return policy.model, loss


def build(case: Case, side: str) -> Step:
    """Forward and backward pass."""
    return stepping(*losses(case, side))


def check(case: Case) -> dict[str, Any]:
    """Both sides' loss and gradients; raises where they differ in float32."""
    return {"trl": agreement(case, losses(case, OURS), losses(case, "trl"))}


def floor(case: Case, config: Any) -> dict[str, int]:
    """What the step cannot do without."""
    amount = distinct([sequence for group in groups(case) for sequence in group])
    costs = Floor(config, bytes_per_number=case.torch_dtype.itemsize)
    flop, passes = costs.forward(amount) + costs.backward(amount), 2
    if case.reference == "step":
        flop, passes = flop + costs.forward(amount, adapters=False), 3
    return {"tokens": amount.tokens, "flop": flop, "bytes": costs.training_bytes(amount, passes=passes)}
