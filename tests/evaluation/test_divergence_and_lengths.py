"""KL estimates against KL in closed form, and lengths."""

import math

import numpy as np
import pytest

from plaudit.evaluation import (
    EvaluationError,
    divergence_from_reference,
    length_change,
    length_histogram,
    text_lengths,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def categorical(seed: int, n: int, concentration: float = 3.0):
    """n samples of a policy over 50 outputs: their log-ratios, and the true KL."""
    generator = rng(seed)
    policy, reference = (generator.dirichlet(np.full(50, concentration)) for _ in range(2))
    ratios = np.log(policy / reference)
    return ratios[generator.choice(50, size=n, p=policy)], float(policy @ ratios)


@pytest.mark.parametrize(("concentration", "expected"), [(3.0, [0.95, 0.90]), (30.0, [0.95, 0.95])])
def test_both_estimators_cover_the_true_divergence(concentration, expected):
    """At concentration 3 policy and reference differ much, and k3's tail is too heavy for its interval."""
    covered = np.zeros(2)
    for seed in range(200):
        ratios, truth = categorical(seed, 200, concentration)
        divergence = divergence_from_reference(ratios, generator=rng(10_000 + seed), resamples=400)
        covered += [not divergence.k1.excludes(truth), not divergence.k3.excludes(truth)]
    assert (covered / 200 >= np.array(expected) - 0.05).all()


def test_a_clamped_mean_is_not_a_divergence():
    """The trap of the spec: mean(max(0, log-ratio)) is several times the KL."""
    ratios, truth = categorical(1, 20_000)
    assert divergence_from_reference(ratios, generator=rng(), resamples=100).k1.value == pytest.approx(truth, rel=0.1)
    assert np.maximum(ratios, 0).mean() > 1.4 * truth


def test_the_reference_itself_is_at_zero():
    divergence = divergence_from_reference(np.zeros(40), generator=rng())
    assert divergence.k1.value == divergence.k3.value == 0


def test_formulas_and_tokens():
    ratios, tokens = np.array([0.5, -0.25, 1.0]), np.array([2, 4, 10])
    divergence = divergence_from_reference(ratios, token_counts=tokens, generator=rng())
    assert divergence.k1.value == pytest.approx((0.5 - 0.25 + 1) / 3)
    assert divergence.k3.value == pytest.approx(sum(math.exp(-r) - 1 + r for r in ratios) / 3)
    assert divergence.k1_per_token.value == pytest.approx(1.25 / 16)
    assert (divergence.k1.unit, divergence.k1_per_token.unit) == ("nats", "nats per token")


def test_clusters_reach_the_interval():
    ratios = np.repeat(rng(1).normal(size=20), 10)
    divergence = divergence_from_reference(ratios, clusters=np.repeat(np.arange(20), 10).tolist(), generator=rng())
    assert divergence.k1.clusters == 20


def test_divergence_messages():
    with pytest.raises(EvaluationError, match=r"log_ratios\[1\] is -812 nats: .* of the same tokens"):
        divergence_from_reference([0.1, -812.0], generator=rng())
    with pytest.raises(EvaluationError, match=r"token_counts\[0\]: expected at least 1 token, got 0"):
        divergence_from_reference([0.1], token_counts=[0], generator=rng())
    with pytest.raises(EvaluationError, match=r"log_ratios\[0\] is nan"):
        divergence_from_reference([math.nan], generator=rng())


def test_length_change():
    before, after = np.array([10.0, 20.0, 30.0]), np.array([15.0, 20.0, 55.0])
    change = length_change(before, after, unit="tokens", generator=rng())
    assert (change.before.value, change.after.value, change.difference.value) == (20, 30, 10)
    assert (change.growth.value, change.growth.unit) == (0.5, "share")
    assert change.difference.unit == "tokens"


def test_growth_is_covered():
    """E[after] / E[before] - 1 = 0.25 with noise on both sides; 93 % over 800 samples of this skewed ratio."""
    generator, covered = rng(3), 0
    for _ in range(200):
        before = generator.gamma(4, 20, 60)
        after = before * generator.lognormal(0, 0.4, 60) / math.exp(0.08) * 1.25
        change = length_change(before, after, unit="words", generator=generator, resamples=400)
        covered += not change.growth.excludes(0.25)
    assert covered / 200 >= 0.93 - 0.054


def test_growth_from_almost_nothing_is_not_given():
    change = length_change([0.0, 0.0, 5.0], [4.0, 6.0, 5.0], unit="tokens", generator=rng())
    assert change.growth is None
    assert change.difference.value == pytest.approx(10 / 3)


def test_text_lengths_count_characters_as_alpaca_eval_does():
    assert text_lengths(["", "añ 漢字\n"]) == (0, 6)
    assert text_lengths(["", "one  two\nthree"], "words") == (0, 3)


def test_histogram_counts_every_output_once():
    before, after = rng(1).integers(0, 400, 200), rng(2).integers(50, 900, 150)
    histogram = length_histogram(before, after, unit="tokens")
    assert (sum(histogram.before), sum(histogram.after)) == (200, 150)
    assert len(histogram.edges) == len(histogram.before) + 1
    assert len(set(np.diff(histogram.edges))) == 1


def test_histogram_of_one_length():
    histogram = length_histogram([7, 7], [7], unit="words")
    assert (sum(histogram.before), sum(histogram.after)) == (2, 1)


def test_length_messages():
    with pytest.raises(EvaluationError, match=r"after\[1\]: expected a length of at least 0, got -1"):
        length_change([1, 2], [1, -1], unit="tokens", generator=rng())
    with pytest.raises(EvaluationError, match="after: expected as many values as before has, 2, got 1"):
        length_change([1, 2], [1], unit="tokens", generator=rng())
