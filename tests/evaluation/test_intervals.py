"""Intervals cover what they say, follow the clusters, and do not pretend to know what a sample cannot show."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plaudit.evaluation import (
    Estimate,
    EvaluationError,
    bootstrap_mean,
    bootstrap_ratio,
    clopper_pearson,
    paired_difference,
    permutation_p_value,
)
from plaudit.evaluation.intervals import bootstrap_sums


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def coverage(draw, truth: float, repetitions: int = 400, **options) -> tuple[float, float]:
    """Shares of intervals that cover the truth, and that lie wholly above it."""
    generator = rng(20)
    estimates = [
        bootstrap_mean(draw(generator), generator=generator, resamples=600, **options) for _ in range(repetitions)
    ]
    covered = np.mean([not estimate.excludes(truth) for estimate in estimates])
    return float(covered), float(np.mean([estimate.low > truth for estimate in estimates]))


class TestCoverage:
    """400 intervals of 95 %: three standard errors of the measured share are 3.3 points."""

    @pytest.mark.parametrize("n", [3, 5, 9, 10, 30])
    def test_normal_values(self, n):
        covered, above = coverage(lambda g: g.normal(2.0, 1.0, n), 2.0)
        assert covered >= 0.95 - 0.033
        assert above <= 0.025 + 0.024

    @pytest.mark.parametrize(("n", "chance"), [(12, 0.5), (64, 0.6), (64, 0.9), (20, 0.95)])
    def test_shares(self, n, chance):
        covered, _ = coverage(lambda g: (g.random(n) < chance).astype(float), chance, bounds=(0.0, 1.0))
        assert covered >= 0.95 - 0.033

    def test_skewed_values_are_covered_about_as_well_as_their_tails_allow(self):
        covered, _ = coverage(lambda g: g.lognormal(size=60), math.exp(0.5))
        assert covered >= 0.92 - 0.041

    def test_the_level_is_what_is_covered(self):
        covered, _ = coverage(lambda g: g.normal(size=40), 0.0, level=0.8)
        assert covered == pytest.approx(0.8, abs=0.06)

    def test_clusters_are_drawn_as_a_whole(self):
        """20 contexts with 8 equal answers each: without clusters the interval covers far too rarely."""
        clusters = np.repeat(np.arange(20), 8).tolist()

        def draw(generator):
            return np.repeat(generator.normal(size=20), 8)

        assert coverage(draw, 0.0, clusters=clusters)[0] >= 0.95 - 0.033
        assert coverage(draw, 0.0)[0] < 0.65


class TestMean:
    def test_value_is_the_weighted_mean(self):
        estimate = bootstrap_mean([1.0, 2.0, 6.0], weights=[1.0, 1.0, 2.0], generator=rng())
        assert estimate.value == (1 + 2 + 2 * 6) / 4
        assert estimate.n == 3

    def test_a_weight_of_zero_is_a_deletion(self):
        few = bootstrap_mean(np.arange(12.0), generator=rng(3))
        padded = bootstrap_mean([*np.arange(12.0), 99.0], weights=[1.0] * 12 + [0.0], generator=rng(3))
        assert padded == few

    def test_same_generator_state_gives_the_same_interval(self):
        values = rng(1).normal(size=30)
        assert bootstrap_mean(values, generator=rng(5)) == bootstrap_mean(values, generator=rng(5))

    def test_clusters_of_one_are_no_clusters(self):
        values = rng(1).normal(size=30)
        alone = bootstrap_mean(values, generator=rng(5))
        named = bootstrap_mean(values, generator=rng(5), clusters=[f"context {i}" for i in range(30)])
        assert (named.low, named.high, named.clusters) == (alone.low, alone.high, 30)

    def test_student_t_below_ten_units(self):
        values = np.array([1.0, 2.0, 4.0, 5.0])
        estimate = bootstrap_mean(values, generator=rng())
        half = 3.182446305284263 * values.std(ddof=1) / 2  # t quantile 0.975 with 3 degrees of freedom
        assert (estimate.low, estimate.high) == pytest.approx((3 - half, 3 + half))

    @given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.floats(-1e3, 1e3), st.floats(0.01, 100))
    @settings(max_examples=40, deadline=None)
    def test_moves_and_scales_with_the_values(self, values, shift, scale):
        row = np.array(values)
        base = bootstrap_mean(row, generator=rng(2), resamples=200)
        moved = bootstrap_mean(scale * row + shift, generator=rng(2), resamples=200)
        slack = 1e-6 * (1 + scale * np.abs(row).max() + abs(shift))
        for end in ("low", "value", "high"):
            assert getattr(moved, end) == pytest.approx(scale * getattr(base, end) + shift, abs=slack)

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
    @settings(max_examples=40, deadline=None)
    def test_holds_its_value_and_keeps_to_its_bounds(self, values):
        estimate = bootstrap_mean(values, generator=rng(), resamples=200, bounds=(0.0, 1.0))
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1

    def test_memory_stays_bounded(self):
        values = rng().normal(size=5_000)
        tracemalloc.start()
        bootstrap_mean(values, generator=rng(), resamples=4_000)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 120e6  # 4,000 x 5,000 counts at once would take 160 MB, and their picks as much again


class TestWithoutVariation:
    def test_all_wins_is_clopper_pearson(self):
        estimate = bootstrap_mean(np.ones(10), generator=rng(), bounds=(0.0, 1.0))
        assert (estimate.low, estimate.high) == pytest.approx((0.025 ** (1 / 10), 1.0))

    def test_all_ties_leave_room_on_both_sides(self):
        share = 0.025 ** (1 / 50)
        estimate = bootstrap_mean(np.full(50, 0.5), generator=rng(), bounds=(0.0, 1.0))
        assert (estimate.low, estimate.high) == pytest.approx((share / 2, share / 2 + 1 - share))

    def test_one_value_has_no_interval(self):
        estimate = bootstrap_mean([3.0], generator=rng())
        assert (estimate.low, estimate.high) == (-math.inf, math.inf)
        assert "one independent unit" in estimate.method
        assert str(estimate) == "3.00 [no interval], n = 1"

    def test_one_cluster_is_one_value(self):
        assert bootstrap_mean([1.0, 2.0, 3.0], clusters=["a"] * 3, generator=rng()).low == -math.inf

    def test_equal_values_without_bounds_are_a_point(self):
        estimate = bootstrap_mean(np.zeros(20), generator=rng())
        assert (estimate.low, estimate.high) == (0.0, 0.0)
        assert estimate.method == "no variation among 20 independent units"


class TestRefusals:
    @pytest.mark.parametrize(
        ("values", "options", "message"),
        [
            ([], {}, "values: expected at least one number, got none"),
            ([1.0, math.nan, 2.0], {}, r"values\[1\] is nan: expected finite numbers"),
            ([1.0, math.inf, math.nan], {}, r"values\[1\] is inf \(2 such values in all\)"),
            ([[1.0]], {}, r"values: expected one row of numbers, got an array of shape \(1, 1\)"),
            ([1.0, 2.0], {"weights": [1.0]}, "weights: expected as many values as values has, 2, got 1"),
            ([1.0, 2.0], {"weights": [1.0, -1.0]}, r"weights\[1\]: expected a weight of at least 0, got -1"),
            ([1.0, 2.0], {"weights": [0.0, 0.0]}, "weights: expected at least one above 0"),
            ([1.0, 2.0], {"clusters": ["a"]}, "clusters: expected as many values as the values has, 2, got 1"),
            ([1.0, 2.0], {"level": 95}, "level: expected a share between 0 and 1 such as 0.95, got 95"),
            ([1.0, 2.0], {"resamples": 10}, "resamples: expected at least 100, got 10"),
            ([0.5, 1.5], {"bounds": (0.0, 1.0)}, r"values\[1\]: expected a value from 0.0 to 1.0, got 1.5"),
        ],
    )
    def test_messages(self, values, options, message):
        with pytest.raises(EvaluationError, match=message):
            bootstrap_mean(values, generator=rng(), **options)

    def test_ratio_to_nothing(self):
        with pytest.raises(EvaluationError, match="denominators: expected at least one above 0"):
            bootstrap_ratio([1.0, 2.0], [0.0, 0.0], generator=rng())
        with pytest.raises(EvaluationError, match="too few of the denominators are above 0"):
            bootstrap_ratio(np.ones(12), [1.0] + [0.0] * 11, generator=rng())


class TestRatio:
    def test_ratio_of_sums(self):
        tokens = np.array([10.0, 30.0, 20.0] * 5)
        estimate = bootstrap_ratio(2.0 * tokens, tokens, generator=rng())
        assert (estimate.value, estimate.low, estimate.high) == pytest.approx((2.0, 2.0, 2.0))

    def test_equals_the_weighted_mean(self):
        values, weights = rng(1).normal(size=25), rng(2).uniform(1, 5, 25)
        ratio = bootstrap_ratio(values * weights, weights, generator=rng(3))
        mean = bootstrap_mean(values, weights=weights, generator=rng(3))
        assert (ratio.low, ratio.high) == pytest.approx((mean.low, mean.high))


class TestSums:
    def test_equal_rows_have_the_distribution_of_distinct_rows(self):
        """40 ones and 60 zeros: the multinomial path has the binomial's mean and variance."""
        rows = np.array([[1.0]] * 40 + [[0.0]] * 60)
        drawn = bootstrap_sums(rows, generator=rng(), resamples=20_000)[:, 0]
        assert drawn.mean() == pytest.approx(40, abs=4 * math.sqrt(24 / 20_000))
        assert drawn.var() == pytest.approx(100 * 0.4 * 0.6, rel=0.05)


class TestPairs:
    def test_paired_difference_is_the_mean_of_differences(self):
        a, b = rng(1).normal(size=20), rng(2).normal(size=20)
        paired = paired_difference(a, b, generator=rng(3))
        assert paired == bootstrap_mean(a - b, generator=rng(3))
        with pytest.raises(EvaluationError, match="b: expected as many values as a has, 2, got 1"):
            paired_difference([1.0, 2.0], [1.0], generator=rng())

    def test_exact_permutation_test_counts_sign_flips(self):
        """Of the 8 flips of (1, 2, 3) two reach |6|, of which one reaches 6."""
        a, b = [1.0, 2.0, 3.0], [0.0, 0.0, 0.0]
        assert permutation_p_value(a, b, generator=rng()) == 2 / 8
        assert permutation_p_value(a, b, generator=rng(), alternative="greater") == 1 / 8
        assert permutation_p_value(a, b, generator=rng(), alternative="less") == 1.0

    def test_clusters_flip_together(self):
        a = [1.0] * 9
        assert permutation_p_value(a, [0.0] * 9, generator=rng(), clusters=[0, 1, 2] * 3) == 2 / 8

    def test_drawn_flips_agree_with_all_flips(self):
        generator = rng(4)
        a, b = generator.normal(0.4, 1, 14), generator.normal(0, 1, 14)
        exact = permutation_p_value(a, b, generator=rng(), permutations=2**14)
        drawn = permutation_p_value(a, b, generator=rng(), permutations=2**14 - 1)
        assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 2**14))

    def test_p_values_are_uniform_when_nothing_differs(self):
        generator = rng(6)
        values = [
            permutation_p_value(
                generator.normal(size=20), generator.normal(size=20), generator=generator, permutations=199
            )
            for _ in range(300)
        ]
        assert np.mean(np.array(values) <= 0.05) == pytest.approx(0.05, abs=0.038)

    def test_never_zero(self):
        assert permutation_p_value(np.ones(30), np.zeros(30), generator=rng(), permutations=199) == 1 / 200


class TestPrinting:
    def estimate(self, value, low, high, unit="", **fields):
        return Estimate(value, low, high, fields.pop("n", 64), fields.pop("level", 0.95), "m", unit, **fields)

    @pytest.mark.parametrize(
        ("estimate", "text"),
        [
            ((0.625, 0.541, 0.703, "share"), "62.5 % [54.1, 70.3], n = 64"),
            ((-0.062, -0.117, -0.012, "points"), "-6.2 points [-11.7, -1.2], n = 64"),
            ((5.871, 5.48, 6.24, "nats"), "5.87 nats [5.48, 6.24], n = 64"),
            ((1234.5, 1010.0, 1450.0, "tokens"), "1234 tokens [1010, 1450], n = 64"),
            ((-0.0001, -0.4, 0.4, ""), "0.00 [-0.40, 0.40], n = 64"),
        ],
    )
    def test_two_digits_of_the_half_width(self, estimate, text):
        assert str(self.estimate(*estimate)) == text

    def test_groups_and_other_levels_are_said(self):
        text = str(self.estimate(0.5, 0.4, 0.6, "share", n=640, clusters=64, level=0.9))
        assert text == "50 % [40, 60], n = 640 in 64 groups, 90 % interval"


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"), [(0, 10, 0.0, 0.3085), (10, 10, 0.6915, 1.0), (4, 20, 0.0573, 0.4366)]
)
def test_clopper_pearson_gives_the_tabulated_bounds(successes, trials, low, high):
    found = clopper_pearson(successes, trials)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert found.value == successes / trials


@given(st.integers(1, 40), st.floats(0.01, 0.99))
def test_clopper_pearson_covers_at_least_its_level_at_any_true_share(trials, share):
    """By enumeration of all outcomes, without drawing."""
    covered = sum(
        math.comb(trials, count) * share**count * (1 - share) ** (trials - count)
        for count in range(trials + 1)
        if not clopper_pearson(count, trials, level=0.9).excludes(share)
    )
    assert covered >= 0.9 - 1e-9


@pytest.mark.parametrize(("successes", "trials", "level"), [(-1, 3, 0.9), (4, 3, 0.9), (0, 0, 0.9), (1, 2, 1.0)])
def test_clopper_pearson_refuses_what_is_no_count(successes, trials, level):
    with pytest.raises(EvaluationError, match="expected"):
        clopper_pearson(successes, trials, level=level)
