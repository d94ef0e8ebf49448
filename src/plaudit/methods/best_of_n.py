"""Imitation of the best of several samples: best-of-n distillation, RAFT, expert iteration."""

from __future__ import annotations

from dataclasses import dataclass

from plaudit.methods.entry import Axes, Making, on_policy
from plaudit.methods.recipe import Groups, OnPolicyConfig, Recipe, Signals, Terms, Values
from plaudit.objectives import Aggregation
from plaudit.objectives.imitation import rejection_fine_tuning, top_outputs
from plaudit.training.config import check, whole


@dataclass(frozen=True, kw_only=True)
class BestOfNConfig(OnPolicyConfig):
    """Settings of imitating the best of outputs_per_context samples.

    Attributes:
        top_k: outputs of each context that are imitated; equals at the border are all kept.
        aggregation: whether the loss is a mean over tokens, over outputs of their mean, or over outputs of their sum.
    """

    top_k: int = 1
    aggregation: Aggregation = "token-mean"

    def __post_init__(self) -> None:
        OnPolicyConfig.__post_init__(self)
        check(self, "top_k", whole(self.top_k, 1), "a whole number >= 1")
        fits = self.top_k <= self.outputs_per_context
        check(self, "top_k", fits, f"at most outputs_per_context, {self.outputs_per_context}")
        known = ("token-mean", "sequence-mean", "sequence-sum")
        check(self, "aggregation", self.aggregation in known, f"one of {', '.join(known)}")


def best_of_n(config: BestOfNConfig) -> Recipe:
    """The recipe: ``-log π(y|x)`` of the samples with fewer than top_k better ones in their group.

    One update per asking is RAFT; many (updates_per_rollout) approach expert iteration, which asks once and then fine-tunes.
    One sample, top_k 1, is fine-tuning on the policy's own samples, which changes no expectation.

    Reference:
        Dong et al., "RAFT: Reward rAnked FineTuning", arXiv 2304.06767; Anthony et al., "Thinking fast and slow with deep
        learning and tree search", arXiv 1705.08439 (expert iteration); AlpacaFarm, arXiv 2305.14387, best-of-16 and SFT.
    """

    def signals(groups: Groups) -> Signals:
        return {"kept": top_outputs(groups.reward, groups.mask, keep=config.top_k).float()}

    def objective(terms: Terms) -> Values:
        kept = terms.signal["kept"] > 0
        return rejection_fine_tuning(terms.log_prob, terms.mask, kept, aggregation=config.aggregation)

    return Recipe("best-of-n", signals, objective, fewest=1, contrast=False)


ENTRIES = (
    on_policy(
        "best-of-n", Making(best_of_n, BestOfNConfig), "the best of the group", "stable, slow; RAFT, expert iteration",
        "Dong et al., arXiv 2304.06767", memory="samples; gradients of the kept ones only",
        axes=Axes("scores", "outcome", "imitation"),
    ),
)  # fmt: skip
