"""Quark (Lu et al., arXiv 2205.13636), in the form that AlpacaFarm has: imitate the best quantile of all samples, stay near."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from plaudit.methods.entry import ANSWERS, Axes, Entry, Making
from plaudit.methods.recipe import Groups, OnPolicyConfig, Recipe, Signals, Terms, Values
from plaudit.objectives.imitation import quark as quark_objective
from plaudit.objectives.imitation import reward_quantile
from plaudit.training.config import check, whole


@dataclass(frozen=True, kw_only=True)
class QuarkConfig(OnPolicyConfig):
    """Settings of Quark.

    Attributes:
        outputs_per_context: one is enough, since all outputs of an asking are ranked together.
        quantiles: parts of equal size that the pool is sorted into, of which the best is learned from; 4 is AlpacaFarm's, 5
            the paper's.
        beta: strength of the pull to the frozen weights below the adapters, by the exact divergence; with 0 no adapters are
            needed, and kl_coefficient can pull by its estimate.
    """

    contexts_per_rollout: int = 64
    outputs_per_context: int = 1
    quantiles: int = 4
    beta: float = 0.05

    def __post_init__(self) -> None:
        OnPolicyConfig.__post_init__(self)
        check(self, "quantiles", whole(self.quantiles, 1), "a whole number >= 1")
        pool = self.contexts_per_rollout * self.outputs_per_context
        check(self, "quantiles", self.quantiles <= pool, f"at most the outputs of an asking, {pool}")
        check(self, "beta", 0 <= self.beta < float("inf"), "a number >= 0")


def quark(config: QuarkConfig) -> Recipe:
    """The recipe: ``mean_t [-log π(y_t) + β KL(p0 || π)_t]`` over the samples in the best quantile of an asking's rewards.

    The quantile is one of all outputs of the asking, whatever their contexts: easy contexts are learned from more often than
    with `best_of_n`. With one quantile it is fine-tuning on own samples, which changes no expectation.

    Deviations from Lu et al.: as in AlpacaFarm's default, the pool is that of one asking, and the best quantile alone is
    learned from, without control tokens. Of both: the divergence is the forward one, as in `superhf`, and there is no entropy
    bonus. Equal rewards lie in one quantile; where all are equal, all are learned from.
    """

    def signals(groups: Groups) -> Signals:
        quantile = torch.zeros_like(groups.reward, dtype=torch.long)
        quantile[groups.mask] = reward_quantile(groups.reward[groups.mask], quantiles=config.quantiles)
        best = quantile[groups.mask].min()  # equals at the top can reach below the first quantile
        return {"kept": (groups.mask & (quantile == best)).float()}

    def objective(terms: Terms) -> Values:
        kept = terms.mask & (terms.signal["kept"] > 0)[:, None]
        divergence = torch.zeros_like(terms.log_prob) if terms.divergence is None else terms.divergence
        return quark_objective(terms.log_prob, divergence, kept, beta=config.beta)

    return Recipe("quark", signals, objective, fewest=1, contrast=False, divergence=config.beta > 0)


ENTRIES = (
    Entry(
        "quark", ANSWERS, "the best quantile of all samples", "yes", "on-policy",
        "samples; gradients of the kept ones only; the reference's distribution, a chunk at a time",
        "one output a context, and rewards that compare contexts", "Lu et al., arXiv 2205.13636",
        Axes("scores", "outcome", "imitation"), Making(quark, QuarkConfig),
    ),
)  # fmt: skip
