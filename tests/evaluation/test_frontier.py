"""The frontier of reward and divergence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaudit.evaluation import EvaluationError, frontier, reward_within

NUMBERS = st.integers(0, 6).map(float)
POINTS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=12)


def test_a_point_that_another_beats_is_left_out():
    assert frontier([0, 1, 2, 3], [0, 2, 1, 3]) == (0, 1, 3)
    assert frontier([3, 0], [1, 2]) == (1,)


def test_of_equal_points_the_first_stands_for_all():
    assert frontier([1, 1, 1], [2, 2, 1]) == (0,)


@given(POINTS)
def test_what_is_kept_is_what_nothing_beats(points):
    def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return one[0] <= other[0] and one[1] >= other[1] and one != other

    kept = frontier(*zip(*points, strict=True))
    best = {point for point in points if not any(beats(other, point) for other in points)}
    assert {points[index] for index in kept} == best
    assert len(kept) == len(best)
    assert list(kept) == sorted(kept, key=lambda index: points[index])


@given(POINTS, NUMBERS)
def test_the_reward_within_a_budget_is_the_frontiers_there(points, budget):
    divergence, reward = zip(*points, strict=True)
    within = [reward[index] for index in frontier(divergence, reward) if divergence[index] <= budget]
    if within:
        assert reward_within(divergence, reward, budget=budget) == within[-1]
    else:
        with pytest.raises(EvaluationError, match="budget: expected at least the least divergence"):
            reward_within(divergence, reward, budget=budget)


def test_rows_must_fit():
    with pytest.raises(EvaluationError, match="reward: expected as many values as divergence has, 2, got 1"):
        frontier([1, 2], [1])
