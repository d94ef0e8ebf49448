"""How an interval decides a claim, and how trials become an interval."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from plaudit.errors import ConfigError
from plaudit.evaluation import Estimate, EvaluationError, RankCorrelation
from plaudit.studies import Results, TrialResult, better, equivalent, find_study, ranked_alike

from .toy import STUDY


def interval(low: float, high: float) -> Estimate:
    return Estimate(value=(low + high) / 2, low=low, high=high, n=5, level=0.9, method="")


@pytest.mark.parametrize(
    ("low", "high", "decision"),
    [
        (-0.019, 0.019, "holds"),
        (0.005, 0.019, "holds"),  # a difference that is sure, and small
        (-0.021, 0.001, "inconclusive"),
        (0.01, 0.03, "inconclusive"),
        (0.02, 0.03, "does not hold"),
        (-0.05, -0.02, "does not hold"),
        (-math.inf, math.inf, "inconclusive"),
    ],
)
def test_two_arms_are_equivalent_if_the_interval_lies_within_the_margin(low, high, decision):
    assert equivalent("", interval(low, high), margin=0.02).decision == decision


@pytest.mark.parametrize(
    ("low", "high", "decision"),
    [(0.001, 0.1, "holds"), (0.0, 0.1, "inconclusive"), (-0.1, 0.1, "inconclusive"), (-0.1, -0.001, "does not hold")],
)
def test_an_arm_is_better_if_the_interval_lies_above_zero(low, high, decision):
    assert better("", interval(low, high)).decision == decision


@pytest.mark.parametrize(
    ("value", "low", "high", "p_value", "decision"),
    [
        (0.9, 0.8, 1.0, 0.001, "holds"),
        (0.9, 0.8, 1.0, 0.06, "inconclusive"),  # too few arms
        (0.6, 0.3, 0.8, 0.04, "inconclusive"),
        (0.6, 0.3, 0.69, 0.04, "does not hold"),
    ],
)
def test_arms_are_ranked_alike_if_the_correlation_is_large_and_no_chance(value, low, high, p_value, decision):
    found = RankCorrelation(replace(interval(low, high), value=value), p_value)
    assert ranked_alike("", found, least=0.7).decision == decision


def test_arms_are_ranked_by_their_means_over_seeds():
    means = {"a": (0.1, 5.0), "b": (0.2, 6.0), "c": (0.3, 7.0), "d": (0.4, 6.5)}
    found = {
        (arm, seed): TrialResult({"m": [one + seed, one - seed], "n": [other]}, 0, {})
        for arm, (one, other) in means.items()
        for seed in range(2)
    }
    with pytest.raises(EvaluationError, match="expected scores of the same examples"):
        Results(found).rank_correlation(tuple(means), "m", "n")
    found = {
        key: replace(result, scores={**result.scores, "n": [result.scores["n"][0]] * 2})
        for key, result in found.items()
    }
    estimate = Results(found).rank_correlation(tuple(means), "m", "n").estimate
    assert estimate.value == pytest.approx(0.8)


def test_a_margin_must_be_positive():
    with pytest.raises(EvaluationError, match="margin: expected a number > 0, got 0"):
        equivalent("", interval(0, 1), margin=0)


def test_differences_are_taken_within_a_seed_and_seeds_are_the_independent_units():
    """With examples as units the interval would be a fifth as wide: within a seed all examples say the same."""
    shift = {0: 0.0, 1: 0.1, 2: 0.2}
    found = {}
    for seed, extra in shift.items():
        base = [float(seed), 5.0 + seed, 10.0 + seed]
        found["a", seed] = TrialResult({"m": [value + extra for value in base]}, 0, {})
        found["b", seed] = TrialResult({"m": base}, 0, {})
    difference = Results(found).difference("a", "b", "m", level=0.9)
    assert difference.value == pytest.approx(0.1)
    assert (difference.n, difference.clusters) == (9, 3)
    t = 2.919986  # Student's t at 95 %, 2 degrees of freedom
    half = math.sqrt(3 / 2) * t * math.sqrt(sum((extra - 0.1) ** 2 for extra in shift.values())) / 3
    assert (difference.low, difference.high) == pytest.approx((0.1 - half, 0.1 + half), rel=1e-5)
    assert Results(found).mean("b", "m").value == pytest.approx(6.0)


def test_the_interval_of_a_share_stays_within_nothing_and_all():
    found = {("a", seed): TrialResult({"m": [share]}, 0, {}) for seed, share in enumerate((0.0, 0.1))}
    estimate = Results(found).mean("a", "m", unit="share")
    assert (estimate.low, estimate.value) == (0.0, 0.05)
    assert Results(found).mean("a", "m").low < 0


def test_one_seed_gives_no_interval_and_decides_nothing():
    found = {(arm, 0): TrialResult({"m": [0.0, 1.0]}, 0, {}) for arm in "ab"}
    assert equivalent("", Results(found).difference("a", "b", "m"), margin=0.02).decision == "inconclusive"


def test_a_study_compares_at_least_two_arms():
    with pytest.raises(ConfigError, match="arms: expected at least two different ones to compare, got"):
        replace(STUDY, arms=("one",))


def test_an_unknown_study_suggests_the_nearest():
    with pytest.raises(ConfigError, match=r"There is no study 'nfd'\. Did you mean nft\?"):
        find_study("nfd")


def test_a_metric_is_an_arm_s_with_every_seed_or_with_none():
    found = {("a", seed): TrialResult({"score": [0.0], **({"own": [1.0]} if seed else {})}, 0, {}) for seed in range(2)}
    assert Results(found).has("a", "score")
    assert not Results(found).has("a", "other")
    with pytest.raises(ConfigError, match=r"scores of a: expected 'own' with every seed or none, got it with \[1\]"):
        Results(found).has("a", "own")
