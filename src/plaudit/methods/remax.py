"""ReMax (Li et al., arXiv 2310.10505): the baseline is the reward of the greedy output of the same context."""

from __future__ import annotations

from dataclasses import dataclass

from plaudit.methods.entry import Making, on_policy
from plaudit.methods.recipe import Groups, OnPolicyConfig, Recipe, Signals, Terms, Values, expect_fresh
from plaudit.objectives.policy_gradient import policy_gradient, remax_advantage


@dataclass(frozen=True, kw_only=True)
class ReMaxConfig(OnPolicyConfig):
    """Settings of ReMax; the paper samples one output of each context, beside the greedy one."""

    outputs_per_context: int = 1

    def __post_init__(self) -> None:
        OnPolicyConfig.__post_init__(self)
        expect_fresh(self, "ReMax")


def remax(config: ReMaxConfig) -> Recipe:
    """The recipe of ReMax: ``-(R(y) - R(greedy output)) log π(y|x)``, algorithm 1.

    The paper takes a pull to the reference off each token's reward; here kl_coefficient puts it into the loss.
    """
    del config  # all that it says, sampling reads

    def signals(groups: Groups) -> Signals:
        assert groups.greedy_reward is not None
        greedy = groups.greedy_reward[:, None].expand_as(groups.reward).reshape(-1)
        advantage = remax_advantage(groups.reward.reshape(-1, 1), greedy, groups.mask.reshape(-1, 1))
        return {"advantage": advantage.view_as(groups.reward)}

    def objective(terms: Terms) -> Values:
        return policy_gradient(terms.log_prob, terms.advantage, terms.mask)

    return Recipe("remax", signals, objective, fewest=1, contrast=False, greedy=True)


ENTRIES = (
    on_policy(
        "remax", Making(remax, ReMaxConfig), "reward minus the greedy output's",
        "one output a context, contexts of very unequal difficulty", "Li et al., arXiv 2310.10505",
        memory="samples and one greedy output a context; no second model",
    ),
)  # fmt: skip
