"""Recommenders' pointwise losses and BPR: exact expectations over exposure and relevance, variances, bounds and peers."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from objectives.contract import Case, normal, uniform
from plaudit.objectives.preferences import dpo
from plaudit.objectives.recommendation.propensity import expomf_exposure, exposure_prior, popularity_propensity
from plaudit.objectives.recommendation.recommendation import (
    bpo,
    bpr,
    dual_unbiased,
    expomf,
    ideal_pointwise,
    rel_mf,
    wmf,
)
from plaudit.objectives.reward_models import bradley_terry

SCORE = normal(6, seed=1, scale=1.5)
CLICKED = torch.tensor([True, False, True, False, True, False])
THETA = uniform(6, seed=2, low=0.05)
GAMMA = uniform(6, seed=3, low=0.02, high=0.98)
LOCAL = ("log", "squared", "least-squares")


def points(rows, **more):
    return {"score": SCORE[:rows], "clicked": CLICKED[:rows], **more}


def exposed(rows, **more):
    return points(rows, propensity=THETA[:rows], **more)


quick = settings(max_examples=40, deadline=None)  # the first example pays for imports
CASES = [
    Case(
        bpr,
        lambda rows: {"score_clicked": SCORE[:rows], "score_other": normal(6, seed=4)[:rows]},
        differentiable=("score_clicked", "score_other"),
        extreme=("score_clicked", "score_other"),
    ),
    Case(
        bpo,
        lambda rows: {"score": SCORE[:rows], "voted": CLICKED[:rows]},
        differentiable=("score",),
        extreme=("score",),
    ),
    Case(
        expomf,
        lambda rows: points(rows, exposure=uniform(6, seed=5)[:rows], precision=2.0),
        differentiable=("score",),
        extreme=("score",),
        invalid={"precision": [0.0, -1.0, math.nan]},
    ),
    *(
        Case(
            ideal_pointwise,
            lambda rows, local=local: {"score": SCORE[:rows], "relevance": GAMMA[:rows], "local_loss": local},
            name=local,
            differentiable=("score",),
            extreme=("score",),
            invalid={"local_loss": ["hinge"]},
        )
        for local in LOCAL
    ),
    *(
        Case(
            wmf,
            lambda rows, local=local: points(rows, unclicked_weight=0.3, local_loss=local),
            name=local,
            differentiable=("score",),
            extreme=("score",),
            invalid={"unclicked_weight": [-0.1, 1.1, math.nan], "local_loss": ["hinge"]},
        )
        for local in LOCAL
    ),
    *(
        Case(
            rel_mf,
            lambda rows, local=local, more=more: exposed(rows, local_loss=local, **more),
            name=f"{local}-{name}",
            differentiable=("score",),
            extreme=("score",),
            invalid={"clip": [-0.1, 1.1, math.nan], "slack": [-0.1, math.nan], "local_loss": ["hinge"]},
            low_precision=64.0,  # a weight 1/θ multiplies the losses' rounding
        )
        for local in LOCAL
        for name, more in {"unbiased": {}, "clipped": {"clip": 0.3}, "bounded": {"slack": 0.2}}.items()
    ),
    *(
        Case(
            dual_unbiased,
            lambda rows, local=local: exposed(
                rows, unclicked_propensity=uniform(6, seed=6, low=0.2)[:rows], local_loss=local, clip=0.1
            ),
            name=local,
            differentiable=("score",),
            extreme=("score",),
            invalid={"clip": [-0.1, 1.1], "local_loss": ["hinge"]},
        )
        for local in LOCAL
    ),
]

scores = st.floats(-8, 8)
shares = st.floats(0.01, 1.0)


def number(*values):
    return torch.tensor(values, dtype=torch.float64)


def slow_local(score, local):
    """δ1 and δ0 from the definitions, in plain Python."""
    p = 1 / (1 + math.exp(-score))
    if local == "log":
        return -math.log(p), -math.log(1 - p)
    return ((1 - p) ** 2, p**2) if local == "squared" else ((1 - score) ** 2, score**2)


def slow_rel_mf(score, clicked, theta, *, clip, local):
    """The official loss: weights from clipped propensities, a click's second weight negative."""
    total = []
    for s, y, t in zip(score, clicked, theta, strict=True):
        relevant, irrelevant = slow_local(s, local)
        held = min(max(t, clip), 1.0)
        total.append(y / held * relevant + (1 - y / held) * irrelevant)
    return np.array(total)


def test_the_docstrings_examples():
    zero, click, none = number(0), torch.tensor([True]), torch.tensor([False])
    assert bpr(number(2), number(1)).item() == pytest.approx(math.log(1 + math.exp(-1)))
    for gamma in (0.0, 0.3, 1.0):
        assert ideal_pointwise(zero, number(gamma)).item() == pytest.approx(math.log(2))
        assert ideal_pointwise(zero, number(gamma), local_loss="squared").item() == pytest.approx(1 / 4)
    assert bpo(zero, click).item() == bpo(zero, none).item() == pytest.approx(math.log(2))
    assert wmf(number(0.5), click, unclicked_weight=0.4).item() == pytest.approx(0.25)
    assert wmf(number(0.5), none, unclicked_weight=0.4).item() == pytest.approx(0.1)
    assert expomf(number(0.5), none, number(0.2)).item() == pytest.approx(0.2 * 0.25 / 2)
    score = number(0).requires_grad_()
    loss = rel_mf(score, click, number(0.5))
    assert loss.item() == pytest.approx(math.log(2))
    loss.sum().backward()
    assert score.grad.item() == pytest.approx(1 / 2 - 2)
    halves, quarters = number(0.5), number(0.75)
    assert dual_unbiased(zero, click, halves, quarters).item() == pytest.approx(2 * math.log(2))
    assert dual_unbiased(zero, none, halves, quarters).item() == pytest.approx(4 / 3 * math.log(2))


@quick
@given(scores, scores, scores)
def test_bpr_is_dpo_with_a_constant_reference(clicked, other, constant):
    loss = bpr(number(clicked), number(other))
    shifted = dpo(number(clicked - constant), number(other - constant), beta=1.0)
    torch.testing.assert_close(loss, shifted, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(loss, bradley_terry(number(clicked), number(other)))


def test_bpr_slope_is_the_papers():
    """Rendle et al.: dBPR-Opt/dx = e^-x / (1 + e^-x)."""
    clicked, other = SCORE.clone().requires_grad_(), torch.zeros_like(SCORE).requires_grad_()
    bpr(clicked, other).sum().backward()
    torch.testing.assert_close(clicked.grad, -(torch.exp(-SCORE) / (1 + torch.exp(-SCORE))))
    torch.testing.assert_close(other.grad, -clicked.grad)


@pytest.mark.parametrize("local", LOCAL)
@pytest.mark.parametrize("clip", [0.0, 0.3, 1.0])
def test_rel_mf_is_the_official_formula(local, clip):
    ours = rel_mf(SCORE, CLICKED, THETA, clip=clip, local_loss=local)
    slow = slow_rel_mf(SCORE.tolist(), CLICKED.tolist(), THETA.tolist(), clip=clip, local=local)
    np.testing.assert_allclose(ours.numpy(), slow, rtol=1e-10)


def outcomes(gamma, theta):
    """Every outcome (O, R) with its probability."""
    for seen, liked in product((0, 1), repeat=2):
        yield seen * liked, (theta if seen else 1 - theta) * (gamma if liked else 1 - gamma)


def moments(score, gamma, theta, **settings):
    """Mean and variance of one pair's loss over exposure and relevance, by enumeration."""
    values, chances = [], []
    for click, chance in outcomes(gamma, theta):
        values.append(rel_mf(number(score), torch.tensor([bool(click)]), number(theta), **settings).item())
        chances.append(chance)
    mean = sum(v * c for v, c in zip(values, chances, strict=True))
    return mean, sum(c * (v - mean) ** 2 for v, c in zip(values, chances, strict=True))


@quick
@given(scores, shares, shares, st.sampled_from(LOCAL))
def test_rel_mf_is_unbiased_and_its_variance_is_the_formula(score, gamma, theta, local):
    """E = γ δ1 + (1 - γ) δ0 and Var = γ (1/θ - γ) (δ1 - δ0)², exactly."""
    mean, variance = moments(score, gamma, theta, local_loss=local)
    ideal = ideal_pointwise(number(score), number(gamma), local_loss=local).item()
    relevant, irrelevant = slow_local(score, local)
    assert mean == pytest.approx(ideal, rel=1e-9, abs=1e-9)
    assert variance == pytest.approx(gamma * (1 / theta - gamma) * (relevant - irrelevant) ** 2, rel=1e-7, abs=1e-9)


@quick
@given(scores, shares, shares, shares, st.sampled_from(LOCAL))
def test_clipping_has_the_papers_bias_and_variance(score, gamma, theta, clip, local):
    """Bias γ (θ/M - 1) d and variance θγ(1 - θγ)/M² d² where θ < M; as without clipping elsewhere. M = 1 is naive."""
    mean, variance = moments(score, gamma, theta, clip=clip, local_loss=local)
    relevant, irrelevant = slow_local(score, local)
    d, held = relevant - irrelevant, max(theta, clip)
    ideal = gamma * relevant + (1 - gamma) * irrelevant
    bias = gamma * (theta / clip - 1) * d if theta < clip else 0.0
    assert mean - ideal == pytest.approx(bias, rel=1e-7, abs=1e-9)
    assert abs(bias) <= gamma * abs(d) + 1e-12  # the naive estimator's at worst
    assert variance == pytest.approx(theta * gamma * (1 - theta * gamma) / held**2 * d**2, rel=1e-7, abs=1e-9)
    assert variance <= gamma * (1 / theta - gamma) * d**2 * (1 + 1e-9) + 1e-9


def test_a_propensity_wrong_by_a_factor_biases_by_the_formula():
    """θ̂ = cθ: the bias is (1/c - 1) γ d."""
    factor, gamma, theta, score = 0.5, 0.4, 0.6, 1.3
    expected = 0.0
    for click, chance in outcomes(gamma, theta):
        expected += chance * rel_mf(number(score), torch.tensor([bool(click)]), number(factor * theta)).item()
    relevant, irrelevant = slow_local(score, "log")
    ideal = gamma * relevant + (1 - gamma) * irrelevant
    assert expected - ideal == pytest.approx((1 / factor - 1) * gamma * (relevant - irrelevant))


def test_clipping_lowers_the_mean_squared_error_where_variance_dominates():
    """400 pairs, a tenth of them hardly ever seen: the exact error falls from 0.0271 to 0.0082 at M = 0.1."""
    rng = np.random.default_rng(0)
    gamma = torch.from_numpy(rng.uniform(0.02, 0.98, 400))
    theta = torch.from_numpy(np.clip(rng.uniform(0.01, 1.0, 400) ** 2 + 1e-3, 0.02, 1.0))
    score, click = torch.from_numpy(rng.normal(0, 1.5, 400)), theta * gamma
    error = {}
    for clip in (0.0, 0.1):
        losses = [rel_mf(score, torch.full((400,), clicked), theta, clip=clip) for clicked in (True, False)]
        bias = (click * losses[0] + (1 - click) * losses[1] - ideal_pointwise(score, gamma)).mean()
        variance = (click * (1 - click) * (losses[0] - losses[1]).square()).sum() / 400**2
        error[clip] = (bias.square() + variance).item()
    assert error == pytest.approx({0.0: 0.02714, 0.1: 0.00819}, abs=5e-6)


def test_a_lists_loss_is_unbiased_and_variances_add_up():
    """Exact enumeration over the joint outcomes of three pairs."""
    score, gamma, theta = SCORE[:3], GAMMA[:3], THETA[:3]
    mean = second = 0.0
    for clicks in product((False, True), repeat=3):
        p = torch.where(torch.tensor(clicks), theta * gamma, 1 - theta * gamma).prod().item()
        value = rel_mf(score, torch.tensor(clicks), theta).mean().item()
        mean, second = mean + p * value, second + p * value**2
    assert mean == pytest.approx(ideal_pointwise(score, gamma).mean().item(), abs=1e-12)
    d = -score  # δ1 - δ0 of the log loss
    assert second - mean**2 == pytest.approx((gamma * (1 / theta - gamma) * d.square()).sum().item() / 9)


@pytest.mark.parametrize("local", LOCAL)
def test_with_propensities_of_one_it_is_naive(local):
    naive = ideal_pointwise(SCORE, CLICKED.double(), local_loss=local)
    torch.testing.assert_close(rel_mf(SCORE, CLICKED, torch.ones(6).double(), local_loss=local), naive)
    torch.testing.assert_close(rel_mf(SCORE, CLICKED, THETA, clip=1.0, local_loss=local), naive)
    torch.testing.assert_close(wmf(SCORE, CLICKED, unclicked_weight=1.0, local_loss=local), naive)
    ones = torch.ones(6).double()
    torch.testing.assert_close(dual_unbiased(SCORE, CLICKED, ones, ones, local_loss=local), naive)


def test_the_naive_log_loss_is_sklearns_and_bpo():
    loss = rel_mf(SCORE, CLICKED, THETA, clip=1.0)
    torch.testing.assert_close(loss, bpo(SCORE, CLICKED))
    assert loss.mean().item() == pytest.approx(log_loss(CLICKED.numpy(), torch.sigmoid(SCORE).numpy()))


def test_slope_of_the_log_loss():
    """dL/ds = σ(s) - Y/θ."""
    score = SCORE.clone().requires_grad_()
    rel_mf(score, CLICKED, THETA).sum().backward()
    torch.testing.assert_close(score.grad, torch.sigmoid(SCORE) - CLICKED / THETA)


@pytest.mark.parametrize("local", ["log", "squared"])
@quick
@given(gamma=st.floats(0.05, 0.95), theta=shares)
def test_the_expected_losss_minimiser_is_the_relevance(local, gamma, theta):
    score = number(math.log(gamma / (1 - gamma))).requires_grad_()
    total = sum(
        chance * rel_mf(score, torch.tensor([bool(click)]), number(theta), local_loss=local)
        for click, chance in outcomes(gamma, theta)
    )
    total.sum().backward()
    assert score.grad.item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("logit", [0.0, 5.0, 10.0, 20.0])
def test_a_click_is_unbounded_below_in_the_log_loss_and_bounded_in_the_squared(logit):
    """One click at θ = 0.1: with δ1 = δ0 - s the log loss is log(1 + e^s) - 10 s; the squared one stays above 1 - 1/θ."""
    click, theta = torch.tensor([True]), number(0.1)
    log = rel_mf(number(logit), click, theta).item()
    assert log == pytest.approx(math.log1p(math.exp(-logit)) + logit - 10 * logit)
    squared = rel_mf(number(logit), click, theta, local_loss="squared").item()
    assert squared >= 1 - 1 / 0.1
    far = rel_mf(number(40.0), click, theta, local_loss="squared").item()
    assert far == pytest.approx(1 - 1 / 0.1)


@pytest.mark.parametrize("slack", [0.0, 0.25])
def test_the_floor_holds_value_and_gradient(slack):
    sure = 4 * SCORE.abs()
    plain, held = sure.clone().requires_grad_(), sure.clone().requires_grad_()
    loss, bounded = rel_mf(plain, CLICKED, THETA), rel_mf(held, CLICKED, THETA, slack=slack)
    torch.testing.assert_close(bounded, loss.clamp(min=-slack))
    loss.sum().backward()
    bounded.sum().backward()
    assert (loss < -slack).any()
    assert (loss > -slack).any()
    torch.testing.assert_close(held.grad, torch.where(loss < -slack, 0, plain.grad))


@pytest.mark.parametrize("hidden", [0.0, math.nan, math.inf])
def test_a_missing_clicks_propensity_is_not_read(hidden):
    theta = torch.where(CLICKED, THETA, hidden)
    assert torch.equal(rel_mf(SCORE, CLICKED, theta), rel_mf(SCORE, CLICKED, THETA))


def test_wmf_is_hus_confidence_weighted_loss():
    """c (p - s)² with c = 1 + α for a click, 1 for none, up to the factor 1 + α."""
    alpha = 4.0
    confidence = torch.where(CLICKED, 1 + alpha, 1.0)
    expected = confidence * (CLICKED.double() - SCORE).square() / (1 + alpha)
    torch.testing.assert_close(wmf(SCORE, CLICKED, unclicked_weight=1 / (1 + alpha)), expected)


@quick
@given(scores, st.floats(0.01, 0.95), shares)
def test_dual_unbiased_is_unbiased_at_the_right_propensity_only(score, gamma, theta):
    def expected(unclicked):
        return sum(
            chance * dual_unbiased(number(score), torch.tensor([bool(click)]), number(theta), number(unclicked)).item()
            for click, chance in outcomes(gamma, theta)
        )

    right = (1 - theta * gamma) / (1 - gamma)
    ideal = ideal_pointwise(number(score), number(gamma)).item()
    assert expected(right) == pytest.approx(ideal, rel=1e-9)
    irrelevant = slow_local(score, "log")[1]
    assert expected(1.0) - ideal == pytest.approx(gamma * (1 - theta) * irrelevant, rel=1e-6, abs=1e-9)


def test_an_em_step_of_expomf_raises_the_likelihood_of_clicks():
    """Marginal likelihood: μ N(y | s, 1/λ) + (1 - μ) 1[y = 0]; the M-step's gradient is its gradient (EM)."""
    precision, prior = 2.0, torch.full((6,), 0.3).double()
    score = SCORE.clone().requires_grad_()
    density = math.sqrt(precision / (2 * math.pi)) * torch.exp(-precision / 2 * (CLICKED.double() - score).square())
    (-torch.log(prior * density + torch.where(CLICKED, 0, 1 - prior))).sum().backward()
    em = SCORE.clone().requires_grad_()
    posterior = expomf_exposure(em, CLICKED, prior, precision=precision)
    expomf(em, CLICKED, posterior, precision=precision).sum().backward()
    torch.testing.assert_close(em.grad, score.grad)
    assert 0 < exposure_prior(posterior[None]).item() < 1


def test_popularity_propensities_feed_rel_mf():
    """Clicks (4, 1): θ = (1, 1/2); a click on the rare item weighs double."""
    theta = popularity_propensity(number(4, 1))
    score = torch.zeros(2).double().requires_grad_()
    rel_mf(score, torch.tensor([True, True]), theta).sum().backward()
    torch.testing.assert_close(score.grad, number(0.5 - 1, 0.5 - 2))
