"""DRO-V and UNA: zero at the best policy, gradients of the one loss that the paper has, and scikit-learn's numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from objectives.contract import Case, normal, uniform
from plaudit.objectives.preferences.pointwise import bco
from plaudit.objectives.preferences.pointwise_rewards import (
    dro_v_policy,
    dro_v_value,
    una_reward_mse,
    una_score_bce,
    una_score_mse,
)

NOT_POSITIVE = [0.0, -1.0, math.nan, math.inf]


def rewarded(rows):
    names = ("log_ratio", "value", "reward")
    return {name: normal(5, seed=seed)[:rows] for seed, name in enumerate(names)} | {"beta": 0.3}


def scored(rows):
    return {"log_ratio": normal(5, seed=1)[:rows], "score": uniform(5, seed=2)[:rows], "beta": 0.3}


def una_rewarded(rows):
    return {"log_ratio": normal(5, seed=1)[:rows], "reward": normal(5, seed=2)[:rows], "beta": 0.3}


WRONG = {"beta": NOT_POSITIVE}
CASES = [
    # each part holds the other's argument constant
    Case(dro_v_policy, rewarded, differentiable=("log_ratio", "reward"), extreme=("log_ratio", "value"), invalid=WRONG),
    Case(dro_v_value, rewarded, differentiable=("value", "reward"), extreme=("log_ratio", "value"), invalid=WRONG),
    Case(
        una_reward_mse,
        una_rewarded,
        differentiable=("log_ratio", "reward"),
        extreme=("log_ratio", "reward"),
        invalid=WRONG,
    ),
    *(
        Case(una, scored, differentiable=("log_ratio", "score"), extreme=("log_ratio",), invalid=WRONG)
        for una in (una_score_mse, una_score_bce)
    ),
]

log_ratios = st.floats(-20, 20)
LOG_RATIO, LABEL = normal(8, seed=1), torch.arange(8) % 3 == 0


def number(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def test_the_docstrings_examples():
    for part in (dro_v_policy, dro_v_value):
        assert part(number(1), number(1), number(2), beta=0.5).item() == pytest.approx(0.125)
    assert una_reward_mse(number(1), number(1), beta=0.5).item() == pytest.approx(0.25)
    assert una_score_mse(number(math.log(3)), number(1), beta=1).item() == pytest.approx(0.0625)
    assert una_score_bce(number(1), number(1), beta=1).item() == pytest.approx(math.log1p(math.exp(-1)))
    assert una_score_bce(number(1), number(0), beta=1).item() == pytest.approx(math.log1p(math.e))


def test_dro_is_zero_at_the_best_policy_and_only_there():
    """``π = π_ref exp(r / β) / Z`` with ``V = β log Z``, for every output at once."""
    reference, reward, beta = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([1.0, -0.4, 0.3]).double(), 0.6
    tilted = reference.log() + reward / beta
    value = (beta * tilted.logsumexp(-1)).expand(3)
    log_ratio = tilted.log_softmax(-1) - reference.log()
    for part in (dro_v_policy, dro_v_value):
        torch.testing.assert_close(part(log_ratio, value, reward, beta=beta), torch.zeros(3).double())
        assert part(torch.zeros(3).double(), value, reward, beta=beta).sum() > 0.01


@settings(max_examples=50, deadline=None)
@given(log_ratios, log_ratios, log_ratios)
def test_dros_parts_have_the_gradients_of_the_papers_one_loss(u, v, r):
    log_ratio, value = number(u).requires_grad_(), number(v).requires_grad_()
    (0.5 * (number(r) - value - 0.3 * log_ratio) ** 2).sum().backward()
    expected = log_ratio.grad, value.grad
    log_ratio, value = number(u).requires_grad_(), number(v).requires_grad_()
    parts = dro_v_policy(log_ratio, value, number(r), beta=0.3) + dro_v_value(log_ratio, value, number(r), beta=0.3)
    parts.sum().backward()
    torch.testing.assert_close((log_ratio.grad, value.grad), expected)


@settings(max_examples=50, deadline=None)
@given(log_ratios, log_ratios, log_ratios)
def test_dros_policy_step_divided_by_beta_is_tinkers(u, v, r):
    """The slope of ``-(A u - β u^2 / 2)`` with the advantage ``A = r - V``."""
    log_ratio = number(u).requires_grad_()
    (dro_v_policy(log_ratio, number(v), number(r), beta=0.3) / 0.3).sum().backward()
    assert log_ratio.grad.item() == pytest.approx(-(r - v - 0.3 * u))


def test_dros_best_value_is_the_mean_that_the_log_ratio_leaves():
    log_ratio, reward = normal(6, seed=1), normal(6, seed=2)
    value = (reward - 0.3 * log_ratio).mean().requires_grad_()
    dro_v_value(log_ratio, value.expand(6), reward, beta=0.3).sum().backward()
    assert value.grad.item() == pytest.approx(0, abs=1e-12)


def test_una_on_labels_is_sklearns_and_torchs():
    probability, label = torch.sigmoid(0.3 * LOG_RATIO), LABEL.double()
    squared = una_score_mse(LOG_RATIO, label, beta=0.3)
    assert squared.mean().item() == pytest.approx(brier_score_loss(LABEL.numpy(), probability.numpy()))
    logistic = una_score_bce(LOG_RATIO, label, beta=0.3)
    assert logistic.mean().item() == pytest.approx(log_loss(LABEL.numpy(), probability.numpy()))
    torch.testing.assert_close(logistic, binary_cross_entropy_with_logits(0.3 * LOG_RATIO, label, reduction="none"))
    reward = normal(8, seed=5)
    torch.testing.assert_close(
        una_reward_mse(LOG_RATIO, reward, beta=0.3), mse_loss(0.3 * LOG_RATIO, reward, reduction="none")
    )


def test_una_on_labels_is_bco_without_a_shift():
    zero = torch.zeros(()).double()
    torch.testing.assert_close(
        una_score_bce(LOG_RATIO, LABEL.double(), beta=0.3), bco(LOG_RATIO, LABEL, zero, beta=0.3)
    )


@settings(max_examples=50, deadline=None)
@given(st.floats(0.01, 0.99), st.floats(0.05, 3))
def test_una_with_scores_is_least_where_the_implicit_score_is_the_explicit_one(score, beta):
    for una in (una_score_bce, una_score_mse):
        log_ratio = number(math.log(score / (1 - score)) / beta).requires_grad_()
        una(log_ratio, number(score), beta=beta).sum().backward()
        assert log_ratio.grad.item() == pytest.approx(0, abs=1e-12)
