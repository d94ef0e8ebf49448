"""The equilibrium: SciPy's fixed point, small beta, and the distances to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, root

from plaudit.objectives.preferences import exploitability, regularised_best_response
from plaudit.policies import Tabular
from plaudit.testbeds.games import (
    ROCK_PAPER_SCISSORS,
    Game,
    cyclic,
    descent_radius,
    equilibrium,
    exact_online_ipo,
    gap,
    play,
    population,
    random_ten,
    side_by_side,
    skewed,
    span,
    transitive,
    uniform_preference,
)

MATRICES = {"rps": np.array(ROCK_PAPER_SCISSORS), "rand10": random_ten(), "bradley-terry": transitive([0.3, 1.0, -0.5])}


def scipys(matrix, reference, beta):
    """The fixed point by SciPy, in log-probabilities, from the end of 3,000 damped best responses."""
    log_mu = np.log(reference)

    def response(logits):
        policy = np.exp(logits - np.logaddexp.reduce(logits))
        found = log_mu + matrix @ policy / beta
        return found - np.logaddexp.reduce(found)

    logits = log_mu
    for _ in range(3000):
        logits = logits + min(0.5, beta) * (response(logits) - logits)
    found = root(lambda x: response(x) - x, logits, tol=1e-13)
    assert np.abs(response(found.x) - found.x).max() < 1e-8
    return np.exp(found.x - np.logaddexp.reduce(found.x))


@pytest.mark.parametrize("beta", [2.0, 0.1, 0.02])
@pytest.mark.parametrize("name", MATRICES)
def test_it_is_scipys_fixed_point(name, beta):
    matrix = MATRICES[name]
    for reference in (np.full(len(matrix), 1 / len(matrix)), skewed(len(matrix))):
        found = equilibrium(Game.of(matrix, beta=beta, reference=reference)).probabilities()[0].numpy()
        np.testing.assert_allclose(found, scipys(matrix, reference, beta), atol=1e-9)


@given(st.integers(1, 30), st.integers(0, 10_000), st.floats(-7, 1))
@settings(max_examples=60, deadline=None)
def test_it_is_its_own_best_response_at_any_beta(size, seed, log_beta):
    generator = np.random.default_rng(seed)
    reference = 0.9 * generator.dirichlet(np.ones(size)) + 0.1 / size
    game = Game.of(uniform_preference(size, generator), beta=10**log_beta, reference=reference)
    optimum = equilibrium(game)
    response = regularised_best_response(optimum.logits, game.log_reference, game.preference, beta=game.beta)
    worst = (response.exp() - optimum.probabilities()).abs().max().item()
    assert worst <= 16 * np.finfo(float).eps * (1 + 1 / game.beta) / game.beta  # v is known to about eps / β
    assert abs(gap(game, optimum).item()) < 1e-10


def test_with_little_pull_it_is_the_matrix_games_own():
    """β → 0: the von Neumann winner, by linear programming; where it is not mixed, the best action."""
    for matrix in (
        MATRICES["rps"],
        MATRICES["rand10"],
        cyclic(5),
        population(np.random.default_rng(1).normal(size=(3, 6))),
    ):
        size = len(matrix)
        solved = linprog(
            [0.0] * size + [-1.0],
            A_ub=np.hstack([-matrix.T, np.ones((size, 1))]), b_ub=np.zeros(size),
            A_eq=[[1.0] * size + [0.0]], b_eq=[1.0], bounds=[(0, 1)] * size + [(None, None)],
        )  # fmt: skip
        game = Game.of(matrix, beta=1e-6)
        optimum = equilibrium(game)
        np.testing.assert_allclose(optimum.probabilities()[0].numpy(), solved.x[:-1], atol=1e-4)
        assert exploitability(optimum.logits, game.preference).item() < 1e-5
    scores = [0.3, 1.0, -0.5, 0.8]
    assert equilibrium(Game.of(transitive(scores), beta=1e-3)).probabilities()[0, 1].item() > 1 - 1e-6


def test_with_a_strong_pull_it_is_the_reference():
    game = Game.of(random_ten(), beta=1e6, reference=skewed(10))
    np.testing.assert_allclose(equilibrium(game).probabilities()[0].numpy(), skewed(10), atol=1e-6)


def test_games_at_once_and_each_alone():
    generator = np.random.default_rng(5)
    matrices = [uniform_preference(int(size), generator) for size in generator.integers(2, 30, size=100)]
    references = [generator.dirichlet(np.ones(len(matrix))) for matrix in matrices]
    game = side_by_side(matrices, references, beta=1e-3)
    together = equilibrium(game)
    assert gap(game, together).abs().max() < 1e-12
    for row in (0, 50, 99):
        alone = equilibrium(Game.of(matrices[row], beta=1e-3, reference=references[row])).probabilities()[0]
        torch.testing.assert_close(together.probabilities()[row, : len(alone)], alone, atol=1e-10, rtol=1e-7)


def test_the_span_is_of_the_log_ratio():
    game = Game.of(ROCK_PAPER_SCISSORS, beta=0.1)
    optimum = equilibrium(game)
    moved = Tabular(optimum.logits + torch.tensor([[0.0, 0.3, -0.5]]))
    assert span(game, moved, optimum).item() == pytest.approx(0.8)
    assert span(game, optimum, optimum).item() == 0


def test_where_the_equilibrium_repels_mirror_descent_never_arrives_and_elsewhere_it_does():
    """Pushed off by 1e-6 nats, the policy comes back or leaves, at the rate that the radius says."""
    for beta, eta, comes_back in ((0.1, 1.0, True), (0.01, 1.0, False), (0.01, 0.1, True)):
        game = Game.of(ROCK_PAPER_SCISSORS, beta=beta)
        optimum = equilibrium(game)
        radius = descent_radius(game, optimum, eta=eta).item()
        pushed = Tabular(optimum.logits + 1e-6 * torch.tensor([[0.0, 1.0, -1.0]]))
        course = play(game, exact_online_ipo(eta), iterations=120, start=pushed)
        rate = (course.span[120] / course.span[20]).item() ** (1 / 100)
        assert rate == pytest.approx(radius, rel=2e-3)
        assert (radius < 1) == comes_back
