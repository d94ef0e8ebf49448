"""Games learned from samples: expected steps are the exact ones, noise has its floor, and Nash-MP arrives."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from plaudit.objectives.preferences import egpo, extragradient_step, inpo, ipo, mirror_descent_step, win_rates
from plaudit.policies import Tabular
from plaudit.testbeds.games import (
    EGPO,
    INPO,
    ROCK_PAPER_SCISSORS,
    SPPO,
    Game,
    NashMD,
    NashMP,
    OnlineIPO,
    Oracle,
    exact_nash_mp,
    play,
    random_ten,
    skewed,
)
from plaudit.testbeds.games.sampled import descend


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def somewhere(game, *, seed=3):
    """A policy that is neither the reference nor the equilibrium."""
    return Tabular(torch.randn(game.reference.logits.shape, generator=generator(seed), dtype=torch.float64))


def moved(game, algorithm, start, *, seed=0):
    """Where an iteration ends, as the mean over the copies of one game, and the error of that mean."""
    policy = Tabular(start.logits)
    oracle = Oracle(game, generator(seed))
    algorithm.iterate(policy, oracle)
    logits = policy.logits.detach() - policy.logits.detach().mean(-1, keepdim=True)
    return logits.mean(0), logits.std(0) / len(logits) ** 0.5, oracle.queries


def copies(count, matrix=ROCK_PAPER_SCISSORS, *, beta=0.2):
    return Game.of(matrix, beta=beta, reference=skewed(len(matrix)), copies=count)


def repeated(start, count):
    return Tabular(start.logits.expand(count, -1))


def centred(log_policy):
    return (log_policy - log_policy.mean(-1, keepdim=True))[0]


def test_the_oracle_answers_with_the_games_probability_and_counts():
    game = Game.of(ROCK_PAPER_SCISSORS, beta=0.1, copies=2)
    oracle = Oracle(game, generator())
    a = torch.tensor([[0, 1, 2]]).expand(2, -1).repeat(1, 5000)
    b = torch.tensor([[1, 2, 2]]).expand(2, -1).repeat(1, 5000)
    won = oracle.judge(a, b).reshape(2, 5000, 3).mean(1)
    assert oracle.queries == 15_000
    torch.testing.assert_close(won, torch.tensor([[0.9, 0.8, 0.5]] * 2, dtype=torch.float64), atol=0.03, rtol=0)


def test_on_every_pair_egpos_two_sgd_steps_are_the_exact_step():
    """All A² pairs at once, exact win rates, rate ηβA/4, both gradients at the first logits."""
    game, eta = copies(1, random_ten()), 0.8
    start, size = somewhere(copies(1, random_ten())), 10
    a, b = torch.tensor(list(itertools.product(range(size), repeat=2))).T
    log_mu = game.log_reference

    def step(opponent):
        policy = Tabular(start.logits)
        log_ratio = (policy.log_policy() - log_mu)[0]
        wins = win_rates(opponent.logits, game.preference)[0]
        loss = egpo(log_ratio[a], log_ratio[b], wins[a], wins[b], beta=game.beta)
        descend(policy, loss.mean()[None], rate=eta * game.beta * size / 4)
        return policy

    exact = extragradient_step(start.logits, log_mu, game.preference, beta=game.beta, eta=eta)
    torch.testing.assert_close(step(step(start)).log_policy(), exact)


def test_from_samples_egpos_step_is_the_exact_one_on_average():
    """With a small step, where the opponent's noise enters linearly; 40,000 plays of one iteration."""
    game = copies(40_000)
    start, eta = somewhere(copies(1)), 0.05
    mean, error, queries = moved(game, EGPO(samples=8, eta=eta), repeated(start, 40_000))
    exact = extragradient_step(start.logits, game.log_reference[:1], game.preference[:1], beta=game.beta, eta=eta)
    assert ((mean - centred(exact)).abs() < 4 * error + 1e-3 * eta).all()
    assert (mean - centred(start.log_policy())).abs().max() > 10 * error.max()
    assert queries == 4 * 8


def test_egpos_noise_floor_scales_with_eta():
    """Below an η of about 1/2 half the step is half the floor; 32 games each, after 12 / (ηβ) iterations."""
    game = Game.of(ROCK_PAPER_SCISSORS, beta=0.3, copies=32)
    floors = []
    for eta in (0.4, 0.2, 0.1):
        iterations = int(12 / (eta * game.beta))
        course = play(game, EGPO(samples=16, eta=eta), iterations=iterations, generator=generator())
        floors.append(course.kl[iterations // 2 :].mean().item())
    for coarse, fine in itertools.pairwise(floors):
        assert 1.5 < coarse / fine < 2.8


def expected_pairs(game, before):
    """Every labelled pair of a policy's actions, and how often it comes up."""
    size = game.preference.shape[-1]
    winners, losers = torch.tensor(list(itertools.product(range(size), repeat=2))).T
    pi = before.probabilities()[0].detach()
    return winners, losers, 2 * pi[winners] * pi[losers] * game.preference[0, winners, losers]


def minimised(game, loss):
    """The minimiser over the tabular policies, by Newton's method on a sum of squares."""
    policy = Tabular(game.log_reference)
    optimiser = torch.optim.LBFGS(
        [policy.logits], max_iter=500, tolerance_grad=1e-13, tolerance_change=1e-18, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        value = loss(policy)
        value.backward()
        return value

    optimiser.step(closure)
    return policy


@pytest.mark.parametrize("name", ["rps", "rand10"])
def test_inpos_loss_minimised_over_its_sampler_is_the_exact_update(name):
    """To 1e-6; with τ = η it is IPO's minimiser, which depends on the policy before through its wins and sampling only."""
    game = copies(1, ROCK_PAPER_SCISSORS if name == "rps" else random_ten())
    before = somewhere(game)
    winners, losers, weight = expected_pairs(game, before)
    log_mu, log_before = game.log_reference[0], before.log_policy()[0].detach()

    def loss(policy, eta):
        logs = (policy.log_policy()[0], log_mu, log_before)
        values = inpo(*(log[side] for log in logs for side in (winners, losers)), beta=game.beta, eta=eta)
        return (weight * values).sum()

    for eta in (0.7, game.beta):
        exact = mirror_descent_step(before.logits, game.log_reference, game.preference, beta=game.beta, eta=1 / eta)
        found = minimised(game, lambda policy, eta=eta: loss(policy, eta))
        torch.testing.assert_close(found.log_policy(), exact, atol=1e-6, rtol=0)

    def ipo_loss(policy):
        log_ratio = policy.log_policy()[0] - log_mu
        return (weight * ipo(log_ratio[winners], log_ratio[losers], beta=game.beta)).sum()

    torch.testing.assert_close(minimised(game, ipo_loss).log_policy(), exact, atol=1e-6, rtol=0)


def test_many_samples_bring_inpo_and_sppo_to_their_exact_updates():
    game = copies(16)
    start = repeated(somewhere(copies(1)), 16)
    for algorithm, beta in (
        (INPO(samples=4000, updates=150, rate=0.3, eta=1.0), game.beta),
        (SPPO(samples=4000, updates=150, rate=0.3, eta=1.0), 0.0),
    ):
        mean, error, queries = moved(game, algorithm, start)
        exact = mirror_descent_step(start.logits[:1], game.log_reference[:1], game.preference[:1], beta=beta, eta=1.0)
        assert ((mean - centred(exact)).abs() < 4 * error + 5e-3).all()
        assert queries == 150 * 4000


def test_nash_mps_half_steps_start_from_the_centre_and_come_to_the_exact_step():
    game = copies(16)
    start = repeated(somewhere(copies(1)), 16)
    mean, error, queries = moved(game, NashMP(samples=2000, updates=100, rate=3.0, eta=1.0), start)
    exact = play(copies(1), exact_nash_mp(1.0), iterations=1, start=somewhere(copies(1))).policy
    assert ((mean - centred(exact.log_policy())).abs() < 4 * error + 5e-3).all()
    assert queries == 2 * 100 * 2000


def test_from_64_samples_a_step_nash_mp_comes_near_the_equilibrium_for_every_seed():
    """rand10 at beta 0.1: 500 iterations of two half steps, each of four gradient steps with 64 fresh samples."""
    game = Game.of(random_ten(), beta=0.1, copies=5)
    course = play(game, NashMP(samples=64, updates=4, rate=0.25), iterations=500, generator=generator())
    assert (course.kl[0] > 0.2).all()
    assert (course.kl.min(0).values < 1e-2).all()
    assert (course.kl[-50:].mean(0) < 1e-2).all()
    assert course.queries[-1] == 500 * 2 * 4 * 64


@pytest.mark.parametrize(
    ("algorithm", "queries"),
    [
        (NashMP(samples=32, updates=2, rate=0.5), 128),
        (EGPO(samples=32, eta=0.25), 128),
        (OnlineIPO(samples=32, rate=0.05), 32),
        (NashMD(samples=32, rate=1.0, share=0.05), 32),
        (INPO(samples=32, updates=4, rate=0.2, eta=1.0), 128),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_algorithm_learns_a_game_and_counts_what_it_asks(algorithm, queries):
    game = Game.of(random_ten(), beta=0.1, copies=4)
    iterations = 24_000 // queries
    course = play(game, algorithm, iterations=iterations, generator=generator())
    assert course.queries[-1] == iterations * queries
    assert (course.kl[-iterations // 4 :].mean(0) < 0.3 * course.kl[0]).all()
    again = play(game, algorithm, iterations=3, generator=generator())
    assert torch.equal(again.gap, course.gap[:4])


def test_sppo_forgets_the_reference():
    """In a game with a best action it goes there, past the equilibrium of the regularised game."""
    game = Game.of([[0.5, 0.6], [0.4, 0.5]], beta=1.0, copies=4)
    course = play(game, SPPO(samples=64, updates=5, rate=0.3, eta=1.0), iterations=100, generator=generator())
    assert (course.policy.probabilities()[:, 0] > 0.95).all()
    assert (course.kl[-1] > course.kl[0]).all()


GOOD = {
    NashMP: {"samples": 4, "updates": 1, "rate": 0.1},
    EGPO: {"samples": 4, "eta": 0.1},
    OnlineIPO: {"samples": 4, "rate": 0.1},
    NashMD: {"samples": 4, "rate": 0.1, "share": 0.1},
    INPO: {"samples": 4, "updates": 1, "rate": 0.1, "eta": 1.0},
    SPPO: {"samples": 4, "updates": 1, "rate": 0.1, "eta": 1.0},
}


@pytest.mark.parametrize("algorithm", GOOD, ids=lambda algorithm: algorithm.__name__)
def test_settings_outside_their_range_are_refused(algorithm):
    bad = {
        "samples": ((0, -1, 2.5), "a whole number >= "),
        "updates": ((0, True), "a whole number >= 1"),
        "rate": ((0.0, -0.1, math.nan, math.inf), "a number > 0"),
        "eta": ((0.0, math.nan), "a number > 0"),
        "share": ((-0.1, 1.5, math.nan), r"a share in \[0, 1\]"),
    }
    for name in GOOD[algorithm]:
        values, expected = bad[name]
        for value in values:
            with pytest.raises(ValueError, match=f"^{name}: expected {expected}.*, got {value}$"):
                algorithm(**(GOOD[algorithm] | {name: value}))


def test_a_leave_one_out_baseline_needs_two_samples():
    with pytest.raises(ValueError, match=r"samples: expected a whole number >= 2, got 1"):
        NashMP(samples=1, updates=1, rate=0.1)


def test_inpo_may_not_forget_the_reference_in_one_step():
    game = Game.of(ROCK_PAPER_SCISSORS, beta=0.5)
    with pytest.raises(ValueError, match=r"eta: expected at least beta = 0.5, got 0.2"):
        play(game, INPO(samples=4, updates=1, rate=0.1, eta=0.2), iterations=1, generator=generator())
