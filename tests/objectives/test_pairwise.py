"""DPO: the paper's equation, its gradient, its symmetry, and what other libraries compute."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss
from torch.nn.functional import binary_cross_entropy_with_logits

from objectives.contract import Case, normal
from plaudit.objectives import bradley_terry, dpo


def log_ratio_pairs(rows, **settings):
    return {"log_ratio_chosen": normal(5, seed=1)[:rows], "log_ratio_rejected": normal(5, seed=2)[:rows], **settings}


SIDES = ("log_ratio_chosen", "log_ratio_rejected")
CASES = [
    Case(
        dpo,
        lambda rows: log_ratio_pairs(rows, beta=0.3),
        differentiable=SIDES,
        extreme=SIDES,
        invalid={"beta": [0.0, -1.0, math.nan, math.inf], "label_smoothing": [-0.1, 0.5, math.nan]},
    ),
    Case(
        dpo,
        lambda rows: log_ratio_pairs(rows, beta=0.3, label_smoothing=0.2),
        name="smoothed",
        differentiable=SIDES,
        extreme=SIDES,
    ),
]

CHOSEN = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
REJECTED = torch.tensor([-1.0, 3.0, 0.5, -4.0], dtype=torch.float64)
log_ratios = st.floats(-50, 50)
shares = st.floats(0, 0.49)
strengths = st.floats(1e-3, 10)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def one(chosen: float, rejected: float, **settings: float) -> float:
    return dpo(
        torch.tensor([chosen], dtype=torch.float64), torch.tensor([rejected], dtype=torch.float64), **settings
    ).item()


def test_the_docstrings_example():
    assert one(1, -1, beta=0.5) == pytest.approx(math.log(1 + math.exp(-1)))


@pytest.mark.parametrize("beta", [0.1, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_value_is_equation_7(beta, smoothing):
    expected = []
    for chosen, rejected in zip(CHOSEN.tolist(), REJECTED.tolist(), strict=True):
        h = beta * (chosen - rejected)
        expected.append(-(1 - smoothing) * math.log(sigmoid(h)) - smoothing * math.log(sigmoid(-h)))
    loss = dpo(CHOSEN, REJECTED, beta=beta, label_smoothing=smoothing)
    torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64))


def test_a_policy_that_is_its_reference_has_loss_log_2():
    zero = torch.zeros(3)
    torch.testing.assert_close(dpo(zero, zero, beta=0.7), torch.full((3,), math.log(2)))
    torch.testing.assert_close(dpo(zero, zero, beta=0.7, label_smoothing=0.2), torch.full((3,), math.log(2)))


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_gradient_is_the_papers(smoothing):
    """The paper's section 4: a pair weighs by how wrong the implicit reward is, ``β σ(-h)``; smoothed, ``β (σ(-h) - ε)``."""
    beta = 0.4
    chosen, rejected = CHOSEN.clone().requires_grad_(), REJECTED.clone().requires_grad_()
    dpo(chosen, rejected, beta=beta, label_smoothing=smoothing).sum().backward()
    expected = -beta * (torch.sigmoid(-beta * (CHOSEN - REJECTED)) - smoothing)
    torch.testing.assert_close(chosen.grad, expected)
    torch.testing.assert_close(rejected.grad, -expected)


@given(log_ratios, log_ratios, strengths)
def test_swapping_the_labels_adds_the_difference_of_implicit_rewards(chosen, rejected, beta):
    """log σ(-h) = log σ(h) - h."""
    h = beta * (chosen - rejected)
    assert one(rejected, chosen, beta=beta) == pytest.approx(one(chosen, rejected, beta=beta) + h, abs=1e-9, rel=1e-9)


@given(log_ratios, log_ratios, strengths, shares)
def test_smoothing_is_the_mean_over_right_and_wrong_labels(chosen, rejected, beta, share):
    mixed = (1 - share) * one(chosen, rejected, beta=beta) + share * one(rejected, chosen, beta=beta)
    assert one(chosen, rejected, beta=beta, label_smoothing=share) == pytest.approx(mixed, abs=1e-9, rel=1e-9)


@given(log_ratios, log_ratios, log_ratios, strengths)
def test_only_the_difference_of_log_ratios_matters(chosen, rejected, shift, beta):
    shifted = one(chosen + shift, rejected + shift, beta=beta)
    assert shifted == pytest.approx(one(chosen, rejected, beta=beta), abs=1e-9, rel=1e-9)


def test_dpo_is_bradley_terry_on_implicit_rewards():
    torch.testing.assert_close(dpo(CHOSEN, REJECTED, beta=0.3), bradley_terry(0.3 * CHOSEN, 0.3 * REJECTED))


def test_the_smoothed_loss_is_least_where_the_preference_has_the_assumed_share_of_right_labels():
    """A minimum at σ(h) = 1 - ε: conservative DPO does not push the gap to infinity."""
    smoothing, beta = 0.2, 0.5
    best = math.log((1 - smoothing) / smoothing) / beta
    gap = torch.tensor([best], dtype=torch.float64, requires_grad=True)
    dpo(gap, torch.zeros_like(gap), beta=beta, label_smoothing=smoothing).sum().backward()
    assert gap.grad.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_torch_and_sklearn_agree(smoothing):
    logits = 0.7 * (CHOSEN - REJECTED)
    loss = dpo(CHOSEN, REJECTED, beta=0.7, label_smoothing=smoothing)
    target = torch.full_like(logits, 1 - smoothing)
    torch.testing.assert_close(loss, binary_cross_entropy_with_logits(logits, target, reduction="none"))
    right = log_loss([1] * 4, torch.sigmoid(logits).numpy(), labels=[0, 1])
    wrong = log_loss([0] * 4, torch.sigmoid(logits).numpy(), labels=[0, 1])
    assert loss.mean().item() == pytest.approx((1 - smoothing) * right + smoothing * wrong)


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
def test_beta_must_be_positive(beta):
    with pytest.raises(ValueError, match=f"beta: expected a number > 0, got {beta}"):
        one(0, 0, beta=beta)


@pytest.mark.parametrize("smoothing", [-0.1, 0.5, math.nan])
def test_smoothing_must_be_a_share_below_one_half(smoothing):
    with pytest.raises(ValueError, match=rf"label_smoothing: expected a share in \[0, 0.5\), got {smoothing}"):
        one(0, 0, beta=1.0, label_smoothing=smoothing)
