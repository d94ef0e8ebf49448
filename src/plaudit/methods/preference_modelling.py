"""General preference modelling: who beats whom is fitted to comparisons with ties, and may run in circles."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch

from plaudit.methods.encoding import EncodedPair
from plaudit.methods.entry import PAIRS, Axes, Entry
from plaudit.methods.pairwise import win_share
from plaudit.objectives.reward_models import bradley_terry, rao_kupper
from plaudit.policies import Sequence
from plaudit.rewards import PreferenceModel
from plaudit.training import ExampleLoss, Stateless, Step
from plaudit.training.config import check
from plaudit.training.randomness import batch_indices


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig:
    """Settings of general preference modelling.

    Attributes:
        tie_width: logit within which ties are likely (Rao and Kupper); used only where ties are kept.
    """

    tie_width: float = 0.5

    def __post_init__(self) -> None:
        check(self, "tie_width", self.tie_width > 0, "a number > 0")


class PreferenceModelling(Stateless):
    """A preference model learns which of two outputs was preferred: its logit stands where a reward's difference stands."""

    name = "preference"

    def __init__(self, model: PreferenceModel, pairs: Rows[EncodedPair], config: PreferenceConfig) -> None:
        self.trainable = model
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
        """Loss of each pair; trained without ties, it gives them no probability, and held-out ones do not count."""
        logit = self.trainable.logits([pair.chosen for pair in examples], [pair.rejected for pair in examples])
        tie = torch.tensor([pair.tie for pair in examples], device=logit.device)
        nothing = torch.zeros_like(logit)
        if self.ties:
            value = rao_kupper(logit, nothing, tie, tie_width=self.config.tie_width)
            weight = torch.ones_like(value)
        else:
            value = bradley_terry(logit, nothing)
            weight = (~tie).to(value)
        metrics = {
            "accuracy": torch.where(tie, torch.nan, win_share(logit.detach())),
            "logit": torch.where(tie, torch.nan, logit.detach()),
        }
        tokens = sum(len(pair.chosen) + len(pair.rejected) for pair in examples)
        return ExampleLoss(value, weight, metrics, tokens=tokens)


ENTRIES = (
    Entry(
        "preference", f"{PAIRS}, ties", "preference, cycles too", "no", "off-policy", "a preference model",
        "tastes that no reward explains: mixed populations, cycles", "Zhang et al., arXiv 2410.02197",
        Axes("pairs", "model", "direct loss"),
    ),
)  # fmt: skip
