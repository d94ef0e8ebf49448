"""Games played exactly: the specification's numbers end to end, who is faster, and a thousand random games."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from objectives.preferences.test_games_tabular import TABLE
from plaudit.errors import ConfigError
from plaudit.policies import Tabular
from plaudit.testbeds.games import (
    ROCK_PAPER_SCISSORS,
    Course,
    Game,
    OnlineIPO,
    exact_egpo,
    exact_nash_md,
    exact_nash_mp,
    exact_online_ipo,
    play,
    random_ten,
    side_by_side,
    skewed,
    uniform_preference,
)

MATRICES = {"rps": np.array(ROCK_PAPER_SCISSORS), "rand10": random_ten()}


def game(name, reference, beta):
    matrix = MATRICES[name]
    return Game.of(matrix, beta=beta, reference=skewed(len(matrix)) if reference == "skew" else None)


@pytest.mark.parametrize("row", TABLE, ids=[f"{name}-{mu}-{beta}" for (name, mu, beta), *_ in TABLE])
def test_the_specifications_numbers(row):
    """KL(π*||π_k) and the gap to three digits, with the equilibrium and the reference that the testbed makes."""
    (name, reference, beta), _, nash_mp, egpo, online_ipo, nash_md = row
    runs = [(exact_nash_mp(), (10, 100), nash_mp), (exact_egpo(), (10, 100), egpo)]
    runs += [(exact_online_ipo(), (10, 100), online_ipo), (exact_nash_md(), (1000,), (nash_md,))]
    for algorithm, iterations, expected in runs:
        course = play(game(name, reference, beta), algorithm, iterations=iterations[-1])
        for count, pair in zip(iterations, expected, strict=True):
            measured = course.kl[count].item(), course.gap[count].item()
            if pair is None:
                assert max(measured) < 1e-14
            else:
                assert measured == pytest.approx(pair, rel=6e-4, abs=2e-15)
        assert course.queries[-1] == algorithm.queries * iterations[-1]


@pytest.mark.parametrize("beta", [0.1, 0.01])
@pytest.mark.parametrize("reference", ["uniform", "skew"])
@pytest.mark.parametrize("name", MATRICES)
def test_looking_ahead_needs_fewer_iterations(name, reference, beta):
    """To a gap of 1e-6, with the steps of the specification."""

    def iterations(algorithm, most):
        course = play(game(name, reference, beta), algorithm, iterations=most, until=1e-6)
        return course.iterations_to(1e-6).item()

    slowest = int(max(iterations(exact_nash_mp(), 2000), iterations(exact_egpo(), 2000)))
    assert slowest < 2000
    for baseline in (exact_online_ipo(), exact_online_ipo(0.1), exact_nash_md(), exact_nash_md(1.0)):
        assert iterations(baseline, slowest) == math.inf


def test_the_span_falls_as_the_divergence_does():
    """Linearly at the promised rate, so its logarithm's slope is at least half of log(1 + 2β)."""
    for name, beta in (("rps", 0.01), ("rand10", 0.1), ("rps", 0.1)):
        course = play(game(name, "uniform", beta), exact_nash_mp(), iterations=60)
        for distance, promised in ((course.kl, math.log1p(2 * beta)), (course.span, math.log1p(2 * beta) / 2)):
            seen = distance[:, 0][distance[:, 0] > 1e-12].log().numpy()
            assert -np.polyfit(range(len(seen)), seen, 1)[0] >= promised


def random_games(count, *, beta, seed):
    generator = np.random.default_rng(seed)
    sizes = generator.integers(2, 30, size=count)
    references = [0.9 * generator.dirichlet(np.ones(size)) + 0.1 / size for size in sizes]
    return side_by_side([uniform_preference(int(size), generator) for size in sizes], references, beta=beta)


def test_a_thousand_random_games_keep_the_bound():
    """100 games of 2 to 29 actions at each of ten β from 0.03 to 2, 100 iterations each; EGPO stays bounded in all of them."""
    for seed, beta in enumerate(np.geomspace(0.03, 2, 10).tolist()):
        games = random_games(100, beta=beta, seed=seed)
        course = play(games, exact_nash_mp(), iterations=100)
        bound = course.kl[0] * (1 + 2 * beta) ** -torch.arange(101.0, dtype=torch.float64)[:, None]
        assert (course.kl <= bound * (1 + 1e-6) + 1e-12).all()
        egpo = play(games, exact_egpo(min(1.0, 1 / beta)), iterations=60)
        assert (egpo.kl[-1] <= egpo.kl[0]).all()
        assert (egpo.gap[-1] <= egpo.gap[0] * 0.5).all()


def test_a_bigger_game_takes_no_longer():
    """The rate of Nash-MP does not depend on the number of actions: 1,000 of them."""
    big = Game.of(uniform_preference(1000, np.random.default_rng(0)), beta=0.2)
    course = play(big, exact_nash_mp(), iterations=30)
    assert course.kl[30].item() <= course.kl[0].item() * 1.4**-30


def test_the_courses_book_keeping():
    table = torch.tensor([[4.0, 3.0], [0.5, 2.0], [0.1, 1.5]], dtype=torch.float64)
    course = Course(torch.tensor([0, 2, 4]), table, table, table, Tabular(torch.zeros(2, 2)))
    assert course.iterations_to(0.5).tolist() == [1, math.inf]
    assert course.queries_to(0.5).tolist() == [2, math.inf]
    assert course.iterations_to(5.0).tolist() == [0, 0]


def test_play_stops_at_the_gap_and_begins_where_it_is_told():
    rock = game("rps", "uniform", 0.1)
    course = play(rock, exact_nash_mp(), iterations=500, until=1e-6)
    assert course.gap[-1] <= 1e-6 < course.gap[-2]
    again = play(rock, exact_nash_mp(), iterations=5, start=course.policy, until=1e-6)
    assert len(again.gap) == 1
    assert again.gap[0].item() == pytest.approx(course.gap[-1].item(), abs=1e-15)


def test_what_is_refused():
    rock = game("rps", "uniform", 0.1)
    with pytest.raises(ConfigError, match="iterations: expected a whole number >= 1, got 0"):
        play(rock, exact_nash_mp(), iterations=0)
    with pytest.raises(
        ConfigError, match="generator: expected one, since this algorithm learns from samples, got None"
    ):
        play(rock, OnlineIPO(samples=2, rate=0.1), iterations=1)
    with pytest.raises(ValueError, match=r"eta: expected at most 1 / beta = 10, got 11"):
        play(rock, exact_egpo(11.0), iterations=1)
