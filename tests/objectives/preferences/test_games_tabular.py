"""Exact updates of preference games: reference numbers, fixed points, rates, and where constant steps stall or circle."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy.optimize import root

from objectives.contract import Case, normal, uniform
from plaudit.objectives.preferences.games_tabular import (
    duality_gap,
    exploitability,
    extragradient_step,
    geometric_mixture,
    mirror_descent_step,
    mirror_prox_step,
    nash_md_step,
    proximal_response,
    regularised_best_response,
    win_rates,
)

A = 4


def antisymmetric(values):
    """P with P + Pᵀ = 1 from numbers in [-1, 1]."""
    upper = values.triu(1)
    return 0.5 + (upper - upper.transpose(-1, -2)) / 2


def games(rows, *names, **settings):
    tensors = {
        "log_policy": normal(5, A, seed=1).log_softmax(-1),
        "ref_log_policy": normal(5, A, seed=2).log_softmax(-1),
        "log_opponent": normal(5, A, seed=3).log_softmax(-1),
        "log_centre": normal(5, A, seed=4).log_softmax(-1),
        "preference": antisymmetric(uniform(5, A, A, seed=5, low=-1)),
    }
    return {name: tensors[name][:rows] for name in names} | settings


STEP = ("log_policy", "ref_log_policy", "preference")
STEP_SETTINGS = {"beta": [-1.0, math.nan], "eta": [0.0, -1.0, math.nan, 100.0]}
POSITIVE = {"beta": [0.0, -1.0, math.nan]}


def case(function, names, *, invalid=None, exchangeable=None, **settings):
    logits = tuple(name for name in names if name != "preference")
    return Case(
        function,
        lambda rows: games(rows, *names, **settings),
        differentiable=names,
        extreme=logits,
        exchangeable=exchangeable,
        invalid=invalid or {},
    )


CASES = [
    *(
        case(function, STEP, beta=0.3, eta=0.8, invalid=STEP_SETTINGS)
        for function in (mirror_descent_step, nash_md_step, extragradient_step)
    ),
    case(
        mirror_prox_step,
        STEP,
        beta=0.3,
        eta=2.0,
        invalid={"beta": [-1.0, math.nan], "eta": [0.0, -1.0, math.nan]},
    ),
    case(
        proximal_response,
        ("log_centre", "log_opponent", "ref_log_policy", "preference"),
        beta=0.3,
        eta=2.0,
        invalid={"beta": [-1.0, math.nan], "eta": [0.0, -1.0, math.nan]},
    ),
    case(regularised_best_response, ("log_opponent", "ref_log_policy", "preference"), beta=0.3, invalid=POSITIVE),
    case(win_rates, ("log_opponent", "preference")),
    case(
        geometric_mixture,
        ("log_policy", "ref_log_policy"),
        share=0.3,
        exchangeable="A",
        invalid={"share": [-0.1, 1.1, math.nan]},
    ),
    case(duality_gap, STEP, beta=0.3, invalid=POSITIVE),
    case(exploitability, ("log_policy", "preference")),
]

# --- the reference games

ROCK = torch.tensor([[0.5, 0.9, 0.2], [0.1, 0.5, 0.8], [0.8, 0.2, 0.5]], dtype=torch.float64)
RANDOM = antisymmetric(torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (10, 10))))
GAMES = {"rps": ROCK, "rand10": RANDOM}


def game(name, reference):
    """(P, log μ), as batches of one."""
    preference = GAMES[name]
    mu = torch.arange(1, len(preference) + 1).double() if reference == "skew" else torch.ones(len(preference)).double()
    return preference[None], (mu / mu.sum()).log()[None]


def run(step, preference, log_mu, *, steps, **settings):
    log_policy = log_mu
    for _ in range(steps):
        log_policy = step(log_policy, log_mu, preference, **settings)
    return log_policy


def divergence(log_p, log_q):
    return (log_p.exp() * (log_p - log_q)).sum(-1).item()


@cache
def equilibrium(name, reference, beta):
    """The fixed point by SciPy's root finder in NumPy, started from 300 steps of Nash-MP."""
    preference, log_mu = game(name, reference)
    start = run(mirror_prox_step, preference, log_mu, steps=300, beta=beta)
    matrix, log_reference = preference[0].numpy(), log_mu[0].numpy()

    def residual(logits):
        policy = np.exp(logits - np.logaddexp.reduce(logits))
        response = log_reference + matrix @ policy / beta
        return response - np.logaddexp.reduce(response) - logits

    found = root(residual, start[0].numpy(), tol=1e-13)
    assert np.abs(residual(found.x)).max() < 1e-9
    return torch.from_numpy(found.x)[None].log_softmax(-1)


TABLE = [
    # game, mu, beta, pi*, Nash-MP eta 2 at 10 and 100, EGPO eta 1 at 10 and 100, OMD eta 1 at 10 and 100, Nash-MD eta 0.1
    # at 1000: (KL, gap) each; None stands for < 1e-15
    (
        ("rps", "uniform", 0.1),
        (0.330242, 0.284624, 0.385134),
        ((5.129e-05, 4.744e-05), None),
        ((5.954e-04, 5.545e-04), (6.873e-14, 6.350e-14)),
        ((1.437e-03, 1.332e-03), (4.275e-10, 3.950e-10)),
        (5.955e-07, 5.498e-07),
    ),
    (
        ("rps", "uniform", 0.01),
        (0.302965, 0.297226, 0.399809),
        ((1.758e-03, 1.275e-02), (3.315e-10, 2.393e-09)),
        ((5.517e-03, 2.794e-02), (3.568e-05, 2.453e-04)),
        ((1.136e-02, 4.764e-02), (4.189e-02, 1.310e-01)),
        (1.872e-03, 1.156e-02),
    ),
    (
        ("rps", "skew", 0.1),
        (0.257760, 0.374262, 0.367978),
        ((3.259e-04, 2.963e-04), None),
        ((3.662e-03, 3.487e-03), (4.520e-13, 4.113e-13)),
        ((8.043e-03, 7.845e-03), (2.227e-09, 2.027e-09)),
        (3.397e-06, 3.091e-06),
    ),
    (
        ("rand10", "uniform", 0.1),
        (0.044261, 0.096411, 0.240528, 0.198187),
        ((3.569e-03, 1.007e-03), None),
        ((2.026e-02, 6.853e-03), (7.779e-11, 1.794e-11)),
        ((2.297e-02, 8.090e-03), (3.681e-10, 1.688e-10)),
        (5.365e-06, 2.579e-06),
    ),
    (
        ("rand10", "uniform", 0.01),
        (2e-06, 0.115569, 0.327424, 0.148045),
        ((5.057e-02, 3.600e-02), (1.461e-04, 6.907e-05)),
        ((1.292e-01, 8.906e-02), (5.082e-03, 7.533e-03)),
        ((1.490e-01, 9.522e-02), (3.477e-02, 5.746e-02)),
        (1.408e-02, 2.363e-02),
    ),
    (
        ("rand10", "skew", 0.01),
        (0.0, 0.113622, 0.342376, 0.140492),
        ((9.370e-02, 1.004e-01), (3.989e-05, 7.269e-05)),
        ((2.411e-01, 1.921e-01), (6.958e-03, 1.759e-02)),
        ((2.611e-01, 2.007e-01), (8.359e-02, 1.315e-01)),
        (2.769e-02, 6.008e-02),
    ),
]


def test_the_docstrings_examples():
    preference = torch.tensor([[[0.5, 0.9], [0.1, 0.5]]], dtype=torch.float64)
    even = torch.full((1, 2), math.log(0.5), dtype=torch.float64)

    def shares(log_policy):
        return log_policy.exp()[0].tolist()

    def odds(log_odds):
        return [1 / (1 + math.exp(-log_odds)), 1 / (1 + math.exp(log_odds))]

    assert win_rates(even, preference)[0].tolist() == pytest.approx([0.7, 0.3])
    policy = torch.tensor([[0.8, 0.2]]).log()
    assert shares(geometric_mixture(policy, even.float(), share=0.5)) == pytest.approx([2 / 3, 1 / 3])
    response = regularised_best_response(even, even, preference, beta=0.4)
    assert shares(response) == pytest.approx(odds(1))
    for step in (mirror_descent_step, nash_md_step):
        assert shares(step(even, even, preference, beta=0.5, eta=1.0)) == pytest.approx(odds(0.4))
    proximal = proximal_response(even, even, even, preference, beta=1.0, eta=1.0)
    assert shares(proximal) == pytest.approx(odds(0.4 / 2))
    gap = 2 * (0.4 * math.log((math.exp(1.75) + math.exp(0.75)) / 2) - 0.5)
    assert gap == pytest.approx(0.0961, abs=1e-4)
    assert duality_gap(even, even, preference, beta=0.4).item() == pytest.approx(gap)
    cycle = torch.tensor([[[0.5, 0.0, 1.0], [1.0, 0.5, 0.0], [0.0, 1.0, 0.5]]])
    assert exploitability(torch.zeros(1, 3), cycle).item() == pytest.approx(0)
    assert exploitability(torch.tensor([[100.0, 0.0, 0.0]]), cycle).item() == pytest.approx(0.5)


def test_without_influence_of_the_opponent_looking_ahead_changes_nothing():
    strength = torch.tensor([0.8, 0.5, 0.2], dtype=torch.float64)
    preference = strength[None, :, None].expand(1, 3, 3)  # no game, but the opponent's choice does not matter
    log_policy, log_mu = normal(1, 3, seed=1), normal(1, 3, seed=2)
    settings = {"beta": 0.2, "eta": 1.0}
    torch.testing.assert_close(
        extragradient_step(log_policy, log_mu, preference, **settings),
        mirror_descent_step(log_policy, log_mu, preference, **settings),
    )
    torch.testing.assert_close(
        mirror_prox_step(log_policy, log_mu, preference, **settings),
        proximal_response(log_policy, log_policy, log_mu, preference, **settings),
    )


@pytest.mark.parametrize("row", TABLE, ids=[f"{name}-{mu}-{beta}" for (name, mu, beta), *_ in TABLE])
def test_reference_numbers(row):
    (name, reference, beta), first, mirror_prox, extragradient, descent, nash_md = row
    preference, log_mu = game(name, reference)
    optimum = equilibrium(name, reference, beta)
    assert optimum.exp()[0, : len(first)].tolist() == pytest.approx(first, abs=6e-7)
    runs = [
        (mirror_prox_step, 2.0, 10, mirror_prox[0]),
        (mirror_prox_step, 2.0, 100, mirror_prox[1]),
        (extragradient_step, 1.0, 10, extragradient[0]),
        (extragradient_step, 1.0, 100, extragradient[1]),
        (mirror_descent_step, 1.0, 10, descent[0]),
        (mirror_descent_step, 1.0, 100, descent[1]),
        (nash_md_step, 0.1, 1000, nash_md),
    ]
    for step, eta, steps, expected in runs:
        log_policy = run(step, preference, log_mu, steps=steps, beta=beta, eta=eta)
        measured = divergence(optimum, log_policy), duality_gap(log_policy, log_mu, preference, beta=beta).item()
        if expected is None:
            assert max(measured) < 1e-14
        else:
            assert measured == pytest.approx(expected, rel=1e-3, abs=1e-15), (step.__name__, steps)


def test_the_equilibrium_is_every_exact_methods_fixed_point():
    preference, log_mu = game("rps", "skew")
    optimum = equilibrium("rps", "skew", 0.1)
    settings = {"beta": 0.1, "eta": 1.0}
    for step in (mirror_descent_step, extragradient_step, mirror_prox_step):
        torch.testing.assert_close(step(optimum, log_mu, preference, **settings), optimum)
    torch.testing.assert_close(regularised_best_response(optimum, log_mu, preference, beta=0.1), optimum)
    assert duality_gap(optimum, log_mu, preference, beta=0.1).item() == pytest.approx(0, abs=1e-12)
    assert (nash_md_step(optimum, log_mu, preference, **settings) - optimum).abs().max() > 1e-3


def test_the_gap_is_what_best_responses_win():
    """Twice the value of the best response minus that of staying, found by evaluating the game."""
    beta, call = 0.3, games(5, *STEP)
    log_pi, log_mu, preference = call.values()
    response = regularised_best_response(log_pi, log_mu, preference, beta=beta)

    def payoff(log_policy):
        pi = log_policy.exp()
        kl = (pi * (log_policy - log_mu)).sum(-1)
        return torch.einsum("bi,bij,bj->b", pi, preference, log_pi.exp()) - beta * kl

    gap = duality_gap(log_pi, log_mu, preference, beta=beta)
    torch.testing.assert_close(gap, 2 * (payoff(response) - payoff(log_pi)))
    assert (gap > 0).all()


@pytest.mark.parametrize("beta", [0.05, 0.3, 2.0])
def test_mirror_prox_keeps_its_promised_rate_on_random_games(beta):
    """KL(π*||π_k) <= KL(π*||π_0) (1 + 2β)^-k at η = 2, for 100 games of 2 to 29 actions."""
    for actions in (2, 7, 29):
        preference = antisymmetric(uniform(100, actions, actions, seed=actions, low=-1))
        log_mu = normal(100, actions, seed=actions + 1).log_softmax(-1)
        path = [log_mu]
        for _ in range(40):
            path.append(mirror_prox_step(path[-1], log_mu, preference, beta=beta))
        optimum = path[-1]
        for _ in range(int(30 / math.log1p(2 * beta))):
            optimum = mirror_prox_step(optimum, log_mu, preference, beta=beta)
        distance = torch.stack([(optimum.exp() * (optimum - log_policy)).sum(-1) for log_policy in path])
        bound = distance[0] * (1 + 2 * beta) ** -torch.arange(41.0).double()[:, None]
        assert (distance <= bound * (1 + 1e-9) + 1e-13).all()


def test_the_fitted_slope_is_at_least_the_promised_one():
    beta = 0.01
    preference, log_mu = game("rps", "uniform")
    optimum = equilibrium("rps", "uniform", beta)
    log_policy, log_distance = log_mu, []
    for _ in range(60):
        log_policy = mirror_prox_step(log_policy, log_mu, preference, beta=beta)
        log_distance.append(math.log(divergence(optimum, log_policy)))
    assert -np.polyfit(range(60), log_distance, 1)[0] >= math.log(1 + 2 * beta)


def test_where_mirror_descent_circles_mirror_prox_arrives():
    preference, log_mu = game("rps", "uniform")
    optimum = equilibrium("rps", "uniform", 0.01)

    def distance(step, steps, eta):
        return divergence(optimum, run(step, preference, log_mu, steps=steps, beta=0.01, eta=eta))

    assert distance(mirror_prox_step, 100, 2.0) < 1e-9
    assert distance(mirror_descent_step, 1000, 1.0) == pytest.approx(0.42, abs=0.01)
    assert distance(mirror_descent_step, 100, 0.1) == pytest.approx(8e-3, rel=0.1)


def test_nash_md_with_a_constant_step_stalls():
    preference, log_mu = game("rps", "uniform")
    optimum = equilibrium("rps", "uniform", 0.1)
    for steps in (300, 400):
        log_policy = run(nash_md_step, preference, log_mu, steps=steps, beta=0.1, eta=1.0)
        assert divergence(optimum, log_policy) == pytest.approx(6.9e-05, rel=0.01)


def test_a_game_with_rewards_is_won_by_the_best_action():
    """Bradley-Terry preferences, μ uniform, β → 0."""
    reward = torch.tensor([0.3, 1.0, -0.5, 0.8], dtype=torch.float64)
    preference = torch.sigmoid(reward[:, None] - reward)[None]
    log_mu = torch.full((1, 4), -math.log(4), dtype=torch.float64)
    log_policy = run(mirror_prox_step, preference, log_mu, steps=2000, beta=1e-3)
    assert log_policy.exp()[0, 1].item() > 1 - 1e-6
    assert exploitability(log_policy, preference).item() == pytest.approx(0, abs=1e-6)


def test_without_a_reference_mirror_descent_is_multiplicative_weights():
    """π⁺ ∝ π e^{η P π}."""
    preference, log_mu = game("rand10", "skew")
    log_policy = normal(1, 10, seed=3).log_softmax(-1)
    weights = log_policy.exp() * torch.exp(0.7 * (preference @ log_policy.exp()[:, :, None]).squeeze(-1))
    step = mirror_descent_step(log_policy, log_mu, preference, beta=0.0, eta=0.7)
    torch.testing.assert_close(step.exp(), weights / weights.sum())


def test_inpos_update_is_mirror_descent_with_the_inverse_step():
    """π⁺ ∝ exp(P(y > π)/η) μ^{τ/η} π^{1 - τ/η}."""
    tau, eta = 0.2, 0.5
    preference, log_mu = game("rps", "skew")
    log_policy = normal(1, 3, seed=3).log_softmax(-1)
    wins = (preference @ log_policy.exp()[:, :, None]).squeeze(-1)
    weights = torch.exp(wins / eta) * log_mu.exp() ** (tau / eta) * log_policy.exp() ** (1 - tau / eta)
    step = mirror_descent_step(log_policy, log_mu, preference, beta=tau, eta=1 / eta)
    torch.testing.assert_close(step.exp(), weights / weights.sum())


def test_a_step_beyond_the_reference_is_an_error():
    preference, log_mu = game("rps", "uniform")
    with pytest.raises(ValueError, match=r"eta: expected at most 1 / beta = 2, got 3.0"):
        mirror_descent_step(log_mu, log_mu, preference, beta=0.5, eta=3.0)
