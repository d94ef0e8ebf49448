"""The study of games: what its arms play, how plays are measured, and what decides."""

from __future__ import annotations

import math

import pytest
import torch

from plaudit.policies import Tabular
from plaudit.studies import Results, Trial, TrialResult
from plaudit.studies.games import (
    ARMS,
    FULL,
    ITERATIONS,
    QUERIES,
    QUICK,
    REACHED,
    REPELLED,
    STUCK,
    STUDY,
    WEAK_ONLY,
    WITHIN,
    after,
    algorithms,
    best,
    drawn,
    measured,
    within,
    write_paths,
)
from plaudit.testbeds.games import Course


def course(*gaps, queries=2, kl=None):
    table = torch.tensor(gaps, dtype=torch.float64).T
    distance = table if kl is None else torch.tensor(kl, dtype=torch.float64).T
    asked = queries * torch.arange(len(table))
    return Course(asked, table, distance, table, Tabular(torch.zeros(len(gaps), 2)))


def test_how_soon_a_game_was_small_enough():
    fast = [1e-1, 1e-3, 1e-5, 1e-7, *[1e-8] * 5]
    slow = [10.0**-power for power in range(-4, 5)]
    stuck = [1.0, *[0.1] * 8]
    found = measured(course(fast, slow, stuck), QUICK)
    assert found[ITERATIONS].tolist() == pytest.approx([math.log2(3), 6, 6])  # 128 queries are 64 iterations
    assert found[QUERIES].tolist() == pytest.approx([math.log2(6), 7, 7])
    assert found[REACHED].tolist() == [1, 0, 0]
    assert found[STUCK].tolist() == [0, 0, 1]
    assert found[after(4)].tolist() == pytest.approx([-5, 2, -1])
    assert found[after(128)].tolist() == pytest.approx([-8, -4, -1])


def test_the_best_of_several_steps_is_taken_for_each_game():
    one = {QUERIES: torch.tensor([3.0, 7.0]), after(8): torch.tensor([-7.0, -1.0]), STUCK: torch.tensor([0.0, 1.0])}
    other = {QUERIES: torch.tensor([4.0, 7.0]), after(8): torch.tensor([-9.0, -2.0]), STUCK: torch.tensor([0.0, 0.0])}
    found = best([one, other], after(8))
    assert found[QUERIES].tolist() == [3, 7]
    assert found[after(8)].tolist() == [-7, -2]
    assert found[STUCK].tolist() == [0, 0]


def test_the_bound():
    beta = 0.5  # the divergence must halve
    kept, broken = [1.0, 0.5, 0.2], [1.0, 0.51, 0.2]
    assert within(course(kept, broken), beta).tolist() == [1, 0]


def test_all_arms_play_the_same_games_with_steps_that_are_allowed():
    for beta in FULL.betas:
        one, other = drawn(FULL, beta, seed=90), drawn(FULL, beta, seed=90)
        assert torch.equal(one.preference, other.preference)
        assert not torch.equal(one.preference[:, :2, :2], drawn(FULL, beta, seed=91).preference[:, :2, :2])
        for arm in set(ARMS) - {"nash-mp"}:
            assert all(algorithm.eta * beta <= 1 for algorithm in algorithms(arm, beta))
        assert len(algorithms("nash-md-best", beta)) == 3
    assert [algorithms(arm, 0.1)[0].eta for arm in ("nash-mp", "egpo", "online-ipo", "nash-md")] == [2, 1, 1, 0.1]
    assert len(FULL.betas) * FULL.games * STUDY.seeds == 1000


def test_a_quick_run_measures_and_draws(tmp_path):
    found = {(arm, seed): STUDY.run(Trial(arm, seed, True, tmp_path)) for arm in ARMS for seed in (90, 91)}
    for (arm, _), trial in found.items():
        assert len(trial.scores[ITERATIONS]) == 2 * QUICK.games
        assert len(trial.scores[ITERATIONS + WEAK_ONLY]) == QUICK.games
        assert (WITHIN in trial.scores) == (arm == "nash-mp")
        assert (REPELLED in trial.scores) == (arm == "online-ipo")
    results = Results(found)
    findings = STUDY.judge(results)
    assert findings[1].estimate.value == 1
    assert results.difference("online-ipo", "nash-mp", ITERATIONS + WEAK_ONLY).value > 0
    scores = {
        after(mark): {arm: {"value": results.mean(arm, after(mark)).value, "low": None, "high": None} for arm in ARMS}
        for mark in QUICK.marks
    }
    write_paths({"scores": scores, "arms": ARMS, "quick": True, "seeds": [90, 91]}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def results(iterations, *, bound=1.0):
    """With one number of iterations of each arm in every game."""
    scores = {}
    for seed in range(5):
        for arm in ARMS:
            values = [math.log2(iterations[arm]) + 0.01 * seed * (arm == "egpo")] * 4
            names = {name + ending: values for name in (ITERATIONS, QUERIES) for ending in ("", WEAK_ONLY)}
            shares = {
                REACHED: [1.0] * 4,
                WITHIN: [1.0, 1.0, 1.0, bound],
                f"{REPELLED}, least beta": [0.0, 0.0, 0.0, 1.0],
            }
            scores[arm, seed] = TrialResult(names | shares, 0, {})
    return Results(scores)


def test_the_verdict_hangs_on_the_smallest_lead():
    times = dict.fromkeys(ARMS, 100) | {"nash-mp": 10, "egpo": 50}
    first = STUDY.judge(results(times))[0]
    assert first.decision == "holds"
    assert first.estimate.value == pytest.approx(0.98)
    assert STUDY.judge(results(times | {"online-ipo": 40}))[0].decision == "does not hold"


def test_one_game_beyond_the_bound_refutes_it():
    times = dict.fromkeys(ARMS, 100)
    assert STUDY.judge(results(times))[1].decision == "holds"
    assert STUDY.judge(results(times, bound=0.0))[1].decision == "does not hold"
