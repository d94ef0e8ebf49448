"""GPG: its scale for groups without contrast, its identity with Dr. GRPO's direction, and what it refuses.

That it learns, and that its loss does not depend on how a batch is cut, the shared suites show.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plaudit.errors import ConfigError
from plaudit.methods.gpg import GPGConfig, gpg
from plaudit.methods.recipe import Groups, Terms
from plaudit.objectives.policy_gradient import dr_grpo_advantage


def groups(*rewards: list[float]) -> Groups:
    reward = torch.tensor(rewards)
    mask = torch.ones_like(reward, dtype=torch.bool)
    return Groups(reward, mask, torch.ones_like(mask, dtype=torch.long), mask)


def slope(advantage: torch.Tensor, log_prob: torch.Tensor) -> torch.Tensor:
    """Gradient of the batch's loss by each token's log-probability."""
    leaf = log_prob.clone().requires_grad_()
    terms = Terms(leaf, log_prob, torch.ones_like(log_prob, dtype=torch.bool), {"advantage": advantage.flatten()})
    value, weight = gpg(GPGConfig()).objective(terms)
    (found,) = torch.autograd.grad((value * weight).sum() / weight.sum(), leaf)
    return found


def test_a_group_without_contrast_halves_the_mean_and_alpha_doubles_it():
    """By hand: 2 of 4 outputs have a signal, α = 2."""
    found = gpg(GPGConfig()).signals(groups([1.0, 0.0], [1.0, 1.0]))["advantage"]
    assert found.tolist() == [[1, -1], [0, 0]]


@given(st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=3, max_size=3), min_size=1, max_size=5))
def test_of_outputs_of_one_length_groups_without_contrast_change_nothing(rewards):
    """The gradient at the others is what they have alone, which is Dr. GRPO's advantage averaged over tokens."""
    told = [row for row in rewards if len(set(row)) > 1]
    log_prob = torch.full((3 * len(rewards), 2), -1.0)
    found = slope(gpg(GPGConfig()).signals(groups(*rewards))["advantage"], log_prob).view(len(rewards), 3, 2)
    tells = torch.tensor([len(set(row)) > 1 for row in rewards])
    kept = found[tells]
    assert not found[~tells].any()
    if told:
        alone = slope(dr_grpo_advantage(torch.tensor(told)), log_prob[: 3 * len(told)])
        torch.testing.assert_close(kept.reshape(-1, 2), alone)


def test_the_zero_of_the_rewards_does_not_matter_and_the_scale_divides():
    rewards = ([3.0, 1.0, 2.0], [0.0, 0.0, 0.0])
    plain, moved = (gpg(GPGConfig()).signals(groups(*([r + by for r in row] for row in rewards))) for by in (0.0, 7.0))
    torch.testing.assert_close(plain["advantage"], moved["advantage"])
    halved = gpg(GPGConfig(scale=2.0)).signals(groups(*rewards))
    torch.testing.assert_close(2 * halved["advantage"], plain["advantage"])


@pytest.mark.parametrize("name", ["updates_per_rollout", "epochs_per_rollout"])
def test_it_learns_from_fresh_samples_only(name):
    with pytest.raises(ConfigError, match=f"{name}: expected 1: GPG learns from fresh samples, got 2"):
        GPGConfig(**{name: 2})


def test_a_scale_must_be_above_zero():
    with pytest.raises(ConfigError, match="scale: expected a number > 0, got 0"):
        GPGConfig(scale=0)
