"""Costs: Safe-RLHF's model, HC-RLHF's inflated cost proven by enumeration, and the multiplier's step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t
from torch.nn.functional import logsigmoid

from objectives.contract import Case, normal, uniform
from plaudit.objectives.reward_models import bradley_terry
from plaudit.objectives.reward_models.reward_models import reward_magnitude
from plaudit.objectives.reward_models.safety import (
    cost_bradley_terry,
    dual_loss,
    dual_step,
    inflated_cost,
    lagrangian_return,
    pessimism_coefficient,
)

WORSE, BETTER = normal(5, seed=1), normal(5, seed=2)
WORSE_HARMS = torch.tensor([True, True, True, False, False])
BETTER_HARMS = torch.tensor([True, False, False, False, True])
COST, BUFFER, REWARD = normal(5, seed=3), normal(9, seed=4), normal(5, seed=5)
COSTS, MULTIPLIER, SETS = normal(5, 2, seed=6), uniform(2, seed=7), normal(5, 6, seed=8)
LOG_MULTIPLIER = normal(5, seed=9)


def pairs(rows, **settings):
    return {
        "cost_worse": WORSE[:rows],
        "cost_better": BETTER[:rows],
        "worse_is_harmful": WORSE_HARMS[:rows],
        "better_is_harmful": BETTER_HARMS[:rows],
        **settings,
    }


def constraints(rows, **settings):
    call = {"log_multiplier": LOG_MULTIPLIER[:rows], "cost": SETS[:rows], "pessimism": 0.7, "threshold": 0.2}
    return {**call, **settings}


SIDES = ("cost_worse", "cost_better")
CASES = [
    Case(cost_bradley_terry, pairs, differentiable=SIDES, extreme=SIDES, invalid={"sign_weight": [-1.0, math.nan]}),
    Case(
        cost_bradley_terry,
        lambda rows: pairs(rows, sign_weight=0.0),
        name="order only",
        differentiable=SIDES,
        extreme=SIDES,
    ),
    Case(
        inflated_cost,
        lambda rows: {"cost": COST[:rows], "buffer_cost": BUFFER, "pessimism": 0.7},
        differentiable=("cost",),
        extreme=("cost", "buffer_cost"),
        invalid={"pessimism": [-1.0, math.inf]},
        low_precision=64.0,
    ),
    Case(
        lagrangian_return,
        lambda rows: {"reward": REWARD[:rows], "cost": COSTS[:rows], "multiplier": MULTIPLIER},
        differentiable=("reward", "cost"),
        extreme=("reward", "cost"),
    ),
    Case(
        lagrangian_return,
        lambda rows: {"reward": REWARD[:rows], "cost": COSTS[:rows], "multiplier": MULTIPLIER, "rescale": True},
        name="rescaled",
        differentiable=("reward", "cost"),
        extreme=("reward", "cost", "multiplier"),
    ),
    Case(
        dual_loss,
        constraints,
        differentiable=("log_multiplier",),
        extreme=("cost",),
        exchangeable="N",
        invalid={"pessimism": [-1.0]},
        low_precision=64.0,
    ),
    Case(
        dual_step,
        constraints,
        extreme=("log_multiplier", "cost"),
        exchangeable="N",
        invalid={"pessimism": [-1.0], "learning_rate": [0.0], "cap": [0.0, math.inf]},
        low_precision=64.0,
    ),
]


def test_the_docstrings_examples():
    yes, no = torch.tensor([True]), torch.tensor([False])
    loss = cost_bradley_terry(torch.tensor([math.log(3)]), torch.zeros(1), yes, no)
    assert loss.item() == pytest.approx(2 * math.log(4 / 3) + math.log(2))
    slack = pessimism_coefficient(32, 100, delta=0.1, candidate_factor=4, safety_factor=2)
    assert slack == pytest.approx(1.18, abs=0.01)
    centred = torch.tensor([-1.0, 1.0])
    assert inflated_cost(torch.tensor([3.0]), centred, pessimism=2.0, ddof=0).item() == 12
    call = torch.tensor([2.0]), torch.tensor([[1.0]]), torch.tensor([0.5])
    assert lagrangian_return(*call).item() == 1.5
    assert lagrangian_return(*call, rescale=True).item() == 1
    call = torch.tensor([math.log(2)]), torch.tensor([[1.0, 3.0]])
    assert dual_loss(*call, pessimism=0.0, threshold=1.5).item() == pytest.approx(-1)
    step = dual_step(*call, pessimism=0.0, threshold=1.5, learning_rate=0.1).item()
    assert step == pytest.approx(math.log(2) + 0.1)


def test_the_cost_model_is_safe_rlhfs():
    """Its trainer's ``sequence-wise`` loss: labels of +1 for safe, turned round into signs of costs."""
    lower_sign = -torch.where(BETTER_HARMS, -1, 1)
    higher_sign = -torch.where(WORSE_HARMS, -1, 1)
    theirs = (
        -logsigmoid(WORSE - BETTER) - logsigmoid(lower_sign * BETTER) - logsigmoid(higher_sign * WORSE)
    ).mean() + 0.001 * torch.stack([BETTER, WORSE]).square().mean()
    ours = cost_bradley_terry(**pairs(5)) + reward_magnitude(WORSE, BETTER, strength=0.001)
    torch.testing.assert_close(ours.mean(), theirs)


def test_without_signs_it_is_bradley_terry_and_has_no_zero():
    order = cost_bradley_terry(**pairs(5, sign_weight=0.0))
    torch.testing.assert_close(order, bradley_terry(WORSE, BETTER))
    moved = pairs(5) | {"cost_worse": WORSE + 3, "cost_better": BETTER + 3}
    torch.testing.assert_close(cost_bradley_terry(**moved, sign_weight=0.0), order)
    assert not torch.allclose(cost_bradley_terry(**moved), cost_bradley_terry(**pairs(5)))


def test_the_pessimism_is_the_codes_sum_of_students_quantiles():
    ours = pessimism_coefficient(256, 1000, delta=0.1, candidate_factor=4.0, safety_factor=2.0)
    theirs = 4 * t.ppf(0.9, 255) / np.sqrt(256) + 2 * t.ppf(0.9, 999) / np.sqrt(1000)
    assert ours == pytest.approx(theirs)


def test_two_costs_are_enough_for_a_quantile():
    """One degree of freedom is Cauchy's distribution: the quantile of 3/4 is 1."""
    slack = pessimism_coefficient(2, 2, delta=0.25, candidate_factor=1.0, safety_factor=3.0)
    assert slack == pytest.approx(4 / math.sqrt(2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 1}, "samples: expected at least 2, got 1"),
        ({"safety_samples": 0}, "safety_samples: expected at least 2, got 0"),
        ({"delta": 0.0}, r"delta: expected a share in \(0, 1\), got 0.0"),
        ({"delta": 1.0}, r"delta: expected a share in \(0, 1\), got 1.0"),
        ({"candidate_factor": -1}, "candidate_factor: expected a number >= 0, got -1"),
        ({"safety_factor": -1}, "safety_factor: expected a number >= 0, got -1"),
    ],
)
def test_the_pessimisms_settings_are_checked(change, message):
    good = {"samples": 32, "safety_samples": 100, "delta": 0.1, "candidate_factor": 4.0, "safety_factor": 2.0}
    with pytest.raises(ValueError, match=message):
        pessimism_coefficient(**{**good, **change})


@pytest.mark.parametrize("pessimism", [0.0, 0.7, 3.0])
def test_the_inflated_costs_policy_gradient_is_that_of_mean_plus_deviations(pessimism):
    """E[c̃ ∇log π] = ∇(μ + k sd), by enumeration of a softmax policy over four outputs with probabilities (1, 2, 3, 4)/10.

    The buffer holds each output's cost as often as the policy would draw it in ten, so its μ and s are the policy's own.
    """
    cost = torch.tensor([0.5, -1.0, 2.0, 0.3], dtype=torch.float64)
    logits = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64).log().requires_grad_()
    probability = logits.softmax(0)
    mean = (probability * cost).sum()
    risk = mean + pessimism * ((probability * cost.square()).sum() - mean.square()).sqrt()
    (true,) = torch.autograd.grad(risk, logits, retain_graph=True)
    buffer = cost.repeat_interleave(torch.tensor([1, 2, 3, 4]))
    surrogate = inflated_cost(cost, buffer, pessimism=pessimism, ddof=0)
    (estimate,) = torch.autograd.grad((probability.detach() * surrogate * logits.log_softmax(0)).sum(), logits)
    torch.testing.assert_close(estimate, true, rtol=1e-10, atol=1e-12)


def test_the_inflated_cost_is_the_codes():
    mean, sd = BUFFER.mean(), BUFFER.std()
    theirs = COST + 0.7 * (COST**2 - 2 * COST * mean) / (2 * sd)
    torch.testing.assert_close(inflated_cost(COST, BUFFER, pessimism=0.7), theirs)


def test_a_buffer_of_equal_costs_inflates_nothing():
    assert torch.equal(inflated_cost(COST, torch.ones(4).double(), pessimism=2.0), COST)
    with pytest.raises(ValueError, match="buffer_cost: expected groups of at least 2 outputs, got 1"):
        inflated_cost(COST, torch.ones(1).double(), pessimism=2.0)


def test_returns_weigh_costs_and_rescale_by_all_multipliers():
    plain = lagrangian_return(REWARD, COSTS, MULTIPLIER)
    expected = REWARD - MULTIPLIER[0] * COSTS[:, 0] - MULTIPLIER[1] * COSTS[:, 1]
    torch.testing.assert_close(plain, expected)
    torch.testing.assert_close(
        lagrangian_return(REWARD, COSTS, MULTIPLIER, rescale=True), expected / (1 + MULTIPLIER.sum())
    )
    torch.testing.assert_close(lagrangian_return(REWARD, COSTS, torch.zeros(2).double()), REWARD)


def test_the_step_is_plain_descent_on_the_loss():
    leaf = LOG_MULTIPLIER.clone().requires_grad_()
    optimiser = torch.optim.SGD([leaf], lr=0.05)
    dual_loss(leaf, SETS, pessimism=0.7, threshold=0.2).sum().backward()
    optimiser.step()
    ours = dual_step(**constraints(5, learning_rate=0.05))
    torch.testing.assert_close(ours, leaf.detach())
    excess = SETS.mean(-1) + 0.7 * SETS.std(-1) - 0.2
    torch.testing.assert_close(ours, LOG_MULTIPLIER + 0.05 * LOG_MULTIPLIER.exp() * excess)


@settings(max_examples=50, deadline=None)
@given(st.floats(-3, 3), st.floats(-2, 2), st.floats(0, 2))
def test_a_multiplier_grows_while_its_constraint_is_broken(log_multiplier, threshold, pessimism):
    before = torch.tensor([log_multiplier], dtype=torch.float64)
    after = dual_step(before, SETS[:1], pessimism=pessimism, threshold=threshold)
    broken = (SETS[0].mean() + pessimism * SETS[0].std() > threshold).item()
    assert (after > before).item() if broken else (after <= before).item()


def test_a_multiplier_stops_at_its_cap():
    step = torch.tensor([0.0], dtype=torch.float64)
    for _ in range(200):
        step = dual_step(step, torch.ones(1, 3).double(), pessimism=0.0, threshold=0.0, learning_rate=0.1, cap=50.0)
    assert step.item() == pytest.approx(math.log(50))
