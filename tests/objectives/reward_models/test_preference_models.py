"""Judges' probabilities over both orders, and rewards that are distributions, against enumeration and torch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, Normal
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from objectives.contract import Case, normal, uniform
from plaudit.objectives.preferences import dpo
from plaudit.objectives.reward_models import bradley_terry
from plaudit.objectives.reward_models.preference_models import (
    categorical_preference,
    gaussian_preference,
    judge_position_bias,
    judge_probability,
    logistic_gaussian_preference,
    reward_entropy_penalty,
    soft_bradley_terry,
)

ORDERS = ("log_prob_first", "log_prob_second", "swapped_log_prob_first", "swapped_log_prob_second")
GAUSSIAN = ("mean_chosen", "sd_chosen", "mean_rejected", "sd_rejected")
MEANS = ("mean_chosen", "mean_rejected")


def judgements(rows):
    return {name: uniform(5, seed=seed, low=0.05).log()[:rows] for seed, name in enumerate(ORDERS)}


def gaussians(rows, **settings):
    sides = {"mean_chosen": normal(5, seed=1), "sd_chosen": uniform(5, seed=2, low=0.3)}
    sides |= {"mean_rejected": normal(5, seed=3), "sd_rejected": uniform(5, seed=4, low=0.3)}
    return {name: side[:rows] for name, side in sides.items()} | settings


def levels(rows):
    return {"logits_chosen": normal(5, 4, seed=1)[:rows], "logits_rejected": normal(5, 4, seed=2)[:rows]}


def soft_pairs(rows):
    return {"reward_a": normal(5, seed=1)[:rows], "reward_b": normal(5, seed=2)[:rows], "preference": uniform(5)[:rows]}


CASES = [
    Case(judge_probability, judgements, differentiable=ORDERS, extreme=ORDERS),
    Case(judge_position_bias, judgements, differentiable=ORDERS, extreme=ORDERS),
    Case(
        soft_bradley_terry,
        soft_pairs,
        differentiable=("reward_a", "reward_b"),
        extreme=("reward_a", "reward_b"),
    ),
    Case(
        gaussian_preference,
        gaussians,
        differentiable=GAUSSIAN,
        extreme=MEANS,
        invalid={"variance_penalty": [-1.0, math.inf]},
        low_precision=64.0,
    ),
    Case(
        gaussian_preference,
        lambda rows: gaussians(rows, variance_penalty=0.1),
        name="penalised",
        differentiable=GAUSSIAN,
        extreme=MEANS,
        low_precision=64.0,
    ),
    Case(
        logistic_gaussian_preference,
        lambda rows: gaussians(rows, variance_penalty=0.1),
        differentiable=GAUSSIAN,
        extreme=MEANS,
        invalid={"variance_penalty": [-1.0, math.inf], "scale": [0.0, -1.0]},
        low_precision=64.0,
    ),
    Case(
        categorical_preference,
        levels,
        differentiable=("logits_chosen", "logits_rejected"),
        extreme=("logits_chosen", "logits_rejected"),
    ),
    Case(
        reward_entropy_penalty,
        lambda rows: {"logits": normal(5, 4, seed=1)[:rows], "strength": 0.1},
        differentiable=("logits",),
        extreme=("logits",),
        batch_statistics=True,
        invalid={"strength": [0.0, -1.0]},
    ),
]

numbers = st.floats(-20, 20)
shares = st.floats(0, 1)


def one(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_the_docstrings_examples():
    log3 = math.log(3)
    assert judge_probability(one(log3), one(0), one(0), one(0)).item() == pytest.approx(5 / 8)
    assert judge_position_bias(one(0), one(-1e3), one(0), one(-1e3)).item() == pytest.approx(1 / 2)
    soft = soft_bradley_terry(one(log3), one(0), one(0.5)).item()
    assert soft == pytest.approx((math.log(4) + math.log(4 / 3)) / 2)
    z_is_one = one(5), one(3), one(0), one(4)
    assert gaussian_preference(*z_is_one).item() == pytest.approx(0.1728, abs=1e-4)
    steep = math.log(1 + math.exp(-math.sqrt(2 * math.pi)))
    assert logistic_gaussian_preference(*z_is_one).item() == pytest.approx(steep)
    chosen, other = torch.tensor([[1 / 4, 3 / 4]]).log(), torch.tensor([[1 / 2, 1 / 2]]).log()
    assert categorical_preference(chosen, other).item() == pytest.approx(math.log(8 / 5))
    certain = torch.tensor([[100.0, 0.0], [0.0, 100.0]])
    assert reward_entropy_penalty(certain, strength=0.1).tolist() == pytest.approx([-0.1 * math.log(2)] * 2)


@settings(max_examples=50, deadline=None)
@given(numbers, numbers, numbers, numbers)
def test_a_judges_probability_is_the_mean_of_two_softmaxes_and_has_a_complement(s1, s2, t1, t2):
    """RLAIF: softmax over the words "1" and "2" in each order; a is the first in one and the second in the other."""
    first = torch.tensor([s1, s2], dtype=torch.float64).softmax(0)[0].item()
    second = torch.tensor([t1, t2], dtype=torch.float64).softmax(0)[1].item()
    a_over_b = judge_probability(one(s1), one(s2), one(t1), one(t2)).item()
    assert a_over_b == pytest.approx((first + second) / 2)
    b_over_a = judge_probability(one(t1), one(t2), one(s1), one(s2)).item()
    assert a_over_b + b_over_a == pytest.approx(1)


@settings(max_examples=50, deadline=None)
@given(numbers, numbers)
def test_a_judge_that_only_sees_the_place_is_undecided(s1, s2):
    same = one(s1), one(s2), one(s1), one(s2)
    assert judge_probability(*same).item() == pytest.approx(0.5)
    assert judge_position_bias(*same).item() == pytest.approx(sigmoid(s1 - s2) - 0.5)


@settings(max_examples=50, deadline=None)
@given(numbers, numbers, numbers, numbers)
def test_a_bias_is_half_of_what_the_order_changes(s1, s2, t1, t2):
    bias = judge_position_bias(one(s1), one(s2), one(t1), one(t2)).item()
    a_first, a_second = sigmoid(s1 - s2), sigmoid(t2 - t1)
    assert bias == pytest.approx((a_first - a_second) / 2, abs=1e-12)
    assert bias == pytest.approx(judge_position_bias(one(t1), one(t2), one(s1), one(s2)).item(), abs=1e-12)


def test_other_words_do_not_matter():
    """What the judge gave to neither word shifts both log-probabilities."""
    call = judgements(5)
    moved = {name: value - (0.7 if name.startswith("swapped") else 0.2) for name, value in call.items()}
    torch.testing.assert_close(judge_probability(**moved), judge_probability(**call))


def test_soft_labels_are_torchs_cross_entropy_and_certain_ones_bradley_terry():
    a, b, p = soft_pairs(5).values()
    torch.testing.assert_close(
        soft_bradley_terry(a, b, p), binary_cross_entropy_with_logits(a - b, p, reduction="none")
    )
    torch.testing.assert_close(soft_bradley_terry(a, b, torch.ones_like(p)), bradley_terry(a, b))
    smoothed = dpo(a, b, beta=1.0, label_smoothing=0.2)
    torch.testing.assert_close(soft_bradley_terry(a, b, torch.full_like(p, 0.8)), smoothed)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.01, 0.99))
def test_soft_labels_are_fitted_by_their_log_odds_at_the_cost_of_their_entropy(p):
    gap = one(math.log(p / (1 - p))).requires_grad_()
    loss = soft_bradley_terry(gap, one(0), one(p))
    loss.sum().backward()
    assert gap.grad.item() == pytest.approx(0, abs=1e-12)
    assert loss.item() == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p))


def test_gaussian_is_the_normal_distributions_probability():
    call = gaussians(5)
    sd = (call["sd_chosen"].square() + call["sd_rejected"].square()).sqrt()
    above = Normal(call["mean_chosen"] - call["mean_rejected"], sd)
    torch.testing.assert_close(gaussian_preference(**call).neg().exp(), 1 - above.cdf(torch.zeros(5).double()))


def test_gaussian_is_a_share_of_draws():
    """The probability that a draw of one is above a draw of the other, to within four standard errors."""
    draws = 200_000
    chosen, other = 0.3 + 0.5 * normal(draws, seed=8), 1.2 * normal(draws, seed=9)
    share = (chosen > other).double().mean().item()
    probability = math.exp(-gaussian_preference(one(0.3), one(0.5), one(0.0), one(1.2)).item())
    assert share == pytest.approx(probability, abs=4 * math.sqrt(0.25 / draws))


def test_logistic_gaussian_is_the_codes_formula():
    """Siththaranjan et al.'s and VPL's: softplus(-sqrt(2π) z), with a penalty on the sum of variances."""
    call = gaussians(5)
    variance = call["sd_chosen"].square() + call["sd_rejected"].square()
    z = (call["mean_chosen"] - call["mean_rejected"]) / variance.sqrt()
    theirs = softplus(-z * math.sqrt(2 * math.pi)) + 0.1 * variance
    torch.testing.assert_close(logistic_gaussian_preference(**call, variance_penalty=0.1), theirs)
    exact = gaussian_preference(**call, variance_penalty=0.1) - gaussian_preference(**call)
    torch.testing.assert_close(exact, 0.1 * variance)


def test_the_codes_curve_is_steeper_than_the_normal_one():
    """Slopes at 0: a / 4 for the logistic curve, 1 / sqrt(2π) for the normal one; they agree at a = sqrt(8/π)."""
    slopes = {}
    for name, loss in (
        ("normal", gaussian_preference),
        ("code", logistic_gaussian_preference),
        ("equal", lambda *a: logistic_gaussian_preference(*a, scale=math.sqrt(8 / math.pi))),
    ):
        mean = one(0).requires_grad_()
        (-loss(mean, one(1), one(0), one(1e-9))).exp().sum().backward()
        slopes[name] = mean.grad.item()
    assert slopes["normal"] == pytest.approx(1 / math.sqrt(2 * math.pi))
    assert slopes["code"] == pytest.approx(math.sqrt(2 * math.pi) / 4)
    assert slopes["equal"] == pytest.approx(slopes["normal"])


@pytest.mark.parametrize("loss", [gaussian_preference, logistic_gaussian_preference])
def test_distributional_losses_have_two_sides_and_no_unit(loss):
    call = gaussians(5)
    swapped = [call[name] for name in ("mean_rejected", "sd_rejected", "mean_chosen", "sd_chosen")]
    total = loss(**call).neg().exp() + loss(*swapped).neg().exp()
    torch.testing.assert_close(total, torch.ones_like(total))
    torch.testing.assert_close(loss(**{name: 7 * value for name, value in call.items()}), loss(**call))


def test_a_hopeless_label_still_has_a_gradient():
    """log Φ far in the tail is -z²/2 and its slope -z, where Φ itself is 0."""
    mean = one(-100).requires_grad_()
    loss = gaussian_preference(mean, one(1), one(0), one(1e-9))
    loss.sum().backward()
    assert loss.item() == pytest.approx(5000, rel=0.01)
    assert mean.grad.item() == pytest.approx(-100, rel=0.01)


def test_categorical_is_the_codes_sum_over_pairs_of_levels():
    """Their comparison matrix: 1 above, 1/2 on the diagonal."""
    call = levels(5)
    chosen, other = (call[name].softmax(1) for name in ("logits_chosen", "logits_rejected"))
    expected = torch.zeros(5, dtype=torch.float64)
    for i in range(4):
        for j in range(4):
            expected += chosen[:, i] * other[:, j] * (1.0 if i > j else 0.5 if i == j else 0.0)
    torch.testing.assert_close(categorical_preference(**call), -expected.log())


def test_categorical_has_two_sides():
    call = levels(5)
    total = categorical_preference(**call).neg().exp()
    total = total + categorical_preference(call["logits_rejected"], call["logits_chosen"]).neg().exp()
    torch.testing.assert_close(total, torch.ones_like(total))
    equal = categorical_preference(call["logits_chosen"], call["logits_chosen"])
    torch.testing.assert_close(equal, torch.full_like(equal, math.log(2)))


def test_categorical_stays_finite_where_both_are_sure_of_the_contrary():
    """The codes' sum of probabilities is 0 here, and its logarithm minus infinity."""
    low, high = torch.tensor([[1e3, 0.0]], requires_grad=True), torch.tensor([[0.0, 1e3]])
    loss = categorical_preference(low, high)
    loss.sum().backward()
    assert loss.item() == pytest.approx(1e3)  # two ways to be equal, e^-1000 / 2 each
    assert low.grad.isfinite().all()
    assert low.grad.abs().sum() > 0


def test_the_entropy_penalty_is_the_batchs_entropy_with_its_gradient():
    """The codes: sum over levels of p̄ log p̄, where p̄ is the batch's mean distribution."""
    logits = normal(5, 4, seed=1).requires_grad_()
    reward_entropy_penalty(logits, strength=0.1).mean().backward()
    ours, logits.grad = logits.grad, None
    mean = logits.softmax(1).mean(0)
    (0.1 * (mean * mean.log()).sum()).backward()
    torch.testing.assert_close(ours, logits.grad)
    penalty = reward_entropy_penalty(logits, strength=0.1).mean()
    torch.testing.assert_close(penalty, -0.1 * Categorical(mean).entropy())
