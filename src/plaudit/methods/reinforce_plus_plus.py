"""REINFORCE++ (Hu et al., arXiv 2501.03262): advantages whitened over all tokens of the batch, and PPO's clip."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from plaudit.methods.entry import Making, on_policy
from plaudit.methods.recipe import Groups, OnPolicyConfig, Recipe, Signals, Terms, Values
from plaudit.objectives.policy_gradient import (
    ppo_clip,
    reinforce_plus_plus_advantage,
    reinforce_plus_plus_baseline_advantage,
)
from plaudit.training.config import check


@dataclass(frozen=True, kw_only=True)
class REINFORCEPlusPlusConfig(OnPolicyConfig):
    """Settings of REINFORCE++.

    Attributes:
        baseline: subtract the group's mean before whitening (REINFORCE++-baseline); needs two outputs of each context.
        clip_low: how far below 1 the ratio of a token to the old policy may go; read from the second update on.
        clip_high: how far above.
    """

    baseline: bool = False
    clip_low: float = 0.2
    clip_high: float = 0.2

    def __post_init__(self) -> None:
        OnPolicyConfig.__post_init__(self)
        check(self, "clip_low", 0 <= self.clip_low <= 1, "a share in [0, 1]")
        check(self, "clip_high", self.clip_high >= 0, "a number >= 0")


def reinforce_plus_plus(config: REINFORCEPlusPlusConfig) -> Recipe:
    """The recipe of REINFORCE++, section 3 of version 9: ``A = (R - mean) / deviation``, each output as often as its tokens.

    Without a discount every token has its output's reward-to-go, R. The paper takes the pull to the reference off the
    reward; here kl_coefficient puts it into the loss.
    """

    def signals(groups: Groups) -> Signals:
        if config.baseline:
            return {"advantage": reinforce_plus_plus_baseline_advantage(groups.reward, groups.length, groups.mask)}
        length = torch.where(groups.mask, groups.length, 0).reshape(-1, 1)
        place = torch.arange(int(length.max()))
        reward = torch.where(place == length - 1, groups.reward.reshape(-1, 1), 0)
        advantage = reinforce_plus_plus_advantage(reward, place < length)
        return {"advantage": advantage[:, 0].view_as(groups.reward)}

    def objective(terms: Terms) -> Values:
        return ppo_clip(
            terms.log_prob, terms.old, terms.advantage, terms.mask, clip_low=config.clip_low, clip_high=config.clip_high
        )

    name = "reinforce++-baseline" if config.baseline else "reinforce++"
    return Recipe(name, signals, objective, fewest=2 if config.baseline else 1, contrast=False)


ENTRIES = (
    on_policy(
        "reinforce++", Making(reinforce_plus_plus, REINFORCEPlusPlusConfig), "reward, whitened over the batch",
        "one output a context, several updates an asking", "Hu et al., arXiv 2501.03262",
    ),
    on_policy(
        "reinforce++-baseline", Making(reinforce_plus_plus, REINFORCEPlusPlusConfig, {"baseline": True}),
        "reward minus the group's mean, whitened over the batch",
        "as grpo, where easy and hard contexts shall not be scaled alike", "Hu et al., arXiv 2501.03262",
    ),
)  # fmt: skip
