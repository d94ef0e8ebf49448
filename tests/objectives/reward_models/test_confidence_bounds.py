"""Bounds on mean costs: scipy's quantiles, and how often they fail on distributions whose mean is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, t, ttest_1samp

from objectives.contract import Case, normal, uniform
from plaudit.objectives.reward_models.confidence_bounds import (
    clopper_pearson_upper_bound,
    empirical_bernstein_upper_bound,
    hoeffding_upper_bound,
    student_t_upper_bound,
)

COST, SHARE = normal(5, 8, seed=1), uniform(5, 8, seed=2)
HARMFUL = SHARE < 0.3
SHARES = [0.0, 1.0, -0.1, math.nan]
LIMITS = {"lowest": [2.0], "delta": SHARES}
BOUNDED = (hoeffding_upper_bound, empirical_bernstein_upper_bound)
CASES = [
    Case(
        student_t_upper_bound,
        lambda rows: {"cost": COST[:rows], "delta": 0.1},
        extreme=("cost",),
        exchangeable="N",
        invalid={"delta": SHARES},
    ),
    *(
        Case(
            bound,
            lambda rows: {"cost": SHARE[:rows], "delta": 0.1, "lowest": 0.0, "highest": 1.0},
            exchangeable="N",
            invalid=LIMITS,
        )
        for bound in BOUNDED
    ),
    Case(
        clopper_pearson_upper_bound,
        lambda rows: {"harmful": HARMFUL[:rows], "delta": 0.1},
        exchangeable="N",
        invalid={"delta": SHARES},
    ),
]


def test_the_docstrings_examples():
    assert student_t_upper_bound(torch.tensor([[0.0, 2.0]]), delta=0.25).item() == pytest.approx(2)
    half = torch.tensor([0.0, 1.0]).repeat(50)[None]
    hoeffding = hoeffding_upper_bound(half, delta=0.1, lowest=0.0, highest=2.0).item()
    assert hoeffding == pytest.approx(0.5 + 2 * math.sqrt(math.log(10) / 200))
    assert hoeffding == pytest.approx(0.715, abs=5e-4)
    flat = torch.full((1, 101), 0.25)
    bernstein = empirical_bernstein_upper_bound(flat, delta=2 / math.e, lowest=0.0, highest=1.0).item()
    assert bernstein == pytest.approx(0.25 + 7 / 300)
    none = torch.zeros(1, 2, dtype=torch.bool)
    assert clopper_pearson_upper_bound(none, delta=0.25).item() == pytest.approx(0.5)


def test_scipy_agrees_on_students_bound():
    ours = student_t_upper_bound(COST, delta=0.1)
    for row in range(5):
        interval = ttest_1samp(COST[row].numpy(), 0.0, alternative="less").confidence_interval(0.9)
        assert ours[row].item() == pytest.approx(interval.high)
    theirs = COST.mean(-1) + t.ppf(0.9, 7) * COST.std(-1) / math.sqrt(8)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("delta", [0.01, 0.1, 0.5])
def test_scipy_agrees_on_clopper_and_pearson(delta):
    for harmful in range(9):
        row = (torch.arange(8) < harmful)[None]
        theirs = binomtest(harmful, 8, alternative="less").proportion_ci(1 - delta, method="exact").high
        assert clopper_pearson_upper_bound(row, delta=delta).item() == pytest.approx(theirs, rel=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.floats(0, 0.99), st.floats(0.01, 0.5))
def test_clopper_and_pearson_is_the_share_under_which_so_few_would_have_probability_delta(count, part, delta):
    harmful = int(part * count)
    bound = clopper_pearson_upper_bound((torch.arange(count) < harmful)[None], delta=delta).item()
    assert binom.cdf(harmful, count, bound) == pytest.approx(delta, rel=1e-3)


def test_bernstein_is_maurer_and_pontils_formula():
    ours = empirical_bernstein_upper_bound(3 * SHARE, delta=0.1, lowest=0.0, highest=3.0)
    for row, bound in zip((3 * SHARE).numpy(), ours.tolist(), strict=True):
        log_term = np.log(2 / 0.1)
        expected = row.mean() + np.sqrt(2 * row.var(ddof=1) * log_term / 8) + 7 * 3 * log_term / (3 * 7)
        assert bound == pytest.approx(expected)


def test_hoeffding_and_bernstein_go_along_with_unit_and_shift():
    for bound in BOUNDED:
        plain = bound(SHARE, delta=0.1, lowest=0.0, highest=1.0)
        moved = bound(2 * SHARE - 1, delta=0.1, lowest=-1.0, highest=1.0)
        torch.testing.assert_close(moved, 2 * plain - 1)


def test_bernstein_is_below_hoeffding_where_costs_vary_little_and_sets_are_large():
    calm = 0.5 + 0.01 * uniform(1, 2000, seed=3)
    hoeffding, bernstein = (bound(calm, delta=0.1, lowest=0.0, highest=1.0) for bound in BOUNDED)
    assert bernstein < hoeffding
    wild = (uniform(1, 20, seed=4) < 0.5).double()
    hoeffding, bernstein = (bound(wild, delta=0.1, lowest=0.0, highest=1.0) for bound in BOUNDED)
    assert bernstein > hoeffding


def test_a_lower_delta_or_a_smaller_set_raises_the_bound():
    for bound in (
        student_t_upper_bound,
        lambda cost, delta: hoeffding_upper_bound(cost, delta=delta, lowest=-9.0, highest=9.0),
        lambda cost, delta: empirical_bernstein_upper_bound(cost, delta=delta, lowest=-9.0, highest=9.0),
        lambda cost, delta: clopper_pearson_upper_bound(cost > 0, delta=delta),
    ):
        cost = torch.tensor([[-1.0, 1.0] * 4])
        assert bound(cost, delta=0.05) > bound(cost, delta=0.2) > cost.mean() - 1e-6
        assert bound(cost, delta=0.05) > bound(torch.cat([cost, cost], -1), delta=0.05)


def failures(bound, draw, mean, *, sets=20_000, size=20):
    """How often a bound of level 0.1 is below the true mean, and four binomial standard errors."""
    cost = draw(sets, size)
    share = (bound(cost) < mean).double().mean().item()
    return share, 4 * math.sqrt(0.1 * 0.9 / sets)


def test_students_bound_fails_as_often_as_it_says_for_normal_costs():
    share, tolerance = failures(
        lambda cost: student_t_upper_bound(cost, delta=0.1), lambda *shape: normal(*shape, seed=5), 0.0
    )
    assert share == pytest.approx(0.1, abs=tolerance)


def test_students_bound_fails_too_often_for_rare_harm():
    """Cost 1 in 5 % of 20: no harm is seen, and the bound is 0, with probability 0.95^20 = 0.358."""
    share, tolerance = failures(
        lambda cost: student_t_upper_bound(cost, delta=0.1),
        lambda *shape: (uniform(*shape, seed=6) < 0.05).double(),
        0.05,
    )
    assert share == pytest.approx(0.95**20, abs=2 * tolerance)
    assert share > 0.1 + tolerance


def test_students_bound_fails_too_often_for_skewed_costs():
    share, tolerance = failures(
        lambda cost: student_t_upper_bound(cost, delta=0.1),
        lambda *shape: normal(*shape, seed=7).exp(),
        math.exp(0.5),
    )
    assert share > 0.1 + tolerance


@pytest.mark.parametrize("bound", BOUNDED)
@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_bounds_for_bounded_costs_hold_for_rare_and_common_harm(bound, rate):
    share, tolerance = failures(
        lambda cost: bound(cost, delta=0.1, lowest=0.0, highest=1.0),
        lambda *shape: (uniform(*shape, seed=8) < rate).double(),
        rate,
    )
    assert share <= 0.1 + tolerance


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.9])
def test_clopper_and_pearson_holds_for_every_rate_exactly(rate):
    """All counts that can occur, weighted by their binomial probability."""
    counts = torch.arange(21)[:, None]
    bound = clopper_pearson_upper_bound(torch.arange(20) < counts, delta=0.1)
    failing = (bound < rate).double().numpy()
    assert (failing * binom.pmf(np.arange(21), 20, rate)).sum() <= 0.1


def test_choosing_among_policies_with_one_set_voids_the_guarantee():
    """Five policies whose mean cost is exactly the threshold: at least one passes with probability 1 - 0.9^5 = 0.41."""
    bound = student_t_upper_bound(normal(25_000, 20, seed=9), delta=0.1)
    released = (bound < 0).view(-1, 5).any(-1).double().mean().item()
    assert released == pytest.approx(1 - 0.9**5, abs=0.03)
    divided = student_t_upper_bound(normal(25_000, 20, seed=9), delta=0.1 / 5)
    assert (divided < 0).view(-1, 5).any(-1).double().mean().item() <= 0.1 + 0.02


@pytest.mark.parametrize("bound", BOUNDED)
@pytest.mark.parametrize("cost", [-0.1, 1.1, math.nan])
def test_costs_outside_the_range_are_an_error(bound, cost):
    with pytest.raises(ValueError, match=r"cost: expected values in \[0.0, 1.0\], without which there is no guarantee"):
        bound(torch.tensor([[0.5, cost]]), delta=0.1, lowest=0.0, highest=1.0)


def test_sets_that_are_too_small_are_an_error():
    for bound in (
        lambda cost: student_t_upper_bound(cost, delta=0.1),
        lambda cost: empirical_bernstein_upper_bound(cost, delta=0.1, lowest=0.0, highest=1.0),
    ):
        with pytest.raises(ValueError, match="cost: expected groups of at least 2 outputs, got 1"):
            bound(torch.zeros(1, 1))
    with pytest.raises(ValueError, match="harmful: expected groups of at least 1 outputs, got 0"):
        clopper_pearson_upper_bound(torch.zeros(1, 0, dtype=torch.bool), delta=0.1)
