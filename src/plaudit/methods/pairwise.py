"""What methods that learn from pairs of outputs share: a step's pairs, and both outputs of a pair side by side."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from plaudit.methods.encoding import EncodedPair
from plaudit.objectives.reward_models import bradley_terry, rao_kupper
from plaudit.policies import CausalLM, LogProb, Sequence
from plaudit.rewards import PreferenceModel, RewardModel
from plaudit.training import ExampleLoss, Stateless, Step
from plaudit.training.randomness import batch_indices

ModelT = TypeVar("ModelT", CausalLM, RewardModel, PreferenceModel)


class Pairwise(Stateless, Generic[ModelT]):
    """A policy, or a model that judges, and the pairs that it learns from."""

    def __init__(self, model: ModelT, pairs: Rows[EncodedPair]) -> None:
        self.trainable: ModelT = model
        self.pairs = pairs

    def collect(self, step: Step) -> list[EncodedPair]:
        """The step's pairs."""
        return [
            self.pairs[index] for index in batch_indices(len(self.pairs), step.batch_size, step.index, seed=step.seed)
        ]

    def sequences(self, example: EncodedPair) -> tuple[Sequence, Sequence]:
        """Both outputs of a pair."""
        return example.chosen, example.rejected


def comparison_loss(
    difference: Float[Tensor, " B"],
    pairs: Rows[EncodedPair],
    *,
    tie_width: float | None,
    margin: Float[Tensor, " B"] | None = None,
    gap_name: str,
) -> ExampleLoss:
    """Loss of a model that judges, from ``log P(chosen > rejected) / P(rejected > chosen)`` without ties.

    Args:
        difference: how far the chosen output is ahead.
        pairs: what was said.
        tie_width: of Rao and Kupper's model. None: trained without ties, the model gives them no probability, and held-out
            ones do not count.
        margin: by how much it should be ahead, at least 0.
        gap_name: of the metric that shows the difference.
    """
    tie = torch.tensor([pair.tie for pair in pairs], device=difference.device)
    nothing, ahead = torch.zeros_like(difference), difference.detach()
    if tie_width is None:
        value = bradley_terry(difference, nothing, margin=margin)
        weight = (~tie).to(value)
    else:
        value = rao_kupper(difference, nothing, tie, tie_width=tie_width, margin=margin)
        weight = torch.ones_like(value)
    metrics = {
        "accuracy": torch.where(tie, torch.nan, win_share(ahead)),
        gap_name: torch.where(tie, torch.nan, ahead),
    }
    return ExampleLoss(value, weight, metrics, tokens=sum(len(pair.chosen) + len(pair.rejected) for pair in pairs))


def sides(pairs: Rows[EncodedPair]) -> list[Sequence]:
    """All chosen outputs, then all rejected ones: they go through the model side by side."""
    return [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]


def mean_per_token(log_prob: LogProb) -> Float[Tensor, " N"]:
    """Log-probability of each output, averaged over its tokens."""
    return log_prob.sum() / log_prob.lengths.clamp(min=1)


def win_share(margin: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """1 where the chosen output is ahead, 0 where it is behind, 1/2 where neither is."""
    return (margin > 0).float() + 0.5 * (margin == 0).float()
