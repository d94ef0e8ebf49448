"""Preference accuracy, proper scores and calibration of score differences."""

import math

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from plaudit.evaluation import (
    EvaluationError,
    bootstrap_mean,
    brier_score,
    expected_calibration_error,
    overconfidence,
    preference_accuracy,
    preference_log_loss,
    reliability_curve,
)

MEASURES = (preference_accuracy, brier_score, preference_log_loss, overconfidence, expected_calibration_error)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x)))


def pairs(generator, n: int, sharpness: float):
    """Score differences and outcomes that follow sigmoid(sharpness d): 1 is calibrated, less is overconfident."""
    differences = generator.normal(0, 1.5, n)
    return differences, (generator.random(n) < sigmoid(sharpness * differences)).astype(float)


def test_accuracy_counts_equal_scores_half_and_leaves_tied_pairs_out():
    estimate = preference_accuracy([2.0, -1.0, 0.0, 3.0, 5.0], [1.0, 0.0, 1.0, 0.0, 0.5], generator=rng())
    assert estimate.value == (1 + 1 + 0.5 + 0) / 4
    assert (estimate.n, estimate.unit) == (4, "share")


def test_a_constant_score_is_chance():
    assert preference_accuracy(np.zeros(50), generator=rng()).value == 0.5
    assert brier_score(np.zeros(50), generator=rng()).value == 0.25
    assert preference_log_loss(np.zeros(50), generator=rng()).value == pytest.approx(math.log(2))


def test_scores_agree_with_scikit_learn():
    differences, outcomes = pairs(rng(1), 200, 1.0)
    assert brier_score(differences, outcomes, generator=rng()).value == pytest.approx(
        brier_score_loss(outcomes, sigmoid(differences))
    )
    assert preference_log_loss(differences, outcomes, generator=rng()).value == pytest.approx(
        log_loss(outcomes, sigmoid(differences))
    )


def test_log_loss_is_exact_for_huge_differences():
    assert preference_log_loss([-1e4, -1e4], generator=rng()).value == 1e4


@pytest.mark.parametrize("measure", MEASURES)
def test_swapping_every_pair_changes_nothing(measure):
    differences, outcomes = pairs(rng(2), 120, 0.7)
    one = measure(differences, outcomes, generator=rng(3))
    other = measure(-differences, 1 - outcomes, generator=rng(3))
    assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high))


@pytest.mark.parametrize("measure", MEASURES)
def test_no_outcomes_means_the_first_was_chosen(measure):
    differences, _ = pairs(rng(2), 60, 1.0)
    assert measure(differences, generator=rng(3)) == measure(differences, np.ones(60), generator=rng(3))


@pytest.mark.parametrize("measure", MEASURES)
def test_copies_of_each_pair_in_its_context_leave_the_interval_alone(measure):
    differences, outcomes = pairs(rng(4), 60, 0.7)
    one = measure(differences, outcomes, generator=rng(5), resamples=4000)
    copied = measure(
        np.repeat(differences, 5), np.repeat(outcomes, 5), generator=rng(6), resamples=4000,
        clusters=np.repeat(np.arange(60), 5).tolist(),
        **({"bins": 3} if measure is expected_calibration_error else {}),
    )  # fmt: skip
    assert copied.clusters == 60
    assert copied.n == 300
    if measure is not expected_calibration_error:  # with copies its bins hold other pairs
        assert (copied.low, copied.high) == pytest.approx((one.low, one.high), abs=0.02)


def test_overconfidence_finds_a_planted_one():
    differences, outcomes = pairs(rng(7), 3000, 0.4)
    truth = float((sigmoid(np.abs(differences)) - sigmoid(0.4 * np.abs(differences))).mean())
    estimate = overconfidence(differences, outcomes, generator=rng())
    assert estimate.low < truth < estimate.high
    assert estimate.low > 0.05


def test_calibration_error_of_two_bins_by_hand():
    """20 pairs at confidence 0.6 of which 15 won, 20 at 0.9 of which 14 won: (0.15 + 0.2) / 2."""
    differences = np.log(np.repeat([0.6 / 0.4, 0.9 / 0.1], 20))
    outcomes = np.concatenate([np.arange(20) < 15, np.arange(20) < 14]).astype(float)
    estimate = expected_calibration_error(differences, outcomes, generator=rng())
    assert float(estimate.method.rpartition(" ")[2]) == pytest.approx((0.15 + 0.2) / 2, abs=1e-4)
    curve = reliability_curve(differences, outcomes, generator=rng())
    assert [point.predicted for point in curve] == pytest.approx([0.6, 0.9])
    assert [point.observed.value for point in curve] == pytest.approx([0.75, 0.7])


def test_calibration_error_is_not_fooled_by_noise():
    """Perfectly calibrated: the plain error is well above 0, the interval starts at 0 in nearly all samples."""
    starts, plain = [], []
    for seed in range(60):
        differences, outcomes = pairs(rng(seed), 200, 1.0)
        estimate = expected_calibration_error(differences, outcomes, generator=rng(seed), resamples=400)
        starts.append(estimate.low)
        plain.append(float(estimate.method.rpartition(" ")[2]))
    assert np.mean(plain) > 0.05
    assert np.mean(np.array(starts) == 0) >= 0.95 - 0.085


def test_calibration_error_of_an_overconfident_model_is_covered():
    big, _ = pairs(rng(99), 200_000, 0.5)
    truth = float(np.abs(sigmoid(np.abs(big)) - sigmoid(0.5 * np.abs(big))).mean())
    covered = []
    for seed in range(60):
        differences, outcomes = pairs(rng(seed), 400, 0.5)
        estimate = expected_calibration_error(differences, outcomes, generator=rng(seed), resamples=400)
        covered.append(not estimate.excludes(truth))
    assert np.mean(covered) >= 0.9 - 0.12


def test_few_pairs_are_one_bin():
    differences, outcomes = pairs(rng(1), 12, 1.0)
    curve = reliability_curve(differences, outcomes, generator=rng())
    assert len(curve) == 1
    assert curve[0].observed.n == 12


def test_equal_confidences_are_never_split_over_bins():
    curve = reliability_curve(np.zeros(500), np.ones(500), generator=rng())
    assert len(curve) == 1
    assert (curve[0].predicted, curve[0].observed.value) == (0.5, 0.5)


def test_accuracy_is_the_bootstrap_of_hits():
    differences, outcomes = pairs(rng(8), 90, 1.0)
    hits = ((differences > 0) == (outcomes == 1)).astype(float)
    expected = bootstrap_mean(hits, generator=rng(9), bounds=(0.0, 1.0), unit="share")
    assert preference_accuracy(differences, outcomes, generator=rng(9)) == expected


def test_messages():
    with pytest.raises(EvaluationError, match=r"score_differences\[1\] is nan"):
        brier_score([1.0, math.nan], generator=rng())
    with pytest.raises(EvaluationError, match=r"outcomes\[0\]: expected the probability .* in \[0, 1\], got 2.0"):
        brier_score([1.0], [2.0], generator=rng())
    with pytest.raises(EvaluationError, match="outcomes: expected at least one pair that is not a tie, got ties only"):
        preference_accuracy([1.0], [0.5], generator=rng())
    with pytest.raises(EvaluationError, match="bins: expected at least 1, got 0"):
        expected_calibration_error([1.0], bins=0, generator=rng())
    with pytest.raises(EvaluationError, match="outcomes: expected as many values as score_differences has, 1, got 2"):
        brier_score([1.0], [1.0, 0.0], generator=rng())
