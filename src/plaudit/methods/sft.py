"""Supervised fine-tuning: the policy imitates demonstrations."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch

from plaudit.methods.entry import POLICY, Axes, Entry
from plaudit.objectives import Aggregation
from plaudit.objectives.imitation import negative_log_likelihood
from plaudit.policies import CausalLM, Sequence
from plaudit.training import ExampleLoss, Stateless, Step
from plaudit.training.config import check
from plaudit.training.randomness import batch_indices


@dataclass(frozen=True, kw_only=True)
class SFTConfig:
    """Settings of supervised fine-tuning.

    Attributes:
        aggregation: whether the loss is a mean over tokens, over outputs of their mean, or over outputs of their sum.
    """

    aggregation: Aggregation = "token-mean"

    def __post_init__(self) -> None:
        known = ("token-mean", "sequence-mean", "sequence-sum")
        check(self, "aggregation", self.aggregation in known, f"one of {', '.join(known)}")


class SFT(Stateless):
    """Imitation of outputs, token by token."""

    name = "sft"

    def __init__(self, policy: CausalLM, demonstrations: Rows[Sequence], config: SFTConfig) -> None:
        self.trainable = policy
        self.demonstrations = demonstrations
        self.config = config

    def collect(self, step: Step) -> list[Sequence]:
        """The step's demonstrations."""
        count = len(self.demonstrations)
        return [
            self.demonstrations[index] for index in batch_indices(count, step.batch_size, step.index, seed=step.seed)
        ]

    def sequences(self, example: Sequence) -> tuple[Sequence]:
        """The demonstration."""
        return (example,)

    def loss(self, examples: Rows[Sequence]) -> ExampleLoss:
        """Negative log-likelihood of each demonstration."""
        log_prob = self.trainable.log_prob_of(examples)
        value, weight = negative_log_likelihood(log_prob.per_step, log_prob.mask, aggregation=self.config.aggregation)
        per_token = -log_prob.sum() / log_prob.lengths
        metrics = {"nats_per_token": torch.where(log_prob.lengths > 0, per_token, torch.nan)}
        return ExampleLoss(value, weight, metrics, tokens=sum(map(len, examples)))


ENTRIES = (
    Entry(
        "sft", "demonstrations, edits", "none: imitation", "no", "off-policy", POLICY,
        "there are outputs worth imitating; the usual first step", "maximum likelihood",
        Axes("demonstrations", "none", "imitation"),
    ),
)  # fmt: skip
