"""Two methods at matched KL, on curves whose truth is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaudit.evaluation import Checkpoints, EvaluationError, matched_divergence
from plaudit.evaluation.matched_divergence import common_range, local_linear
from plaudit.evaluation.unimodal import unimodal_fit

ROWS = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=7)


def run(curve, nats, *, prompts: int = 12, noise: float = 0.0, seed: int = 0) -> Checkpoints:
    """Checkpoints on a known curve; noise is a prompt's own, the same at every checkpoint, and each checkpoint's."""
    draw = np.random.default_rng(seed)
    nats = np.asarray(nats, dtype=float)
    level, each = draw.normal(0, noise, (1, prompts)), draw.normal(0, noise, (len(nats), prompts))
    return Checkpoints.of(np.repeat(nats[:, None], prompts, 1), curve(nats)[:, None] + level + each)


def compare(a, b, **settings):
    return matched_divergence(a, b, generator=np.random.default_rng(1), resamples=200, **settings)


def rising_then_falling(nats):
    return 3 * np.sqrt(nats) - nats


@pytest.mark.parametrize("shift", [-1.0, 0.0, 0.5])
def test_a_constant_gap_is_the_difference_whatever_the_curve(shift):
    nats = np.linspace(0, 9, 19)
    found = compare([run(lambda k: rising_then_falling(k) + shift, nats)], [run(rising_then_falling, nats)])
    assert found.difference.value == pytest.approx(shift, abs=1e-9)
    assert found.by_run == pytest.approx([shift], abs=1e-9)


def test_the_area_is_over_nats_and_not_over_their_root():
    """In sqrt(KL) both curves are lines, which the fit keeps: the mean over [0, 4] of sqrt(k) is 4/3."""
    nats = np.linspace(0, 2, 9) ** 2
    found = compare([run(np.sqrt, nats)], [run(lambda k: 0 * k, nats)])
    assert found.difference.value == pytest.approx(4 / 3, rel=2e-3)


def test_only_the_range_that_both_reach_counts():
    a, b = run(np.sqrt, [0, 1, 2, 3, 4]), run(lambda k: np.sqrt(k) + 1, [1, 2, 4, 6])
    found = compare([a], [b])
    assert (found.divergence[0], found.divergence[-1]) == pytest.approx((1, 4))
    assert found.difference.value == pytest.approx(-1, abs=1e-9)


def test_every_run_must_reach_the_range():
    assert common_range([run(np.sqrt, [0, 5]), run(np.sqrt, [1, 3])], [run(np.sqrt, [0, 4])]) == (1, 3)


def test_matching_steps_would_reverse_the_verdict():
    """b is above a at every step, since it moves faster; at equal KL a is the better by 0.3."""
    a = run(lambda k: np.sqrt(k) + 0.3, [0, 0.25, 0.5, 0.75, 1])
    b = run(np.sqrt, [0, 1, 4, 6, 8])
    assert (b.gold.mean(1)[1:] > a.gold.mean(1)[:-1]).all()
    assert b.gold.mean(1)[-1] > a.gold.mean(1)[-1]
    assert compare([a], [b]).difference.value == pytest.approx(0.3, abs=1e-6)


def test_no_common_range_says_how_far_each_goes():
    with pytest.raises(EvaluationError, match=r"got 0 to 1 nats and 2 to 3 nats; add checkpoints"):
        compare([run(np.sqrt, [0, 1])], [run(np.sqrt, [2, 3])])


def test_a_range_of_one_point_is_none():
    with pytest.raises(EvaluationError, match="0 to 1 nats and 1 to 2 nats"):
        compare([run(np.sqrt, [0, 1])], [run(np.sqrt, [1, 2])])


@pytest.mark.parametrize(
    ("divergence", "gold", "message"),
    [
        ([[1.0, 1.0]], [[1.0, 1.0]], "at least two checkpoints for a curve, got 1"),
        ([[0.0], [np.nan]], [[1.0], [1.0]], r"divergence\[1, 0\] is nan"),
        ([[0.0], [1.0]], [[1.0], [np.inf]], r"gold\[1, 0\] is inf"),
        ([0.0, 1.0], [1.0, 2.0], r"divergence: expected a table of checkpoints by prompts, got shape \(2,\)"),
        ([[0.0], [1.0]], [[1.0, 2.0], [1.0, 2.0]], r"gold: expected the shape of divergence, \(2, 1\), got \(2, 2\)"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(divergence, gold, message):
    with pytest.raises(EvaluationError, match=message):
        Checkpoints.of(divergence, gold)


@pytest.mark.parametrize(
    ("a", "b", "settings", "message"),
    [
        ([], [], {}, "at least one, got 0 and 0"),
        ([run(np.sqrt, [0, 1])] * 2, [run(np.sqrt, [0, 1])], {}, "got 2 and 1"),
        ([run(np.sqrt, [0, 1])], [run(np.sqrt, [0, 1], prompts=5)], {}, r"expected the prompts of a\[0\], 12, got 5"),
        (
            [run(np.sqrt, [1, 1])],
            [run(np.sqrt, [0, 2])],
            {},
            r"a\[0\]: expected checkpoints at different KL, all are at 1",
        ),
        ([run(np.sqrt, [0, 1], prompts=1)], [run(np.sqrt, [0, 1], prompts=1)], {}, "one run with one prompt"),
        ([run(np.sqrt, [0, 1])], [run(np.sqrt, [0, 1])], {"span": 0}, r"span: expected a share in \(0, 1\], got 0"),
        ([run(np.sqrt, [0, 1])], [run(np.sqrt, [0, 1])], {"level": 1}, "level: expected a share between 0 and 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(a, b, settings, message):
    with pytest.raises(EvaluationError, match=message):
        compare(a, b, **settings)


def test_noise_of_prompts_that_both_share_cancels():
    """A prompt's own level is in both curves; unpaired, it alone would make the interval 1.2 wide."""
    nats = np.linspace(0, 4, 9)
    shared = np.random.default_rng(5).normal(0, 1, (1, 12))
    a = Checkpoints.of(np.repeat(nats[:, None], 12, 1), np.sqrt(nats)[:, None] + 0.2 + shared)
    b = Checkpoints.of(np.repeat(nats[:, None], 12, 1), np.sqrt(nats)[:, None] + shared)
    found = compare([a], [b])
    assert found.difference.low == pytest.approx(0.2, abs=1e-9)
    assert found.difference.high == pytest.approx(0.2, abs=1e-9)
    assert found.a.high[0] - found.a.low[0] > 0.5


@pytest.mark.parametrize("runs", [1, 4])
def test_the_interval_covers_about_as_often_as_it_says(runs):
    """40 worlds at 90 %: 36 are expected, fewer than 31 come up once in a hundred."""
    covered = 0
    for world in range(40):
        sides = [
            [
                run(
                    lambda k, gap=gap: rising_then_falling(k) + gap,
                    np.linspace(0, 6, 8),
                    noise=0.5,
                    seed=9 * world + i + 7 * side,
                )
                for i in range(runs)
            ]
            for side, gap in enumerate((0.1, 0.0))
        ]
        found = matched_divergence(*sides, generator=np.random.default_rng(world), resamples=100, level=0.9)
        covered += found.difference.low <= 0.1 <= found.difference.high
    assert covered >= 31


def test_an_estimate_of_kl_below_0_counts_as_0():
    a, b = run(np.square, [-0.2, 1, 2]), run(np.square, [0, 1, 2])
    assert compare([a], [b]).divergence[0] == 0


def test_the_same_generator_gives_the_same_interval():
    sides = [[run(np.sqrt, [0, 1, 2, 3], noise=0.3, seed=s + i) for s in range(3)] for i in (0, 10)]
    assert compare(*sides).difference == compare(*sides).difference


def test_local_regression_keeps_lines_and_goes_through_two_points():
    x = np.array([[0.0, 1.0, 2.0, 4.0, 7.0]])
    assert local_linear(x, 3 * x - 1, x, span=0.6) == pytest.approx(3 * x - 1)
    two = np.array([[0.0, 2.0]])
    assert local_linear(two, two**2, np.array([[0.0, 1.0, 2.0]]), span=1) == pytest.approx(np.array([[0.0, 2.0, 4.0]]))
    same = np.ones((1, 4))
    assert local_linear(same, np.array([[0.0, 1.0, 2.0, 3.0]]), np.ones((1, 1)), span=1) == pytest.approx(1.5)


def test_the_nearest_unimodal_row_by_hand():
    assert unimodal_fit([0, 2, 1, 3, 1]) == pytest.approx([0, 1.5, 1.5, 3, 1])
    assert unimodal_fit([3, 1, 2]) == pytest.approx([3, 1.5, 1.5])
    assert unimodal_fit([5]) == pytest.approx([5])


@given(ROWS)
def test_it_rises_then_falls_and_nothing_unimodal_is_nearer(values):
    fitted = unimodal_fit(values)
    steps = np.sign(np.round(np.diff(fitted), 9))
    signs = [step for step in steps if step]
    assert signs == sorted(signs, reverse=True)
    error = ((fitted - values) ** 2).sum()
    for split in range(len(values) + 1):  # isotonic by definition: mean of max-min, Robertson et al. 1988
        parts = [_max_min(values[:split]), _max_min(values[split:][::-1])[::-1]]
        assert error <= ((np.concatenate(parts) - values) ** 2).sum() + 1e-9


def _max_min(row: list[float]) -> list[float]:
    """Isotonic regression by its formula: max over starts of min over ends of the mean."""
    places = range(len(row))
    mean = {(s, e): sum(row[s : e + 1]) / (e + 1 - s) for s, e in itertools.product(places, places) if s <= e}
    return [max(min(mean[s, e] for e in range(i, len(row))) for s in range(i + 1)) for i in places]
