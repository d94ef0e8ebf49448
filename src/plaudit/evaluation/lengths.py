"""How long outputs are, and by how much training changed that."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from plaudit.evaluation.intervals import Estimate, bootstrap_mean, bootstrap_ratio, paired_difference
from plaudit.evaluation.validation import EvaluationError, finite_array, same_length

LengthUnit = Literal["tokens", "characters", "words"]


@dataclass(frozen=True, slots=True)
class LengthChange:
    """Mean length before and after, their paired difference, and the growth sum(after) / sum(before) - 1.

    The growth is a share, and None where more than half of the outputs were empty before: a ratio to almost nothing.
    """

    before: Estimate
    after: Estimate
    difference: Estimate
    growth: Estimate | None


@dataclass(frozen=True, slots=True)
class LengthHistogram:
    """How many outputs fall between one edge and the next, before and after."""

    unit: str
    edges: tuple[float, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]


def text_lengths(texts: Sequence[str], unit: Literal["characters", "words"] = "characters") -> tuple[int, ...]:
    """Lengths in characters (Unicode code points, as AlpacaEval counts) or words (runs between white space).

    Words mean nothing in scripts without spaces; count characters or tokens there. The length in tokens is the number
    of token ids that were sampled, which the text alone does not give.
    """
    if unit == "characters":
        return tuple(len(text) for text in texts)
    return tuple(len(text.split()) for text in texts)


def length_change(
    before: npt.ArrayLike,
    after: npt.ArrayLike,
    *,
    unit: LengthUnit,
    generator: np.random.Generator,
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
) -> LengthChange:
    """Compare the lengths of two models' outputs to the same contexts.

    Args:
        before: "n", >= 0.
        after: "n", >= 0, for the same contexts in the same order.
        unit: what was counted.
        generator: draws the resamples.
        clusters: "n", the context of each pair where one context has several.
        level: of the intervals.
        resamples: of the bootstrap.

    Raises:
        EvaluationError: as `bootstrap_mean`, or a negative length.
    """
    first, second = _lengths("before", before), _lengths("after", after)
    same_length("after", second, "before", len(first))

    def mean(values: npt.NDArray[np.float64]) -> Estimate:
        return bootstrap_mean(
            values, generator=generator, clusters=clusters, level=level, resamples=resamples, unit=unit
        )

    difference = paired_difference(
        second, first, generator=generator, clusters=clusters, level=level, resamples=resamples, unit=unit
    )
    growth = None
    if 2 * np.count_nonzero(first) >= len(first):
        growth = bootstrap_ratio(
            second - first, first, generator=generator, clusters=clusters, level=level, resamples=resamples,
            unit="share",
        )  # fmt: skip
    return LengthChange(mean(first), mean(second), difference, growth)


def length_histogram(
    before: npt.ArrayLike, after: npt.ArrayLike, *, unit: LengthUnit, bins: int = 24
) -> LengthHistogram:
    """Count lengths in bins of equal, whole width that cover both."""
    first, second = _lengths("before", before), _lengths("after", after)
    both = np.concatenate([first, second])
    width = max(1, int(np.ceil((both.max() - both.min() + 1) / bins)))
    start = int(np.floor(both.min() / width)) * width
    edges = np.arange(start, int(both.max()) + width + 1, width)
    counts = [tuple(int(count) for count in np.histogram(row, edges)[0]) for row in (first, second)]
    return LengthHistogram(unit, tuple(float(edge) for edge in edges), counts[0], counts[1])


def _lengths(name: str, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    row = finite_array(name, values)
    if (row < 0).any():
        index = int(np.flatnonzero(row < 0)[0])
        raise EvaluationError(f"{name}[{index}]: expected a length of at least 0, got {row[index]:g}")
    return row
