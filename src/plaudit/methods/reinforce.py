"""REINFORCE (Williams 1992): a sample's log-probability climbs by its reward minus the mean of earlier rewards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from plaudit.methods.entry import Making, on_policy
from plaudit.methods.recipe import Groups, OnPolicyConfig, Recipe, Signals, Terms, Values, expect_fresh
from plaudit.objectives.policy_gradient import policy_gradient, reinforce_advantage
from plaudit.training.config import check


@dataclass(frozen=True, kw_only=True)
class REINFORCEConfig(OnPolicyConfig):
    """Settings of REINFORCE.

    Attributes:
        baseline: the mean of all earlier rewards (0 before the first asking), or none. Neither biases the gradient; the mean
            lowers its variance.
    """

    baseline: Literal["running-mean", "none"] = "running-mean"

    def __post_init__(self) -> None:
        OnPolicyConfig.__post_init__(self)
        check(self, "baseline", self.baseline in ("running-mean", "none"), "running-mean or none")
        expect_fresh(self, "REINFORCE")


def reinforce(config: REINFORCEConfig) -> Recipe:
    """The recipe of REINFORCE: ``-(R - b) log π(y|x)``, the whole output as one action.

    Reference:
        Williams, "Simple statistical gradient-following algorithms", Machine Learning 8 (1992); with the mean of all rewards
        of the run so far as the baseline in Ahmadian et al., "Back to Basics", arXiv 2402.14740, section 2.
    """
    memory = {"mean": 0.0, "askings": 0.0} if config.baseline == "running-mean" else {}

    def signals(groups: Groups) -> Signals:
        if not memory:
            return {"advantage": groups.reward}
        decay = memory["askings"] / (memory["askings"] + 1)
        found = reinforce_advantage(groups.reward[groups.mask], torch.tensor(memory["mean"]), decay=decay)
        memory.update(mean=float(found.running_mean), askings=memory["askings"] + 1)
        return {"advantage": torch.zeros_like(groups.reward).masked_scatter(groups.mask, found.advantage)}

    def objective(terms: Terms) -> Values:
        return policy_gradient(terms.log_prob, terms.advantage, terms.mask)

    return Recipe("reinforce", signals, objective, fewest=1, contrast=False, memory=memory)


ENTRIES = (
    on_policy(
        "reinforce", Making(reinforce, REINFORCEConfig), "reward minus the running mean", "one output a context; the plainest",
        "Williams 1992; Ahmadian et al., arXiv 2402.14740",
    ),
)  # fmt: skip
