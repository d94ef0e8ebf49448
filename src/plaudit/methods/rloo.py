"""REINFORCE leave-one-out (Kool et al. 2019; Ahmadian et al., arXiv 2402.14740): the baseline is the group's other rewards."""

from __future__ import annotations

from dataclasses import dataclass

from plaudit.methods.entry import Making, on_policy
from plaudit.methods.recipe import Groups, OnPolicyConfig, Recipe, Signals, Terms, Values
from plaudit.objectives.policy_gradient import rloo_advantage, sequence_ppo_clip
from plaudit.training.config import check


@dataclass(frozen=True, kw_only=True)
class RLOOConfig(OnPolicyConfig):
    """Settings of RLOO.

    Attributes:
        clip_low: how far below 1 the ratio of a whole output to the old policy may go; read from the second update on.
        clip_high: how far above.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2

    def __post_init__(self) -> None:
        OnPolicyConfig.__post_init__(self)
        check(self, "clip_low", 0 <= self.clip_low <= 1, "a share in [0, 1]")
        check(self, "clip_high", self.clip_high >= 0, "a number >= 0")


def rloo(config: RLOOConfig) -> Recipe:
    """The recipe of RLOO: ``A_i = R_i - mean of the others``, and PPO's clip on the ratio of whole outputs.

    On policy the gradient is REINFORCE's with this baseline. The ratio is TRL's RLOOTrainer's; TRL takes the pull to the
    reference off the reward, here kl_coefficient puts it into the loss.
    """

    def signals(groups: Groups) -> Signals:
        return {"advantage": rloo_advantage(groups.reward, groups.mask)}

    def objective(terms: Terms) -> Values:
        advantage = terms.signal["advantage"]
        return sequence_ppo_clip(
            terms.log_prob, terms.old, advantage, terms.mask, clip_low=config.clip_low, clip_high=config.clip_high
        )

    return Recipe("rloo", signals, objective)


ENTRIES = (
    on_policy(
        "rloo", Making(rloo, RLOOConfig), "reward minus the mean of the others",
        "an unbiased gradient from few outputs a context", "Ahmadian et al., arXiv 2402.14740",
    ),
)  # fmt: skip
