"""Two methods at equal distance from the reference: curves of the gold score over KL, and the area between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from plaudit.evaluation.intervals import Estimate, expanded_quantile
from plaudit.evaluation.unimodal import unimodal_fit
from plaudit.evaluation.validation import EvaluationError, FloatArray

GRID = 33  # points that a curve is evaluated at, evenly spaced in sqrt(KL)


@dataclass(frozen=True)
class Checkpoints:
    """What one run of a method was at its checkpoints, measured on the same prompts each time.

    Attributes:
        divergence: "C P", KL(policy || reference) in nats an output, for each checkpoint and prompt.
        gold: "C P", the score that is meant, of the answers to that prompt.
    """

    divergence: FloatArray
    gold: FloatArray

    @classmethod
    def of(cls, divergence: npt.ArrayLike, gold: npt.ArrayLike) -> Checkpoints:
        """From any two tables of numbers.

        Raises:
            EvaluationError: tables of different shapes, fewer than two checkpoints, no prompt, or a value that is not finite.
        """
        tables = [np.asarray(table, dtype=np.float64) for table in (divergence, gold)]
        for name, table in zip(("divergence", "gold"), tables, strict=True):
            if table.ndim != 2 or table.shape[1] < 1:
                raise EvaluationError(f"{name}: expected a table of checkpoints by prompts, got shape {table.shape}")
            broken = np.argwhere(~np.isfinite(table))
            if len(broken):
                row, column = broken[0]
                raise EvaluationError(
                    f"{name}[{row}, {column}] is {table[row, column]}: expected finite numbers; leave out prompts that could "
                    "not be measured at every checkpoint"
                )
        if tables[0].shape != tables[1].shape:
            raise EvaluationError(f"gold: expected the shape of divergence, {tables[0].shape}, got {tables[1].shape}")
        if len(tables[0]) < 2:
            raise EvaluationError(f"divergence: expected at least two checkpoints for a curve, got {len(tables[0])}")
        return cls(*tables)

    @property
    def reach(self) -> tuple[float, float]:
        """The least and the largest mean KL of a checkpoint; an estimate below 0 counts as 0."""
        means = np.maximum(self.divergence.mean(1), 0)
        return float(means.min()), float(means.max())


@dataclass(frozen=True)
class CurveBand:
    """A method's mean curve with a pointwise interval, for a plot.

    Attributes:
        value: "G", the gold score at each KL of the grid, averaged over runs.
        low: "G".
        high: "G".
    """

    value: FloatArray
    low: FloatArray
    high: FloatArray


@dataclass(frozen=True)
class MatchedDivergence:
    """Two methods at matched KL.

    Attributes:
        difference: mean over the common KL range of a's curve minus b's, with its interval.
        by_run: the same of each run.
        divergence: "G", the KL values of the curves, in nats.
        a: the first method's curve.
        b: the second one's.
    """

    difference: Estimate
    by_run: tuple[float, ...]
    divergence: FloatArray
    a: CurveBand
    b: CurveBand


def matched_divergence(
    a: Sequence[Checkpoints],
    b: Sequence[Checkpoints],
    *,
    generator: np.random.Generator,
    span: float = 0.75,
    level: float = 0.95,
    resamples: int = 1000,
    unit: str = "",
) -> MatchedDivergence:
    r"""Compare two methods at equal KL to the reference, not at equal steps.

    Of each run, checkpoints' means over prompts give points (KL, gold). Their curve g is a local linear regression on √KL
    (in which the gold score of best-of-n is a parabola, Gao et al.), made monotone-then-falling by `unimodal_fit`. The
    statistic is the area between the curves over the KL range [l, h] that every run of both methods reaches, divided by its
    width:

        D = mean over runs of 1/(h - l) ∫_l^h (g_a(k) - g_b(k)) dk

    Runs are paired by seed, and run i of a and b was measured on the same prompts. A resample draws runs, and within each
    its prompts, alike for a and b; KL and gold are averaged anew and the curves fitted anew on the same range (beyond its own
    points a curve goes on flat). The interval is the percentile interval with its halves stretched to the quantile of
    Student's t for the number of runs (of prompts, with one run), see `expanded_quantile`. Prompts count twice, in the spread
    between runs and inside them, which errs on the wide side. With one run the interval says nothing about other seeds.

    Args:
        a: one `Checkpoints` a run.
        b: as many, paired with those of a.
        generator: draws the resamples.
        span: share of a run's checkpoints that a local fit reads, in (0, 1], at least three; raising it smooths more.
        level: of the interval.
        resamples: of the bootstrap.
        unit: of the gold score.

    Raises:
        EvaluationError: no run, different numbers of runs or prompts, a run that stays at one KL, one prompt alone, no
            common KL range, or settings out of range.

    Reference:
        Tang et al., "Understanding the performance gap between online and offline alignment algorithms", arXiv 2405.08448,
        compare by eye at equal KL. Cleveland, "Robust locally weighted regression" (1979). The statistic and its interval are
        ours.

    Example:
        Curves k and k + 1 over 0 to 4 nats and 1 to 6 nats: the common range is 1 to 4, the difference -1.
    """
    _check(a, b, span, level, resamples)
    low, high = common_range(a, b)
    grid = np.linspace(np.sqrt(low), np.sqrt(high), GRID)
    nats = grid**2
    curves = [np.stack([_curves(run, _everything(run), grid, span)[0] for run in side]) for side in (a, b)]
    by_run = _mean_over(nats, curves[0] - curves[1])
    prompts = [run.gold.shape[1] for run in a]
    draws = [generator.multinomial(count, np.full(count, 1 / count), size=resamples) for count in prompts]
    drawn = [
        np.stack([_curves(run, times, grid, span) for run, times in zip(side, draws, strict=True)]) for side in (a, b)
    ]
    runs = generator.multinomial(len(a), np.full(len(a), 1 / len(a)), size=resamples) / len(a)
    means = [np.einsum("rs,srg->rg", runs, side) for side in drawn]
    units = len(a) if len(a) > 1 else prompts[0]
    stretch = expanded_quantile(level, units) / NormalDist().inv_cdf((1 + level) / 2)

    def interval(value: FloatArray, resampled: FloatArray) -> tuple[FloatArray, FloatArray]:
        ends = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return np.minimum(value, value + stretch * (ends[0] - value)), np.maximum(
            value, value + stretch * (ends[1] - value)
        )

    bands = [CurveBand(c.mean(0), *interval(c.mean(0), m)) for c, m in zip(curves, means, strict=True)]
    ends = interval(by_run.mean(), _mean_over(nats, means[0] - means[1]))
    what = f"{len(a)} runs and their prompts" if len(a) > 1 else "the prompts of one run"
    difference = Estimate(
        value=float(by_run.mean()), low=float(ends[0]), high=float(ends[1]), n=sum(prompts), level=level,
        method=f"expanded percentile bootstrap, {resamples} resamples of {what}", unit=unit,
        clusters=len(a) if len(a) > 1 else None,
    )  # fmt: skip
    return MatchedDivergence(difference, tuple(by_run.tolist()), nats, *bands)


def common_range(a: Sequence[Checkpoints], b: Sequence[Checkpoints]) -> tuple[float, float]:
    """The KL values that every run of both methods reaches: the largest least one, and the smallest largest one.

    Raises:
        EvaluationError: there are none; the message says how far each method goes.
    """
    sides = [(max(run.reach[0] for run in side), min(run.reach[1] for run in side)) for side in (a, b)]
    low, high = max(sides[0][0], sides[1][0]), min(sides[0][1], sides[1][1])
    if not low < high:
        told = " and ".join(f"{least:.4g} to {most:.4g} nats" for least, most in sides)
        raise EvaluationError(
            f"divergence: expected a KL range that all runs of both methods reach, got {told}; add checkpoints (earlier ones "
            "of the method that moved farther, other strengths of the pull to the reference)"
        )
    return low, high


def _check(a: Sequence[Checkpoints], b: Sequence[Checkpoints], span: float, level: float, resamples: int) -> None:
    if not a or len(a) != len(b):
        raise EvaluationError(f"b: expected as many runs as a has, at least one, got {len(a)} and {len(b)}")
    for index, (one, other) in enumerate(zip(a, b, strict=True)):
        if one.gold.shape[1] != other.gold.shape[1]:
            raise EvaluationError(
                f"b[{index}]: expected the prompts of a[{index}], {one.gold.shape[1]}, got {other.gold.shape[1]}"
            )
        for name, run in (("a", one), ("b", other)):
            if run.reach[0] == run.reach[1]:
                raise EvaluationError(
                    f"{name}[{index}]: expected checkpoints at different KL, all are at {run.reach[0]:g}"
                )
    if len(a) == 1 and a[0].gold.shape[1] < 2:
        raise EvaluationError(
            "a: expected several runs or several prompts for an interval, got one run with one prompt"
        )
    if not 0 < span <= 1:
        raise EvaluationError(f"span: expected a share in (0, 1], got {span}")
    if not 0 < level < 1:
        raise EvaluationError(f"level: expected a share between 0 and 1 such as 0.95, got {level}")
    if resamples < 100:
        raise EvaluationError(f"resamples: expected at least 100, got {resamples}; 1000 is usual")


def _everything(run: Checkpoints) -> npt.NDArray[np.int64]:
    """Each prompt once, as a single draw."""
    return np.ones((1, run.gold.shape[1]), dtype=np.int64)


def _curves(run: Checkpoints, times: npt.NDArray[np.int64], grid: FloatArray, span: float) -> FloatArray:
    """The run's curve on the grid for each draw of its prompts: "R P" counts to "R G"."""
    weight = times / times.sum(1, keepdims=True)
    divergence, gold = weight @ run.divergence.T, weight @ run.gold.T
    place = np.sqrt(np.maximum(divergence, 0))
    inside = np.clip(grid, place.min(1, keepdims=True), place.max(1, keepdims=True))
    return np.stack([unimodal_fit(row) for row in local_linear(place, gold, inside, span=span)])


def local_linear(x: FloatArray, y: FloatArray, at: FloatArray, *, span: float) -> FloatArray:
    """Local linear regression with tricube weights over the nearest points, row by row.

    Each fit reads the share `span` of its row's points, at least three where there are so many, and weighs them by
    (1 - (d / d_max)³)³; d_max lies just beyond the last of them. Where those points have one x, their mean stands in.

    Args:
        x: "R C", places of the points.
        y: "R C", their values.
        at: "R G", where to evaluate.
        span: share in (0, 1].

    Returns:
        "R G".
    """
    count = x.shape[1]
    nearest = min(count, max(3, int(np.ceil(span * count))))
    distance = np.abs(at[:, :, None] - x[:, None, :])
    reach = np.sort(distance, axis=2)[:, :, nearest - 1 : nearest]
    # a little beyond, so that the last point counts, and two points alone make a line
    reach = np.where(reach > 0, 1.1 * reach, 1.0)
    weight = np.maximum(0, 1 - (distance / reach) ** 3) ** 3
    weight /= weight.sum(2, keepdims=True)
    mean_x, mean_y = weight @ x[:, :, None], weight @ y[:, :, None]
    off = x[:, None, :] - mean_x
    spread = (weight * off**2).sum(2)
    together = (weight * off * (y[:, None, :] - mean_y)).sum(2)
    level = spread > 1e-12 * np.maximum(1.0, mean_x[:, :, 0] ** 2)
    slope = np.where(level, together / np.where(level, spread, 1.0), 0.0)
    fitted: FloatArray = mean_y[:, :, 0] + slope * (at - mean_x[:, :, 0])
    return fitted


def _mean_over(nats: FloatArray, values: FloatArray) -> FloatArray:
    """The area under each row by the trapezoidal rule, divided by the width of the range."""
    area: FloatArray = ((values[..., 1:] + values[..., :-1]) / 2 * np.diff(nats)).sum(-1)
    return area / float(nats[-1] - nats[0])
