"""POPri's votes and pairs, and the privacy of Gaussian noise: definitions, known numbers, inverses and monotonicity."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from objectives.contract import Case, normal, uniform
from plaudit.objectives.recommendation.private_selection import (
    gaussian_noise_multiplier,
    gaussian_privacy_delta,
    gaussian_privacy_epsilon,
    private_vote,
    ranked_pairs,
    renyi_privacy_epsilon,
)

SCORE = normal(5, 6, seed=1)
EPSILON, DELTA = uniform(5, seed=2, low=0.2, high=4), uniform(5, seed=3, low=1e-6, high=1e-2)
NOISE = {"noise_multiplier": [0.0, -1.0, math.nan], "rounds": [0, -1]}


def deltas(rows):
    return {"delta": DELTA[:rows], "noise_multiplier": 3.0, "rounds": 4}


quick = settings(max_examples=40, deadline=None)  # the first example pays for imports
CASES = [
    Case(
        private_vote,
        lambda rows: {"score": SCORE[:rows]},
        differentiable=("score",),
        extreme=("score",),
        exchangeable="N",
        stops_gradients=True,  # a sum of a standardised vector has slope 0; held against its formula below
    ),
    Case(
        ranked_pairs,
        lambda rows: {"score": SCORE[:rows], "rejected_rank": 3},
        extreme=("score",),
        invalid={"chosen_rank": [-1, 6], "rejected_rank": [0, 6]},
        low_precision=None,  # positions jump where rounding makes ties
    ),
    Case(
        gaussian_privacy_delta,
        lambda rows: {"epsilon": EPSILON[:rows], "noise_multiplier": 0.8, "rounds": 2},
        differentiable=("epsilon",),
        extreme=("epsilon",),
        invalid=NOISE,
    ),
    Case(gaussian_privacy_epsilon, deltas, invalid=NOISE),
    Case(renyi_privacy_epsilon, deltas, invalid=NOISE),
    Case(
        gaussian_noise_multiplier,
        lambda rows: {"epsilon": EPSILON[:rows], "delta": DELTA[:rows], "rounds": 4},
        invalid={"rounds": [0, -1]},
    ),
]

noises = st.floats(0.3, 30)
rounds_run = st.integers(1, 40)


def number(value):
    return torch.tensor([value], dtype=torch.float64)


def test_the_docstrings_examples():
    vote = private_vote(torch.tensor([[1.0, 3.0]]))
    assert vote.tolist()[0] == pytest.approx([-1 / math.sqrt(2), 1 / math.sqrt(2)])
    chosen, rejected, decided = ranked_pairs(torch.tensor([[0.1, 0.9, 0.5]]), rejected_rank=1)
    assert (chosen.item(), rejected.item(), decided.item()) == (1, 2, True)
    delta = gaussian_privacy_delta(number(0), noise_multiplier=0.5).item()
    assert delta == pytest.approx(norm.cdf(1) - norm.cdf(-1))


@pytest.mark.parametrize(
    ("sigma", "rounds", "renyi", "exact"),
    [(19.3, 20, 0.997, 0.919), (3.35, 20, 6.96, 6.50), (19.3, 31, 1.264, 1.167)],
)
def test_the_numbers_of_popris_configurations(sigma, rounds, renyi, exact):
    """δ = 3e-6: 20 rounds fit ε = 1 and 7, the shipped loop's 31 do not."""
    settings_ = {"noise_multiplier": sigma, "rounds": rounds}
    assert gaussian_privacy_epsilon(number(3e-6), **settings_).item() == pytest.approx(exact, abs=5e-3)
    assert renyi_privacy_epsilon(number(3e-6), **settings_).item() == pytest.approx(renyi, abs=5e-3)
    if exact < 1:
        found = gaussian_noise_multiplier(number(exact), number(3e-6), rounds=rounds).item()
        assert found == pytest.approx(sigma, rel=1e-3)


def opacus_epsilon(sigma, rounds, delta):
    """Opacus' formulas as a loop over orders: RDP of the Gaussian mechanism and the improved conversion."""
    best = math.inf
    for k in range(1, 1000):
        order = 1 + k / 10
        rdp = rounds * order / (2 * sigma**2)
        best = min(best, rdp - (math.log(delta) + math.log(order)) / (order - 1) + math.log((order - 1) / order))
    return max(best, 0.0)


@quick
@given(st.floats(0.0, 8), noises, rounds_run)
def test_delta_is_the_definition(epsilon, sigma, rounds):
    mu = math.sqrt(rounds) / sigma
    expected = norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)
    ours = gaussian_privacy_delta(number(epsilon), noise_multiplier=sigma, rounds=rounds).item()
    assert ours == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_delta_is_the_largest_gap_over_events():
    """sup over sets S of P(S) - e^ε Q(S) between N(μ, 1) and N(0, 1), on a grid: the positive part's integral."""
    sigma, rounds, epsilon = 1.5, 3, 0.7
    mu = math.sqrt(rounds) / sigma
    x = np.linspace(-12, 12, 400_001)
    gap = norm.pdf(x, mu) - math.exp(epsilon) * norm.pdf(x)
    expected = np.clip(gap, 0, None).sum() * (x[1] - x[0])
    ours = gaussian_privacy_delta(number(epsilon), noise_multiplier=sigma, rounds=rounds).item()
    assert ours == pytest.approx(expected, rel=1e-5)


@quick
@given(st.floats(-7, -1), noises, rounds_run)
def test_epsilon_and_noise_are_inverses_of_delta(log_delta, sigma, rounds):
    delta = number(10**log_delta)
    epsilon = gaussian_privacy_epsilon(delta, noise_multiplier=sigma, rounds=rounds)
    spent = gaussian_privacy_delta(epsilon, noise_multiplier=sigma, rounds=rounds)
    if epsilon.item() > 1e-9:
        torch.testing.assert_close(spent, delta, rtol=1e-6, atol=0)
        found = gaussian_noise_multiplier(epsilon, delta, rounds=rounds).item()
        assert found == pytest.approx(sigma, rel=1e-5)
    else:
        assert (spent <= delta).all()
    renyi = renyi_privacy_epsilon(delta, noise_multiplier=sigma, rounds=rounds).item()
    assert renyi == pytest.approx(opacus_epsilon(sigma, rounds, delta.item()), rel=1e-9)
    assert renyi >= epsilon.item() - 1e-9


@quick
@given(st.floats(-7, -2), noises, rounds_run)
def test_more_rounds_and_less_noise_spend_more(log_delta, sigma, rounds):
    delta = number(10**log_delta)
    for accountant in (gaussian_privacy_epsilon, renyi_privacy_epsilon):
        base = accountant(delta, noise_multiplier=sigma, rounds=rounds)
        assert accountant(delta, noise_multiplier=sigma, rounds=rounds + 1) >= base
        assert accountant(delta, noise_multiplier=1.1 * sigma, rounds=rounds) <= base
        same = accountant(delta, noise_multiplier=2 * sigma, rounds=4 * rounds)
        torch.testing.assert_close(same, base)  # √T / σ says it all


def official_vote(scores):
    """client_feedback.py: standardise over all candidates, then clip to norm 1."""
    z = (scores - scores.mean()) / scores.std()
    size = np.linalg.norm(z)
    return z / size if size > 1 else z


def test_votes_are_the_official_ones_and_of_length_one():
    votes = private_vote(SCORE)
    for vote, scores in zip(votes.numpy(), SCORE.numpy(), strict=True):
        np.testing.assert_allclose(vote, official_vote(scores))
    torch.testing.assert_close(votes.norm(dim=-1), torch.ones(5).double())


@quick
@given(st.floats(1e-3, 1e3), st.floats(-100, 100))
def test_a_vote_keeps_only_the_direction(scale, shift):
    torch.testing.assert_close(private_vote(scale * SCORE + shift), private_vote(SCORE), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, -3e4])
def test_a_client_without_an_opinion_sends_nothing(value):
    score = torch.full((1, 7), value, requires_grad=True)
    vote = private_vote(score)
    vote.square().sum().backward()
    assert vote.tolist() == [[0] * 7]
    assert (score.grad == 0).all()


def test_a_votes_gradient_is_a_projection():
    """v = c/|c| with c = s - mean: dv·a = (a - mean a - v (v·a)) / |c|."""
    direction = normal(5, 6, seed=9)
    score = SCORE.clone().requires_grad_()
    (private_vote(score) * direction).sum().backward()
    centred = SCORE - SCORE.mean(-1, keepdim=True)
    vote = centred / centred.norm(dim=-1, keepdim=True)
    along = (vote * direction).sum(-1, keepdim=True)
    expected = (direction - direction.mean(-1, keepdim=True) - vote * along) / centred.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(score.grad, expected)


def test_pairs_are_the_official_ranks():
    """chosen = rank 0, rejected = rank 4 of 10, counted from 0."""
    scores = normal(4, 10, seed=4)
    chosen, rejected, decided = ranked_pairs(scores)
    for row, values in enumerate(scores.tolist()):
        order = sorted(range(10), key=lambda k: values[k], reverse=True)
        assert (chosen[row].item(), rejected[row].item()) == (order[0], order[4])
    assert decided.all()


def test_equal_scores_decide_nothing_and_keep_their_order():
    chosen, rejected, decided = ranked_pairs(torch.tensor([[0.5] * 5, [1.0, 1.0, 0.0, 0.0, 0.0]]))
    assert (chosen.tolist(), rejected.tolist(), decided.tolist()) == ([0, 0], [4, 4], [False, True])


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ({"chosen_rank": 6}, "chosen_rank: expected a rank in 0 ... 5, got 6"),
        ({"chosen_rank": 2, "rejected_rank": 2}, "rejected_rank: expected a rank in 3 ... 5, got 2"),
    ],
)
def test_ranks_have_their_range(ranks, message):
    with pytest.raises(ValueError, match=message):
        ranked_pairs(SCORE, **ranks)
