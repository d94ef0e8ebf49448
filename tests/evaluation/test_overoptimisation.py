"""The alarm on curves whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from plaudit.evaluation import EvaluationError, Overoptimisation, proxy_up_gold_down


def gao(looks: int = 40, alpha: float = 1.0, beta: float = 0.15) -> tuple[np.ndarray, np.ndarray]:
    """Gao et al. 2022, best-of-n: gold d (alpha - beta d), whose maximum lies at d = alpha / (2 beta); the proxy is linear."""
    distance = np.linspace(0, 8, looks)
    return alpha * distance, distance * (alpha - beta * distance)


def test_the_example_by_hand():
    assert proxy_up_gold_down([1, 2, 3, 4, 5], [1, 2, 1, 0, -1], patience=2) == Overoptimisation(best=1, alarm=3)


def test_the_best_checkpoint_is_the_maximum_and_the_alarm_comes_patience_looks_later():
    proxy, gold = gao()
    found = proxy_up_gold_down(proxy, gold, patience=4)
    assert found.best == int(gold.argmax())
    assert found.alarm == found.best + 4
    assert found.stop


def test_the_rule_reads_nothing_of_what_comes_later():
    proxy, gold = gao()
    alarm = proxy_up_gold_down(proxy, gold).alarm
    for end in range(1, len(gold) + 1):
        assert proxy_up_gold_down(proxy[:end], gold[:end]).stop == (end > alarm)


@pytest.mark.parametrize(
    ("proxy", "gold"),
    [
        (np.arange(20), np.arange(20)),
        (-np.arange(20), -np.arange(20)),
        (np.arange(20), np.zeros(20)),
        (np.ones(20), -np.arange(20)),
        (np.arange(20), np.tile([1.0, 0.0], 10)),
        ([1], [1]),
    ],
    ids=["both rise", "both fall", "gold is flat", "proxy is flat", "gold comes back", "one look"],
)
def test_no_alarm_without_both_a_higher_proxy_and_a_lower_gold_reward(proxy, gold):
    assert not proxy_up_gold_down(proxy, gold, patience=2).stop


def test_of_equal_maxima_the_first_is_taken():
    assert proxy_up_gold_down([1, 2, 3], [0, 5, 5]).best == 1


def noisy(seed: int, gold: np.ndarray, error: float) -> np.ndarray:
    return gold + error * np.random.default_rng(seed).standard_normal(len(gold))


def test_noise_alone_rarely_rings_and_a_true_decline_mostly_does():
    """40 looks with standard error 0.2 at a flat gold reward, and at one that falls from 1.7 to -1.6."""
    proxy, gold = gao()
    error = np.full(len(gold), 0.2)
    false = sum(proxy_up_gold_down(proxy, noisy(s, np.zeros_like(gold), 0.2), error).stop for s in range(200))
    found = [proxy_up_gold_down(proxy, noisy(seed, gold, 0.2), error) for seed in range(200)]
    assert false / 200 < 0.05
    assert np.mean([each.stop for each in found]) > 0.95
    assert np.mean([gold[each.best] for each in found]) > gold.max() - 0.1
    assert np.mean([gold[each.alarm] for each in found if each.stop]) > 0.3


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (([1, 2], [1]), {}, "gold: expected as many values as proxy has, 2, got 1"),
        (([], []), {}, "proxy: expected at least one number, got none"),
        (([1, 2], [1, float("nan")]), {}, r"gold\[1\] is nan"),
        (([1, 2], [1, 2], [0.1]), {}, "gold_error: expected as many values as gold has, 2, got 1"),
        (([1, 2], [1, 2], [0.1, -1]), {}, "gold_error: expected numbers >= 0, got -1"),
        (([1], [1]), {"patience": 0}, "patience: expected a whole number >= 1, got 0"),
        (([1], [1]), {"deviations": -1}, "deviations: expected a number >= 0, got -1"),
    ],
)
def test_curves_and_settings_that_cannot_be_used(arguments, settings, message):
    with pytest.raises(EvaluationError, match=message):
        proxy_up_gold_down(*arguments, **settings)
