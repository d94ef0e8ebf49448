"""Odds ratio preference optimisation (Hong et al., arXiv 2403.07691): likelihood and preference at once, no reference."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch

from plaudit.methods.encoding import EncodedPair
from plaudit.methods.entry import PAIRS, POLICY, Axes, Entry
from plaudit.methods.pairwise import Pairwise, mean_per_token, sides, win_share
from plaudit.objectives.preferences import orpo
from plaudit.policies import CausalLM
from plaudit.training import ExampleLoss
from plaudit.training.config import check


@dataclass(frozen=True, kw_only=True)
class ORPOConfig:
    """Settings of ORPO.

    Attributes:
        odds_weight: of the odds ratio beside the likelihood (the paper's λ); 0 is fine-tuning on the chosen outputs.
    """

    odds_weight: float = 0.1

    def __post_init__(self) -> None:
        check(self, "odds_weight", 0 <= self.odds_weight < float("inf"), "a number >= 0")


class ORPO(Pairwise[CausalLM]):
    """ORPO on pairs of outputs."""

    name = "orpo"

    def __init__(self, policy: CausalLM, pairs: Rows[EncodedPair], config: ORPOConfig) -> None:
        super().__init__(policy, pairs)
        self.config = config

    def loss(self, examples: Rows[EncodedPair]) -> ExampleLoss:
        """``-a_w - λ log σ(log odds(a_w) - log odds(a_l))`` of mean log-probabilities a, equations 6 and 7."""
        sequences = sides(examples)
        chosen, rejected = mean_per_token(self.trainable.log_prob_of(sequences)).chunk(2)
        value = orpo(chosen, rejected, odds_weight=self.config.odds_weight)
        metrics = {"accuracy": win_share(chosen - rejected), "nats_per_token_chosen": -chosen}
        return ExampleLoss(value, torch.ones_like(value), metrics, tokens=sum(map(len, sequences)))


ENTRIES = (
    Entry(
        "orpo", PAIRS, "preference", "no", "off-policy", POLICY, "from a base model in one stage, without fine-tuning first",
        "Hong et al., arXiv 2403.07691", Axes("pairs", "implicit", "direct loss"),
    ),
)  # fmt: skip
