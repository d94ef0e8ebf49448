"""The value of the best of n, against all choices of n samples."""

from __future__ import annotations

from itertools import combinations
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaudit.evaluation import EvaluationError, expected_best_of_n

rows = st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=7, unique_by=lambda row: row[0])


@given(rows, st.data())
def test_it_is_the_mean_over_all_choices(samples, data):
    n = data.draw(st.integers(1, len(samples)))
    chosen = [max(choice)[1] for choice in combinations(samples, n)]
    reward, value = zip(*samples, strict=True)
    assert expected_best_of_n(reward, value, n=n) == pytest.approx(fmean(chosen), abs=1e-9)


def test_one_of_them_is_the_mean_and_all_of_them_the_best():
    generator = np.random.default_rng(0)
    reward, value = generator.normal(size=(2, 1024))
    assert expected_best_of_n(reward, value, n=1) == pytest.approx(value.mean())
    assert expected_best_of_n(reward, value, n=1024) == pytest.approx(value[reward.argmax()])
    best = [expected_best_of_n(reward, reward, n=n) for n in (1, 4, 16, 64, 256, 1024)]
    assert best == sorted(best)


def test_of_equal_rewards_the_first_is_chosen():
    assert expected_best_of_n([1.0, 1.0, 0.0], [5.0, 7.0, 9.0], n=3) == 5


@pytest.mark.parametrize("n", [0, 4])
def test_more_than_there_are_cannot_be_chosen_from(n):
    with pytest.raises(
        EvaluationError, match=f"n: expected a whole number from 1 to 3, the number of samples, got {n}"
    ):
        expected_best_of_n([1, 2, 3], [1, 2, 3], n=n)


def test_rows_of_different_lengths_are_refused():
    with pytest.raises(EvaluationError, match="value"):
        expected_best_of_n([1, 2, 3], [1, 2], n=1)
