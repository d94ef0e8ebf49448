"""Reward modelling: a reward is fitted to comparisons by Bradley and Terry's model, with margins and ties."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch

from plaudit.methods.encoding import EncodedPair
from plaudit.methods.entry import PAIRS, Axes, Entry
from plaudit.objectives.reward_models import bradley_terry, rao_kupper
from plaudit.policies import Sequence
from plaudit.rewards import RewardModel
from plaudit.training import ExampleLoss, Stateless, Step
from plaudit.training.config import check
from plaudit.training.randomness import batch_indices


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """Settings of reward modelling.

    Attributes:
        margin_weight: how much gap in reward a margin of 1 in the feedback asks for; 0 ignores margins.
        tie_width: difference in reward within which ties are likely (Rao and Kupper); used only where ties are kept.
    """

    margin_weight: float = 0.0
    tie_width: float = 0.5

    def __post_init__(self) -> None:
        check(self, "margin_weight", self.margin_weight >= 0, "a number >= 0")
        check(self, "tie_width", self.tie_width > 0, "a number > 0")


class RewardModelling(Stateless):
    """A reward model learns which of two outputs was preferred."""

    name = "reward"

    def __init__(self, reward_model: RewardModel, pairs: Rows[EncodedPair], config: RewardConfig) -> None:
        self.trainable = reward_model
        self.pairs = pairs
        self.config = config
        self.ties = any(pair.tie for pair in pairs)

    def collect(self, step: Step) -> list[EncodedPair]:
        """The step's pairs."""
        return [
            self.pairs[index] for index in batch_indices(len(self.pairs), step.batch_size, step.index, seed=step.seed)
        ]

    def sequences(self, example: EncodedPair) -> tuple[Sequence, Sequence]:
        """Both outputs of a pair."""
        return example.chosen, example.rejected

    def loss(self, examples: Rows[EncodedPair]) -> ExampleLoss:
        """Loss of each pair; both outputs go through the model side by side."""
        sequences = [pair.chosen for pair in examples] + [pair.rejected for pair in examples]
        chosen, rejected = self.trainable.raw(sequences).chunk(2)
        tie = torch.tensor([pair.tie for pair in examples], device=chosen.device)
        margin = self.config.margin_weight * torch.tensor(
            [pair.margin or 0.0 for pair in examples], device=chosen.device
        )
        if self.ties:
            value = rao_kupper(chosen, rejected, tie, tie_width=self.config.tie_width, margin=margin)
            weight = torch.ones_like(value)
        else:  # trained without ties, it gives them no probability: held-out ones do not count
            value = bradley_terry(chosen, rejected, margin=margin)
            weight = (~tie).to(value)
        difference = chosen - rejected
        right = (difference > 0).float() + 0.5 * (difference == 0).float()
        metrics = {
            "accuracy": torch.where(tie, torch.nan, right),
            "reward_margin": torch.where(tie, torch.nan, difference),
        }
        return ExampleLoss(value, weight, metrics, tokens=sum(map(len, sequences)))


ENTRIES = (
    Entry(
        "reward", f"{PAIRS}, ties, margins", "preference", "no", "off-policy", "a reward model",
        "a judge of new outputs is needed, for the on-policy methods", "Stiennon et al., arXiv 2009.01325",
        Axes("pairs", "model", "direct loss"),
    ),
)  # fmt: skip
