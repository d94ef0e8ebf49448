"""NBPO: the three trainings' steps, what they share with BPO, and what they do not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits

from objectives.contract import Case, normal
from plaudit.objectives.recommendation.noisy_votes import (
    hidden_positive_probability,
    nbpo,
    nbpo_likelihood,
    nbpo_probability,
)
from plaudit.objectives.recommendation.recommendation import bpo

R, G = normal(6, seed=1, scale=2.0), normal(6, seed=2, scale=2.0) - 1
VOTED = torch.tensor([True, False, False, True, True, False])
BOTH = ("score", "flip_logit")


def votes(rows):
    return {"score": R[:rows], "flip_logit": G[:rows], "voted": VOTED[:rows]}


quick = settings(max_examples=40, deadline=None)  # the first example pays for imports
CASES = [
    Case(nbpo_likelihood, votes, differentiable=BOTH, extreme=BOTH),
    Case(nbpo_probability, votes, differentiable=BOTH, extreme=BOTH),
    Case(nbpo, votes, differentiable=BOTH, extreme=BOTH, stops_gradients=True),
    Case(
        hidden_positive_probability,
        lambda rows: {"score": R[:rows], "flip_logit": G[:rows]},
        extreme=BOTH,
    ),
]

logits = st.floats(-15, 15)
YES, NO = torch.tensor([True]), torch.tensor([False])


def number(value):
    return torch.tensor([value], dtype=torch.float64)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def steps(objective, score, flip_logit, voted):
    """Descent steps in R and g: minus the gradient."""
    r, g = number(score).requires_grad_(), number(flip_logit).requires_grad_()
    objective(r, g, voted).sum().backward()
    return -r.grad.item(), -g.grad.item()


def table(score, flip_logit):
    """The specification's table of ascent directions, from the official scripts."""
    s, m, c, n = sigmoid(score), sigmoid(-score), sigmoid(flip_logit), sigmoid(-flip_logit)
    z = m + c * s
    return {
        nbpo_likelihood: ((m, -c), ((c - 1) * s * m / z, c * n * s / z)),
        nbpo_probability: ((n * s * m, -c * n * s), ((c - 1) * s * m, c * n * s)),
        nbpo: ((n * m, -c * s), (c * m - s, n * s)),
    }


def test_the_docstrings_examples():
    zero = number(0)
    assert nbpo_likelihood(zero, zero, YES).item() == pytest.approx(2 * math.log(2))
    assert nbpo_likelihood(zero, zero, NO).item() == pytest.approx(math.log(4 / 3))
    assert nbpo_probability(zero, zero, YES).item() == pytest.approx(-1 / 4)
    assert nbpo_probability(zero, zero, NO).item() == pytest.approx(-3 / 4)
    assert steps(nbpo, 0, 0, YES) == pytest.approx((1 / 4, -1 / 4))
    assert steps(nbpo, 0, 0, NO) == pytest.approx((-1 / 4, 1 / 4))
    assert hidden_positive_probability(zero, zero).item() == pytest.approx(1 / 3)


@pytest.mark.parametrize("objective", [nbpo_likelihood, nbpo_probability, nbpo])
@quick
@given(score=logits, flip_logit=logits)
def test_steps_are_the_official_scripts(objective, score, flip_logit):
    vote, none = table(score, flip_logit)[objective]
    assert steps(objective, score, flip_logit, YES) == pytest.approx(vote, rel=1e-6, abs=1e-12)
    assert steps(objective, score, flip_logit, NO) == pytest.approx(none, rel=1e-6, abs=1e-12)


@quick
@given(logits, logits)
def test_the_two_probabilities_add_up_to_one(score, flip_logit):
    likelihoods = [nbpo_likelihood(number(score), number(flip_logit), voted).neg().exp().item() for voted in (YES, NO)]
    assert sum(likelihoods) == pytest.approx(1)
    minus = [nbpo_probability(number(score), number(flip_logit), voted).item() for voted in (YES, NO)]
    assert [-value for value in minus] == pytest.approx(likelihoods)
    assert nbpo(number(score), number(flip_logit), YES).item() == pytest.approx(minus[0])
    assert nbpo(number(score), number(flip_logit), NO).item() == pytest.approx(minus[1])


@quick
@given(logits, logits)
def test_preference_and_exposure_are_exchangeable(score, flip_logit):
    """(R, g) and (-g, -R) have the same likelihood of votes and of their absence."""
    for voted in (YES, NO):
        a = nbpo_likelihood(number(score), number(flip_logit), voted)
        b = nbpo_likelihood(number(-flip_logit), number(-score), voted)
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("objective", "flip_logit"), [(nbpo_likelihood, -math.inf), (nbpo_likelihood, -800.0), (nbpo, -800.0)]
)
def test_without_flips_it_is_bpo(objective, flip_logit):
    """The likelihood and its gradient; of NBPO the steps in R (its value is a probability)."""
    score, plain = R.clone().requires_grad_(), R.clone().requires_grad_()
    loss = objective(score, torch.full_like(R, flip_logit), VOTED)
    loss.sum().backward()
    expected = bpo(plain, VOTED)
    expected.sum().backward()
    torch.testing.assert_close(score.grad, plain.grad)
    if objective is nbpo_likelihood:
        torch.testing.assert_close(loss, expected)


@quick
@given(logits, logits)
def test_the_likelihood_never_pushes_an_unvoted_item_up(score, flip_logit):
    assert steps(nbpo_likelihood, score, flip_logit, NO)[0] <= 0


@quick
@given(st.floats(-8, 3))
def test_nbpo_comes_to_rest_at_the_log_of_the_flip_probability(flip_logit):
    """σ(R*) = γ/(1 + γ), so R* = log γ; below it an unvoted item is pushed up, above it down."""
    rest = math.log(sigmoid(flip_logit))
    assert steps(nbpo, rest, flip_logit, NO)[0] == pytest.approx(0, abs=1e-12)
    assert sigmoid(rest) == pytest.approx(sigmoid(flip_logit) / (1 + sigmoid(flip_logit)))
    assert steps(nbpo, rest - 0.1, flip_logit, NO)[0] > 0 > steps(nbpo, rest + 0.1, flip_logit, NO)[0]


def test_nbpos_steps_are_no_gradient():
    """The curl of a vote's step: d/dg of the step in R is not d/dR of the step in g."""
    score, flip_logit, e = 0.7, 1.4, 1e-5
    down_g, up_g = (steps(nbpo, score, flip_logit + sign * e, YES)[0] for sign in (-1, 1))
    down_r, up_r = (steps(nbpo, score + sign * e, flip_logit, YES)[1] for sign in (-1, 1))
    curl = (up_g - down_g - up_r + down_r) / (2 * e)
    c, n, s, m = sigmoid(flip_logit), sigmoid(-flip_logit), sigmoid(score), sigmoid(-score)
    assert curl == pytest.approx(-c * n * m + c * s * m, rel=1e-4)
    assert abs(curl) > 0.01


@quick
@given(st.floats(-15, -5), st.floats(-5, 5))
def test_only_the_surrogate_gradient_survives_a_very_low_score(score, flip_logit):
    assert steps(nbpo, score, flip_logit, YES)[0] > 100 * steps(nbpo_probability, score, flip_logit, YES)[0]


@quick
@given(logits, logits)
def test_the_soft_label_is_bayes_rule(score, flip_logit):
    like, lost = sigmoid(score), sigmoid(flip_logit)
    expected = lost * like / (sigmoid(-score) + lost * like)
    assert hidden_positive_probability(number(score), number(flip_logit)).item() == pytest.approx(expected)


def test_the_soft_label_gives_the_likelihoods_gradient():
    """Expectation-maximisation: the logistic loss with the posterior as a constant label."""
    exact, soft = R.clone().requires_grad_(), R.clone().requires_grad_()
    nbpo_likelihood(exact, G, torch.zeros(6, dtype=torch.bool)).sum().backward()
    binary_cross_entropy_with_logits(soft, hidden_positive_probability(soft, G), reduction="sum").backward()
    torch.testing.assert_close(soft.grad, exact.grad)


def test_votes_are_rel_mfs_clicks():
    """P(vote) = relevance x exposure with relevance σ(R) and exposure 1 - γ = σ(-g)."""
    probability = nbpo_likelihood(R, G, torch.ones(6, dtype=torch.bool)).neg().exp()
    torch.testing.assert_close(probability, torch.sigmoid(R) * (1 - torch.sigmoid(G)))
