"""Group policy gradient (Chu et al., arXiv 2504.02546): centred rewards; no ratio, clip, reference or division by spread."""

from __future__ import annotations

from dataclasses import dataclass

from plaudit.methods.entry import Making, on_policy
from plaudit.methods.recipe import Groups, OnPolicyConfig, Recipe, Signals, Terms, Values, expect_fresh
from plaudit.objectives.policy_gradient import gpg_advantage, policy_gradient
from plaudit.training.config import check


@dataclass(frozen=True, kw_only=True)
class GPGConfig(OnPolicyConfig):
    """Settings of GPG.

    Attributes:
        scale: what centred rewards are divided by (the paper's F_norm); raising it makes the gradient smaller.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        OnPolicyConfig.__post_init__(self)
        check(self, "scale", 0 < self.scale < float("inf"), "a number > 0")
        expect_fresh(self, "GPG")


def gpg(config: GPGConfig) -> Recipe:
    """The recipe of GPG: ``-α (R_i - mean R) / F log π(y_t)``, averaged over all tokens of the batch.

    ``α = n / (n - m)`` where m of the n outputs stand in groups of equal rewards: such groups have no gradient, but their
    tokens count in the mean, and α undoes that. So they are kept here, unlike in the group-relative recipes, which leave
    them out: where all outputs are equally long, both give the same gradient.

    Reference:
        Chu et al., "GPG: A Simple and Strong Reinforcement Learning Baseline for Model Reasoning", arXiv 2504.02546,
        equation 7. α counts as in `gpg_advantage`, not as in verl.
    """

    def signals(groups: Groups) -> Signals:
        return {"advantage": gpg_advantage(groups.reward, groups.mask, scale=config.scale)}

    def objective(terms: Terms) -> Values:
        return policy_gradient(terms.log_prob, terms.advantage, terms.mask, aggregation="token-mean")

    return Recipe("gpg", signals, objective, contrast=False)


ENTRIES = (
    on_policy(
        "gpg", Making(gpg, GPGConfig), "reward minus the group's mean, scaled up for groups without contrast",
        "the plainest of the group-relative ones: fresh samples, one update an asking", "Chu et al., arXiv 2504.02546",
    ),
)  # fmt: skip
