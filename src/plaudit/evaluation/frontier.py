"""Reward against the distance that it cost: which policies are worth having at some distance from the reference."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from plaudit.evaluation.validation import EvaluationError, finite_array, same_length


def frontier(divergence: npt.ArrayLike, reward: npt.ArrayLike) -> tuple[int, ...]:
    """The points that no other beats, by rising divergence.

    A point is beaten by one that has at least its reward at no more divergence, and is better in one of the two; of equal
    points the first stands for all. The frontier's reward rises with its divergence.

    Args:
        divergence: "n", KL to the reference of each policy or checkpoint, in nats an output.
        reward: "n", what each earns.

    Raises:
        EvaluationError: rows of different lengths, or none.

    Reference:
        Gao, Schulman and Hilton, "Scaling Laws for Reward Model Overoptimization", arXiv 2210.10760, compare policies by
        reward at equal divergence.

    Example:
        Divergences (0, 1, 2, 3) with rewards (0, 2, 1, 3): the third point is beaten by the second.
    """
    cost, gain = _points(divergence, reward)
    kept = list[int]()
    for index in np.lexsort((np.arange(len(cost)), -gain, cost)).tolist():
        if not kept or gain[index] > gain[kept[-1]]:
            kept.append(index)
    return tuple(kept)


def reward_within(divergence: npt.ArrayLike, reward: npt.ArrayLike, *, budget: float) -> float:
    """The highest reward among the points whose divergence is at most the budget: the frontier at that divergence.

    Nothing is interpolated: between two checkpoints there is no policy.

    Args:
        divergence: "n", in nats.
        reward: "n".
        budget: in nats.

    Raises:
        EvaluationError: rows of different lengths, or no point within the budget.
    """
    cost, gain = _points(divergence, reward)
    within = cost <= budget
    if not within.any():
        raise EvaluationError(f"budget: expected at least the least divergence, {cost.min():g} nats, got {budget:g}")
    return float(gain[within].max())


def _points(
    divergence: npt.ArrayLike, reward: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    cost, gain = finite_array("divergence", divergence), finite_array("reward", reward)
    same_length("reward", gain, "divergence", len(cost))
    return cost, gain
