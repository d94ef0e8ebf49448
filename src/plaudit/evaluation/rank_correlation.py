"""Whether two judges rank the same arms alike: Spearman's correlation of their means, with a permutation test."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import permutations as all_orders
from math import factorial

import numpy as np
import numpy.typing as npt

from plaudit.evaluation.intervals import Estimate
from plaudit.evaluation.validation import EvaluationError, FloatArray, cluster_codes

FEWEST_ARMS = 3


@dataclass(frozen=True, slots=True)
class RankCorrelation:
    """Spearman's correlation, and the chance of one as large if the two rankings had nothing to do with each other."""

    estimate: Estimate
    p_value: float


def rank_correlation(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    *,
    generator: np.random.Generator,
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = 2_000,
    permutations: int = 50_000,
) -> RankCorrelation:
    """Spearman's rho of the rows' means: the correlation of their mid-ranks.

    The p-value is that of "b's arms could be named in any order", one-sided: the share of orders with a rho at least as
    large. All M! orders are tried where there are at most `permutations` of them, else so many random ones and
    ``(1 + extreme) / (1 + permutations)``. The interval is a percentile bootstrap of the examples (all arms' together,
    within each group): how sure the ranks are, given these arms. It says nothing of what other arms would give.

    Args:
        a: "M N", scores of M arms on N examples by one judge.
        b: "M N", by the other on the same examples.
        generator: draws examples and orders.
        groups: "N", within which examples are drawn, such as the seed that each comes from.
        level: of the interval.
        resamples: of the bootstrap.
        permutations: how many orders are tried at most.

    Raises:
        EvaluationError: fewer than 3 arms, arrays of other shapes, or all means of a judge are equal.

    Reference:
        Spearman (1904). AlpacaFarm, arXiv 2305.14387, correlates methods' win rates by simulated annotators and people so.
    """
    one, other = _scores("a", a), _scores("b", b)
    if one.shape != other.shape:
        raise EvaluationError(f"b: expected scores of the same examples, of shape {one.shape} as a, got {other.shape}")
    rows = np.stack([one, other])
    arms, count = rows.shape[1:]
    if arms < FEWEST_ARMS:
        raise EvaluationError(f"a: expected at least {FEWEST_ARMS} arms, got {arms}")
    codes, _ = cluster_codes(groups, count) if groups is not None else (np.zeros(count, dtype=np.int64), 1)
    ranks = _ranks(rows.mean(-1))
    if bool((ranks.std(-1) == 0).any()):
        raise EvaluationError("a, b: expected arms with different means, got equal ones; they have no ranking")
    rho = float(_correlation(ranks[0], ranks[1]))
    drawn = np.array([_resampled(rows, codes, generator) for _ in range(resamples)])
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    method = f"percentile bootstrap of examples given the arms, {resamples} resamples"
    estimate = Estimate(
        value=rho, low=min(float(low), rho), high=max(float(high), rho), n=arms, level=level, method=method
    )
    return RankCorrelation(estimate, _p_value(ranks, rho, permutations, generator))


def _scores(name: str, values: npt.ArrayLike) -> FloatArray:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[1] == 0 or not np.isfinite(scores).all():
        raise EvaluationError(f"{name}: expected finite scores of shape [arms, examples], got shape {scores.shape}")
    return scores


def _ranks(means: FloatArray) -> FloatArray:
    """Mid-ranks along the last axis."""
    below = (means[..., None, :] < means[..., :, None]).sum(-1)
    equal = (means[..., None, :] == means[..., :, None]).sum(-1)
    ranks: FloatArray = below + (equal + 1) / 2
    return ranks


def _correlation(one: FloatArray, others: FloatArray) -> FloatArray:
    """Of one row with each of the others; NaN where a row has no variation."""
    one, others = one - one.mean(), others - others.mean(-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        found: FloatArray = (others @ one) / np.sqrt((one @ one) * (others**2).sum(-1))
    return found


def _resampled(rows: FloatArray, codes: npt.NDArray[np.int64], generator: np.random.Generator) -> float:
    picks = [generator.choice(members, len(members)) for members in (np.flatnonzero(codes == c) for c in set(codes))]
    ranks = _ranks(rows[:, :, np.concatenate(picks)].mean(-1))
    return float(_correlation(ranks[0], ranks[1]))


def _p_value(ranks: FloatArray, rho: float, permutations: int, generator: np.random.Generator) -> float:
    arms = ranks.shape[1]
    if factorial(arms) <= permutations:
        orders = np.array(list(all_orders(range(arms))))
        return float((_correlation(ranks[0], ranks[1][orders]) >= rho - 1e-9).mean())
    orders = np.argsort(generator.random((permutations, arms)), axis=-1)
    extreme = int((_correlation(ranks[0], ranks[1][orders]) >= rho - 1e-9).sum())
    return (1 + extreme) / (1 + permutations)
