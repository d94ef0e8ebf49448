"""Direct preference optimisation (Rafailov et al., arXiv 2305.18290): the policy learns from pairs without a reward model."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch

from plaudit.methods.encoding import EncodedPair
from plaudit.methods.entry import PAIRS, Axes, Entry
from plaudit.methods.pairwise import Pairwise, sides, win_share
from plaudit.objectives.preferences import dpo
from plaudit.policies import CausalLM, Reference
from plaudit.training import ExampleLoss
from plaudit.training.config import check


@dataclass(frozen=True, kw_only=True)
class DPOConfig:
    """Settings of DPO.

    Attributes:
        beta: strength of the pull to the reference; raising it keeps the policy nearer to where it started.
        label_smoothing: assumed share of wrong preferences.
    """

    beta: float = 0.1
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        check(self, "beta", self.beta > 0, "a number > 0")
        check(self, "label_smoothing", 0 <= self.label_smoothing < 0.5, "a share in [0, 0.5)")


class DPO(Pairwise[CausalLM]):
    """DPO on pairs of outputs."""

    name = "dpo"

    def __init__(self, policy: CausalLM, reference: Reference, pairs: Rows[EncodedPair], config: DPOConfig) -> None:
        super().__init__(policy, pairs)
        reference.expect_tokens_of(policy)
        self.reference = reference
        self.config = config

    def loss(self, examples: Rows[EncodedPair]) -> ExampleLoss:
        """Loss of each pair; chosen and rejected outputs go through the model side by side."""
        sequences = sides(examples)
        log_prob = self.trainable.log_prob_of(sequences)
        log_ratio = log_prob.sum() - self.reference.log_prob_of(sequences).sum()
        chosen, rejected = log_ratio.chunk(2)
        value = dpo(chosen, rejected, beta=self.config.beta, label_smoothing=self.config.label_smoothing)
        reward_margin = self.config.beta * (chosen - rejected)
        metrics = {
            "accuracy": win_share(reward_margin),
            "reward_chosen": self.config.beta * chosen,
            "reward_rejected": self.config.beta * rejected,
            "reward_margin": reward_margin,
            "log_prob_chosen": log_prob.sum().chunk(2)[0],
        }
        return ExampleLoss(value, torch.ones_like(value), metrics, tokens=sum(map(len, sequences)))


ENTRIES = (
    Entry(
        "dpo", PAIRS, "preference", "yes", "off-policy", "log-probabilities of the reference, computed once",
        "there are pairs; the default", "Rafailov et al., arXiv 2305.18290", Axes("pairs", "implicit", "direct loss"),
    ),
)  # fmt: skip
