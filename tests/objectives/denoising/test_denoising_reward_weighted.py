"""Reward-weighted denoising: the tilt on a mixture, its collapse over rounds, and what the W2 term holds back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from objectives.contract import Case, normal, uniform
from plaudit.objectives.denoising.denoising import denoising_error
from plaudit.objectives.denoising.denoising_reward_weighted import (
    ac_flow,
    affine_critic_weight,
    exponential_critic_weight,
    exponential_reward_weight,
    orw_cfm_w2,
    softmax_reward_weight,
    softplus_critic_weight,
)

SCORE = normal(5, seed=3)
REGRESSION = ("error", "ref_distance")


def rewards(rows, **settings):
    return {"reward": SCORE[:rows], **settings}


def scores(rows, **settings):
    return {"score": SCORE[:rows], **settings}


def distances(rows, **settings):
    call = {"error": uniform(5, seed=1), "ref_distance": uniform(5, seed=2), **settings}
    return {name: value[:rows] if isinstance(value, torch.Tensor) else value for name, value in call.items()}


POSITIVE = [0.0, -1.0, math.nan, math.inf]
CASES = [
    Case(exponential_reward_weight, lambda rows: rewards(rows, scale=0.7), invalid={"scale": POSITIVE}),
    Case(
        softmax_reward_weight,
        lambda rows: rewards(rows, scale=0.7),
        extreme=("reward",),
        batch_statistics=True,
        invalid={"scale": POSITIVE},
    ),
    Case(
        orw_cfm_w2,
        lambda rows: distances(rows, weight=uniform(5, seed=4), beta=0.3),
        differentiable=REGRESSION,
        extreme=(*REGRESSION, "weight"),
        invalid={"beta": [-1.0, math.nan]},
    ),
    *(
        Case(
            weight,
            lambda rows: scores(rows, scale=0.7, max_weight=1.5),
            extreme=("score",),
            batch_statistics=True,
            invalid={"scale": POSITIVE, "max_weight": POSITIVE},
        )
        for weight in (exponential_critic_weight, softplus_critic_weight, affine_critic_weight)
    ),
    Case(
        ac_flow,
        lambda rows: distances(rows, score=SCORE),
        differentiable=REGRESSION,
        extreme=(*REGRESSION, "score"),
        batch_statistics=True,
        invalid={"beta": [-1.0], "scale": POSITIVE, "max_weight": POSITIVE},
    ),
]


def number(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# Images on a line: a mixture of two Gaussians, and the reward r(x) = x. The tilted mixture is known in closed form.
SHARES, MEANS, VARIANCE, TILT = number(0.7, 0.3), number(-1.0, 1.5), 0.16, 0.9


def tilted(rounds):
    """Shares and means of ``q_0 exp(rounds τ x)``: means move by τσ², shares gain ``exp(τ m + τ²σ²/2)``."""
    tau = rounds * TILT
    shares = SHARES * (tau * MEANS + tau**2 * VARIANCE / 2).exp()
    return shares / shares.sum(), MEANS + tau * VARIANCE


def density(x, shares, means, variance):
    return (shares * torch.distributions.Normal(means, math.sqrt(variance)).log_prob(x[:, None]).exp()).sum(-1)


def flow(x, time, shares, means):
    """The true velocity of a mixture: each component's, weighed by its posterior share at the noised image."""
    total = (1 - time) ** 2 * VARIANCE + time**2
    posterior = shares * torch.distributions.Normal((1 - time) * means, math.sqrt(total)).log_prob(x).exp()
    slope = (time - (1 - time) * VARIANCE) / total
    return ((posterior / posterior.sum()) * (slope * (x - (1 - time) * means) - means)).sum()


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("time", [0.2, 0.6, 0.9])
@pytest.mark.parametrize("x", [-0.8, 0.1, 1.2])
def test_the_best_fit_of_round_n_is_the_flow_of_the_images_tilted_n_times(x, time, rounds):
    """∝ w^N q_0: images drawn from the last round's (tilted) density and weighed once more; the loss's slope vanishes there."""
    images = torch.linspace(-6, 8, 4001, dtype=torch.float64)
    shares, means = tilted(rounds - 1)
    noise = (x - (1 - time) * images) / time  # the noise that takes this image to x
    chance = density(images, shares, means, VARIANCE) * torch.distributions.Normal(0.0, 1.0).log_prob(noise).exp()
    best = flow(number(x), time, *tilted(rounds)).requires_grad_()
    error = denoising_error(best.expand(4001)[:, None], (noise - images)[:, None])
    weight = exponential_reward_weight(images, scale=TILT)
    loss = orw_cfm_w2(error, torch.zeros(4001).double(), weight, beta=0.0)
    (slope,) = torch.autograd.grad((chance * loss).sum(), best)
    (unit,) = torch.autograd.grad((chance * weight * (best - 1).square()).sum(), best)
    assert abs(slope / unit) < 1e-6
    wrong = flow(number(x), time, *tilted(rounds - 1))
    assert abs(best.detach() - wrong) > 1e-3  # the tilt matters at this image and time


def test_without_the_second_term_the_rounds_collapse():
    """The share of the component with the higher reward goes to 1, as ∝ w^N q_0 says."""
    high = [tilted(rounds)[0][1].item() for rounds in range(8)]
    assert high == sorted(high)
    assert high[-1] > 0.999


@given(st.floats(0, 5), st.floats(0.1, 5))
@settings(max_examples=30)
def test_the_second_term_draws_the_best_fit_to_the_reference(beta, weight):
    """Minimiser of w (v - u)² + β (v - v_ref)²: (w u + β v_ref) / (w + β)."""
    target, reference = 1.0, -0.5
    best = number((weight * target + beta * reference) / (weight + beta)).requires_grad_()
    loss = orw_cfm_w2(
        denoising_error(best[:, None], number(target)[:, None]),
        denoising_error(best[:, None], number(reference)[:, None]),
        number(weight),
        beta=beta,
    )
    loss.sum().backward()
    assert best.grad.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("slope", "ref_slope"), [(0.5, 0.3), (-1.0, -0.2), (1.5, -0.5)])
def test_the_distance_of_velocities_bounds_the_wasserstein_distance(slope, ref_slope):
    """W_2² <= e^{2L} ∫ E|v - v_ref|² dt along the reference's path: flows ẋ = c x from N(0, 1) end at N(0, e^{2c})."""
    w2_squared = (math.exp(slope) - math.exp(ref_slope)) ** 2
    times = np.linspace(0, 1, 2001)
    drift = np.trapezoid((slope - ref_slope) ** 2 * np.exp(2 * ref_slope * times), times)
    assert w2_squared <= math.exp(2 * abs(slope)) * drift


def test_the_weights_are_the_exponential_and_the_softmax():
    np.testing.assert_allclose(exponential_reward_weight(SCORE, scale=0.7), np.exp(0.7 * SCORE.numpy()))
    np.testing.assert_allclose(softmax_reward_weight(SCORE, scale=0.7), 5 * softmax(0.7 * SCORE.numpy()))


def test_the_softmax_is_the_exponential_over_its_mean():
    """So "exp, divided by the batch's mean" and "batch softmax" are one option, not two."""
    weight = exponential_reward_weight(SCORE, scale=0.7)
    torch.testing.assert_close(softmax_reward_weight(SCORE, scale=0.7), weight / weight.mean())
    assert softmax_reward_weight(SCORE, scale=0.7).mean().item() == pytest.approx(1)


def test_ac_flow_contains_orw_cfm_w2():
    """S the reward and no cap: ORW-CFM-W2 up to the weights' mean."""
    call = distances(5)
    weight = exponential_reward_weight(SCORE, scale=1.0)
    orw = orw_cfm_w2(**call, weight=weight / weight.mean(), beta=0.3)
    torch.testing.assert_close(ac_flow(**call, score=SCORE, max_weight=1e9), orw)


@pytest.mark.parametrize("weight", [exponential_critic_weight, softplus_critic_weight, affine_critic_weight])
def test_critic_weights_rise_with_the_score_and_keep_their_bounds(weight):
    ordered = weight(torch.linspace(-3, 3, 9), scale=1.0, max_weight=1e9)
    assert (ordered.diff() >= 0).all()
    assert ordered.mean().item() == pytest.approx(1, rel=1e-6)
    assert (ordered >= 0).all()
    assert weight(torch.linspace(-3, 3, 9), scale=1.0, max_weight=1.5).max() <= 1.5
    torch.testing.assert_close(weight(torch.full((4,), 0.3)), torch.ones(4))


def test_the_affine_weight_never_pushes_away():
    """Below -1/τ it is 0; if all are, nothing is learnt rather than divided by 0."""
    torch.testing.assert_close(affine_critic_weight(number(1, -2)), number(2, 0))
    torch.testing.assert_close(affine_critic_weight(number(-2, -3)), number(0, 0))


def test_one_outlier_cannot_carry_the_batch():
    score = torch.zeros(100).double()
    score[0] = 50.0
    assert exponential_critic_weight(score)[0] == 5
    assert softmax_reward_weight(score, scale=1.0)[0].item() == pytest.approx(100)


def test_the_docstrings_examples():
    assert exponential_reward_weight(number(math.log(3)), scale=2).item() == pytest.approx(9)
    torch.testing.assert_close(softmax_reward_weight(number(0, math.log(3)), scale=1), number(0.5, 1.5))
    torch.testing.assert_close(exponential_critic_weight(number(0, math.log(3))), number(0.5, 1.5))
    torch.testing.assert_close(softplus_critic_weight(number(1, 1)), number(1, 1))
    assert orw_cfm_w2(number(0.4), number(0.5), number(2), beta=0.3).item() == pytest.approx(0.95)
    loss = ac_flow(number(0.4, 0.4), number(0.5, 0), number(0, math.log(3)))
    torch.testing.assert_close(loss, number(0.35, 0.6))
