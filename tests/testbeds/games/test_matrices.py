"""Preference matrices: what the makers promise, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plaudit.errors import ConfigError, PolicyError
from plaudit.policies import Tabular
from plaudit.testbeds.games import (
    ROCK_PAPER_SCISSORS,
    Game,
    check_preference,
    cyclic,
    equilibrium,
    exact_egpo,
    exact_nash_md,
    exact_nash_mp,
    exact_online_ipo,
    gap,
    play,
    population,
    random_ten,
    side_by_side,
    skewed,
    transitive,
    uniform_preference,
)

SIZES = st.integers(1, 9)


def cycles(preference) -> int:
    """Triples of actions that go round in a circle."""
    beats = np.asarray(preference) > 0.5
    return int(np.trace(np.linalg.matrix_power(beats.astype(int), 3))) // 3


@given(SIZES, st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_whatever_is_made_is_a_preference(size, seed):
    generator = np.random.default_rng(seed)
    scores = generator.normal(size=(3, size), scale=30)
    made = [uniform_preference(size, generator), transitive(scores[0]), population(scores)]
    made += [cyclic(size, strength=0.3)] if size >= 3 else []
    for matrix in made:
        check_preference(torch.as_tensor(matrix)[None])


def test_bradley_and_terry():
    found = transitive([0.0, 1.0, 3.0])
    assert found[1, 0] == pytest.approx(1 / (1 + math.exp(-1)))
    assert found[2, 0] == pytest.approx(1 / (1 + math.exp(-3)))
    assert cycles(found) == 0
    assert transitive([0.0, 5000.0]).tolist() == [[0.5, 0.0], [1.0, 0.5]]


@pytest.mark.parametrize("size", [3, 4, 5, 8])
def test_the_circle_goes_round(size):
    found = cyclic(size, strength=0.6)
    half = (size - 1) // 2
    for action in range(size):
        ahead = np.roll(found[action], -action)[1:].tolist()  # the others, the next one first
        draws = [0.5] * (size - 1 - 2 * half)
        assert ahead == pytest.approx([0.2] * half + draws + [0.8] * half)
    optimum = equilibrium(Game.of(found, beta=0.05))
    assert optimum.probabilities()[0].tolist() == pytest.approx([1 / size] * size)


def test_three_groups_with_rotated_tastes_go_round_and_one_group_does_not():
    """Condorcet: a > b > c, b > c > a and c > a > b, a third each."""
    tastes = [[6.0, 3.0, 0.0], [0.0, 6.0, 3.0], [3.0, 0.0, 6.0]]
    assert cycles(population(tastes)) == 1
    assert cycles(population(tastes, [0.9, 0.05, 0.05])) == 0
    np.testing.assert_allclose(population(tastes, [0, 1, 0]), transitive(tastes[1]))


def test_the_named_games_are_the_specifications():
    assert random_ten()[0, 1] == pytest.approx(0.5 + np.random.default_rng(0).uniform(-1, 1, (10, 10))[0, 1] / 2)
    assert skewed(4).tolist() == [0.1, 0.2, 0.3, 0.4]
    assert cycles(ROCK_PAPER_SCISSORS) == 1


def test_games_of_different_sizes_are_played_side_by_side_as_alone():
    generator = np.random.default_rng(3)
    matrices = [uniform_preference(size, generator) for size in (2, 5, 9)]
    references = [generator.dirichlet(np.ones(len(matrix))) for matrix in matrices]
    together = side_by_side(matrices, references, beta=0.1)
    assert together.real.sum(-1).tolist() == [2, 5, 9]
    for algorithm in (exact_nash_mp(), exact_egpo(), exact_online_ipo(), exact_nash_md(1.0)):
        course = play(together, algorithm, iterations=30)
        for row, (matrix, reference) in enumerate(zip(matrices, references, strict=True)):
            alone = play(Game.of(matrix, beta=0.1, reference=reference), algorithm, iterations=30)
            for name in ("gap", "kl", "span"):
                torch.testing.assert_close(
                    getattr(course, name)[:, row], getattr(alone, name)[:, 0], atol=1e-12, rtol=1e-7
                )


def test_a_matrix_that_is_no_preference_is_refused_with_the_entry_named():
    with pytest.raises(ConfigError, match=r"preference\[0, 0, 1\]: expected a probability in \[0, 1\], got 1.2"):
        Game.of([[0.5, 1.2], [-0.2, 0.5]], beta=0.1)
    with pytest.raises(ConfigError, match=r"preference\[0, 1, 0\]: expected a probability in \[0, 1\], got nan"):
        Game.of([[0.5, 0.5], [math.nan, 0.5]], beta=0.1)
    with pytest.raises(
        ConfigError, match=r"preference\[0, 0, 1\]: expected what preference\[0, 1, 0\] = 0.2 leaves of 1, got 0.7"
    ):
        Game.of([[0.5, 0.7], [0.2, 0.5]], beta=0.1)
    with pytest.raises(ConfigError, match=r"preference\[0, 1, 1\]: expected what .* = 0.4 leaves of 1, got 0.4"):
        Game.of([[0.5, 0.7], [0.3, 0.4]], beta=0.1)  # an action beats itself as often as not
    with pytest.raises(ConfigError, match=r"expected \[games, actions, actions\], square matrices, got \[1, 2, 3\]"):
        check_preference(torch.full((1, 2, 3), 0.5))


def test_what_else_is_refused():
    with pytest.raises(ValueError, match=r"beta: expected a number > 0, got 0"):
        Game.of(ROCK_PAPER_SCISSORS, beta=0.0)
    with pytest.raises(PolicyError, match=r"probabilities\[0\]: expected a sum of 1, got 0.9"):
        Game.of(ROCK_PAPER_SCISSORS, beta=0.1, reference=[0.3, 0.3, 0.3])
    with pytest.raises(ConfigError, match=r"reference: expected \[games, actions\] = \[1, 3\], got \[1, 2\]"):
        Game(torch.tensor([ROCK_PAPER_SCISSORS]), Tabular(torch.zeros(1, 2)), 0.1)
    with pytest.raises(ConfigError, match=r"actions: expected at least 3, fewer make no circle, got 2"):
        cyclic(2)
    with pytest.raises(ConfigError, match=r"strength: expected a number in \(0, 1\], got 1.5"):
        cyclic(3, strength=1.5)
    with pytest.raises(ConfigError, match=r"scores: expected a row of finite numbers, got \[0.0, inf\]"):
        transitive([0.0, math.inf])
    with pytest.raises(ConfigError, match=r"shares: expected 2 numbers >= 0 that add up to 1, got \[0.5, 0.6\]"):
        population([[0.0, 1.0], [1.0, 0.0]], [0.5, 0.6])


@pytest.mark.parametrize("actions", [1, 2])
def test_a_game_without_choice_is_won_at_once(actions):
    """One action, or all alike: the reference is the equilibrium."""
    game = Game.of(np.full((actions, actions), 0.5), beta=0.1)
    assert gap(game, game.reference).item() == pytest.approx(0, abs=1e-15)
    assert equilibrium(game).probabilities().tolist() == game.reference.probabilities().tolist()
