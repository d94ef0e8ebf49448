"""General preference modelling: who beats whom is fitted to comparisons with ties, and may run in circles."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass

from plaudit.methods.encoding import EncodedPair
from plaudit.methods.entry import PAIRS, Axes, Entry
from plaudit.methods.pairwise import Pairwise, comparison_loss
from plaudit.rewards import PreferenceModel
from plaudit.training import ExampleLoss
from plaudit.training.config import check


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig:
    """Settings of general preference modelling.

    Attributes:
        tie_width: logit within which ties are likely (Rao and Kupper); used only where ties are kept.
    """

    tie_width: float = 0.5

    def __post_init__(self) -> None:
        check(self, "tie_width", self.tie_width > 0, "a number > 0")


class PreferenceModelling(Pairwise[PreferenceModel]):
    """A preference model learns which of two outputs was preferred: its logit stands where a reward's difference stands."""

    name = "preference"

    def __init__(self, model: PreferenceModel, pairs: Rows[EncodedPair], config: PreferenceConfig) -> None:
        super().__init__(model, pairs)
        self.config = config
        self.ties = any(pair.tie for pair in pairs)

    def loss(self, examples: Rows[EncodedPair]) -> ExampleLoss:
        """Loss of each pair."""
        logit = self.trainable.logits([pair.chosen for pair in examples], [pair.rejected for pair in examples])
        return comparison_loss(
            logit, examples, tie_width=self.config.tie_width if self.ties else None, gap_name="logit"
        )


ENTRIES = (
    Entry(
        "preference", f"{PAIRS}, ties", "preference, cycles too", "no", "off-policy", "a preference model",
        "tastes that no reward explains: mixed populations, cycles", "Zhang et al., arXiv 2410.02197",
        Axes("pairs", "model", "direct loss"),
    ),
)  # fmt: skip
