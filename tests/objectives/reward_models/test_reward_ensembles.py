"""Ensembles: mean, worst case, and what disagreement costs, against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from objectives.contract import Case, normal
from plaudit.objectives.reward_models.reward_ensembles import (
    ensemble_less_variance,
    ensemble_lower_bound,
    ensemble_mean,
    ensemble_minimum,
)

REWARD = normal(5, 4, seed=1)


def rewards(rows, **settings):
    return {"reward": REWARD[:rows], **settings}


COMMON = {"differentiable": ("reward",), "extreme": ("reward",), "exchangeable": "M"}
CASES = [
    Case(ensemble_mean, rewards, **COMMON),
    Case(ensemble_minimum, rewards, **COMMON),
    Case(ensemble_less_variance, lambda rows: rewards(rows, pessimism=0.5), invalid={"pessimism": [-1.0]}, **COMMON),
    Case(ensemble_lower_bound, lambda rows: rewards(rows, pessimism=0.5), invalid={"pessimism": [-1.0]}, **COMMON),
    Case(ensemble_lower_bound, lambda rows: rewards(rows, pessimism=0.5, ddof=0), name="ddof 0", **COMMON),
]


def test_the_docstrings_examples():
    reward = torch.tensor([[1.0, 2.0, 6.0]])
    assert ensemble_mean(reward).item() == 3
    assert ensemble_minimum(reward).item() == 1
    assert ensemble_less_variance(reward, pessimism=3 / 14).item() == pytest.approx(2)
    assert ensemble_lower_bound(reward, pessimism=1.0).item() == pytest.approx(3 - math.sqrt(7))


def test_numpy_agrees():
    mean, variance = REWARD.numpy().mean(1), REWARD.numpy().var(1)
    np.testing.assert_allclose(ensemble_mean(REWARD), mean)
    np.testing.assert_allclose(ensemble_minimum(REWARD), REWARD.numpy().min(1))
    np.testing.assert_allclose(ensemble_less_variance(REWARD, pessimism=0.5), mean - 0.5 * variance)
    for ddof in (0, 1):
        ours = ensemble_lower_bound(REWARD, pessimism=0.5, ddof=ddof)
        np.testing.assert_allclose(ours, mean - 0.5 * REWARD.numpy().std(1, ddof=ddof))


def test_without_pessimism_it_is_the_mean():
    torch.testing.assert_close(ensemble_lower_bound(REWARD, pessimism=0.0), ensemble_mean(REWARD))
    torch.testing.assert_close(ensemble_less_variance(REWARD, pessimism=0.0), ensemble_mean(REWARD))


def test_the_lower_bound_goes_along_with_unit_and_shift():
    moved = ensemble_lower_bound(3 * REWARD + 2, pessimism=0.5)
    torch.testing.assert_close(moved, 3 * ensemble_lower_bound(REWARD, pessimism=0.5) + 2)


def test_models_that_agree_cost_nothing_and_have_a_finite_gradient():
    reward = torch.full((1, 3), 2.0, requires_grad=True)
    bound = ensemble_lower_bound(reward, pessimism=5.0)
    bound.sum().backward()
    assert bound.item() == 2
    torch.testing.assert_close(reward.grad, torch.full((1, 3), 1 / 3))


def test_a_spread_needs_two_models():
    with pytest.raises(ValueError, match="reward: expected groups of at least 2 outputs, got 1"):
        ensemble_lower_bound(torch.ones(2, 1), pessimism=1.0)
    assert ensemble_lower_bound(torch.ones(2, 1), pessimism=1.0, ddof=0).tolist() == [1, 1]
