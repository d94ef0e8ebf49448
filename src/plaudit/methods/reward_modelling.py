"""Reward modelling: a reward is fitted to comparisons by Bradley and Terry's model, with margins and ties."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass

from plaudit.methods.encoding import EncodedPair
from plaudit.methods.entry import PAIRS, Axes, Entry
from plaudit.methods.pairwise import Pairwise, comparison_loss, sides
from plaudit.rewards import RewardModel
from plaudit.training import ExampleLoss
from plaudit.training.config import check


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


class RewardModelling(Pairwise[RewardModel]):
    """A reward model learns which of two outputs was preferred."""

    name = "reward"

    def __init__(self, reward_model: RewardModel, pairs: Rows[EncodedPair], config: RewardConfig) -> None:
        super().__init__(reward_model, pairs)
        self.config = config
        self.ties = any(pair.tie for pair in pairs)

    def loss(self, examples: Rows[EncodedPair]) -> ExampleLoss:
        """Loss of each pair; both outputs go through the model side by side."""
        chosen, rejected = self.trainable.raw(sides(examples)).chunk(2)
        margin = self.config.margin_weight * chosen.new_tensor([pair.margin or 0.0 for pair in examples])
        width = self.config.tie_width if self.ties else None
        return comparison_loss(chosen - rejected, examples, tie_width=width, margin=margin, gap_name="reward_margin")


ENTRIES = (
    Entry(
        "reward", f"{PAIRS}, ties, margins", "preference", "no", "off-policy", "a reward model",
        "a judge of new outputs is needed, for the on-policy methods", "Stiennon et al., arXiv 2009.01325",
        Axes("pairs", "model", "direct loss"),
    ),
)  # fmt: skip
