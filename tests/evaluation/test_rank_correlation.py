"""Spearman's correlation of arms' means against SciPy, and its permutation test."""

from __future__ import annotations

from math import factorial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from plaudit.evaluation import EvaluationError, rank_correlation


def found(a, b, *, seed: int = 0, **settings):
    return rank_correlation(a, b, generator=np.random.default_rng(seed), **{"resamples": 100, **settings})


def columns(*means: float) -> list[list[float]]:
    """Arms of such means, each on two examples that vary alike."""
    return [[mean - 0.25, mean + 0.25] for mean in means]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=6))
def test_it_is_scipys_ties_and_all(pairs):
    a, b = zip(*pairs, strict=True)
    if len(set(a)) == 1 or len(set(b)) == 1:
        with pytest.raises(EvaluationError, match="expected arms with different means"):
            found(columns(*a), columns(*b))
        return
    assert found(columns(*a), columns(*b), resamples=10).estimate.value == pytest.approx(spearmanr(a, b).statistic)


def test_the_exact_p_value_is_the_share_of_orders():
    same = found(columns(1, 2, 3, 4, 5), columns(1, 2, 3, 4, 5))
    assert same.estimate.value == pytest.approx(1)
    assert same.p_value == pytest.approx(1 / factorial(5))
    opposite = found(columns(1, 2, 3, 4), columns(4, 3, 2, 1))
    assert (opposite.estimate.value, opposite.p_value) == (pytest.approx(-1), 1.0)


def test_of_eight_arms_rho_0_643_is_what_five_percent_ask_for():
    """The table's critical value of Spearman's rho, one-sided, n = 8."""
    order = (1, 2, 3, 4, 5, 6, 7, 8)
    critical, below = (1, 2, 3, 8, 4, 5, 6, 7), (2, 1, 3, 8, 4, 5, 7, 6)
    at, under = (found(columns(*order), columns(*other), resamples=10) for other in (critical, below))
    assert at.estimate.value > under.estimate.value
    assert at.p_value < 0.05
    assert found(columns(*order), columns(1, 8, 3, 2, 4, 7, 6, 5), resamples=10).p_value > 0.05


def test_drawn_orders_come_near_the_exact_p_value():
    a, b = columns(1, 2, 3, 4, 5, 6), columns(2, 1, 3, 6, 4, 5)
    exact, drawn = found(a, b), found(a, b, permutations=700)
    assert drawn.p_value == pytest.approx(exact.p_value, abs=0.03)
    assert drawn.p_value > 0


def test_the_interval_holds_the_value_and_narrows_with_more_examples():
    generator = np.random.default_rng(1)
    means = np.linspace(0, 0.3, 6)[:, None]

    def width(count: int) -> float:
        a, b = (means + generator.normal(size=(6, count)) for _ in range(2))
        estimate = found(a, b, groups=[index % 3 for index in range(count)]).estimate
        assert estimate.low <= estimate.value <= estimate.high
        return estimate.high - estimate.low

    assert width(3000) < width(60)


@pytest.mark.parametrize(
    ("a", "message"),
    [
        (columns(1, 2), "a: expected at least 3 arms, got 2"),
        ([1, 2, 3], r"a: expected finite scores of shape \[arms, examples\], got shape \(3,\)"),
        (columns(1, 2, float("nan")), "a: expected finite scores"),
    ],
)
def test_what_has_no_ranking_is_refused(a, message):
    with pytest.raises(EvaluationError, match=message):
        found(a, a)
