"""Simple preference optimisation (Meng et al., arXiv 2405.14734): the mean log-probability is the reward, no reference."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch

from plaudit.methods.encoding import EncodedPair
from plaudit.methods.entry import PAIRS, POLICY, Axes, Entry
from plaudit.methods.pairwise import Pairwise, mean_per_token, sides, win_share
from plaudit.objectives.preferences import simpo
from plaudit.policies import CausalLM
from plaudit.training import ExampleLoss
from plaudit.training.config import check


@dataclass(frozen=True, kw_only=True)
class SimPOConfig:
    """Settings of SimPO.

    Attributes:
        beta: scale of the reward; there is no reference to pull to.
        margin: by how much the rewards should differ (the paper's γ; half of beta and more there).
    """

    beta: float = 2.0
    margin: float = 1.0

    def __post_init__(self) -> None:
        check(self, "beta", 0 < self.beta < float("inf"), "a number > 0")
        check(self, "margin", 0 <= self.margin < float("inf"), "a number >= 0")


class SimPO(Pairwise[CausalLM]):
    """SimPO on pairs of outputs."""

    name = "simpo"

    def __init__(self, policy: CausalLM, pairs: Rows[EncodedPair], config: SimPOConfig) -> None:
        super().__init__(policy, pairs)
        self.config = config

    def loss(self, examples: Rows[EncodedPair]) -> ExampleLoss:
        """``-log σ(β a_w - β a_l - γ)`` of mean log-probabilities a, equation 6."""
        sequences = sides(examples)
        chosen, rejected = mean_per_token(self.trainable.log_prob_of(sequences)).chunk(2)
        value = simpo(chosen, rejected, beta=self.config.beta, margin=self.config.margin)
        reward_margin = self.config.beta * (chosen - rejected)
        metrics = {"accuracy": win_share(reward_margin), "reward_margin": reward_margin}
        return ExampleLoss(value, torch.ones_like(value), metrics, tokens=sum(map(len, sequences)))


ENTRIES = (
    Entry(
        "simpo", PAIRS, "preference", "no", "off-policy", POLICY, "pairs whose outputs differ in length; no reference at hand",
        "Meng et al., arXiv 2405.14734", Axes("pairs", "implicit", "direct loss"),
    ),
)  # fmt: skip
