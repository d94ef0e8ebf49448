"""What the best of n samples is worth, from more samples than n."""

from __future__ import annotations

from math import lgamma

import numpy as np
import numpy.typing as npt

from plaudit.evaluation.validation import EvaluationError, FloatArray, finite_array, same_length


def expected_best_of_n(reward: npt.ArrayLike, value: npt.ArrayLike, *, n: int) -> float:
    r"""The mean value of the one with the highest reward among n of the samples, over all choices of n.

    With the N samples in falling order of their rewards, ``sum_i C(N - i, n - 1) / C(N, n) value_i``, i from 1: an estimate
    without bias of what best-of-n gives, and of less variance than n samples alone.

    Args:
        reward: "N", what chooses; of equal rewards the one that stands first is chosen.
        value: "N", what the chosen one is worth.
        n: from 1 to N; raising it gives the reward more to choose from.

    Raises:
        EvaluationError: rows of different lengths, or n out of range.

    Reference:
        The estimator of Nakano et al., "WebGPT", arXiv 2112.09332, appendix I, whose variance is that of a U-statistic.

    Example:
        Rewards (1, 3, 2) of values (5, 0, 1), n = 2: the pairs' best are 0, 1 and 0, their mean 1/3.
    """
    chooses, worth = finite_array("reward", reward), finite_array("value", value)
    same_length("value", worth, "reward", len(chooses))
    count = len(chooses)
    if not 1 <= n <= count:
        raise EvaluationError(f"n: expected a whole number from 1 to {count}, the number of samples, got {n}")
    order = np.argsort(-chooses, kind="stable")[: count - n + 1]
    rest = np.arange(count - 1, n - 2, -1)
    log_weight = np.array([_log_choose(int(left), n - 1) for left in rest]) - _log_choose(count, n)
    weight: FloatArray = np.exp(log_weight)
    return float(weight @ worth[order])


def _log_choose(count: int, chosen: int) -> float:
    return lgamma(count + 1) - lgamma(chosen + 1) - lgamma(count - chosen + 1)
