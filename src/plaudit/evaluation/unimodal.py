"""The nearest curve that rises and then falls."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from plaudit.evaluation.validation import FloatArray, finite_array


def unimodal_fit(values: npt.ArrayLike) -> FloatArray:
    """The row that rises up to some place and falls after it, nearest to the values in squares.

    Either part may be empty: a row that only rises or only falls is kept as it is. For each place of the split an isotonic
    regression of the left and an antitonic one of the right are needed; pooling adjacent violators gives the squares of all
    beginnings of a row in one pass. Of equally good splits the first is taken.

    Args:
        values: "n", finite.

    Raises:
        EvaluationError: no values, or one that is not finite.

    Reference:
        Stout, "Unimodal regression via prefix isotonic regression" (2008).

    Example:
        (0, 2, 1, 3, 1) becomes (0, 1.5, 1.5, 3, 1).
    """
    row = finite_array("values", values)
    rising, falling = _squares_of_prefixes(row), _squares_of_prefixes(row[::-1])[::-1]
    split = int((rising + falling).argmin())
    return np.concatenate([_isotonic(row[:split]), _isotonic(row[split:][::-1])[::-1]])


def _squares_of_prefixes(row: FloatArray) -> FloatArray:
    """Squared error of the isotonic regression of the first 0, 1, ... n values."""
    errors, blocks, total = [0.0], list[tuple[int, float, float]](), 0.0
    for value in row.tolist():
        count, sum_, error = 1, value, 0.0
        while blocks and blocks[-1][1] / blocks[-1][0] >= sum_ / count:
            count_, before, error_ = blocks.pop()
            gap = before / count_ - sum_ / count
            total -= error_
            error += error_ + gap * gap * count * count_ / (count + count_)
            count, sum_ = count + count_, sum_ + before
        blocks.append((count, sum_, error))
        total += error
        errors.append(total)
    return np.array(errors)


def _isotonic(row: FloatArray) -> FloatArray:
    """The nearest row that never falls, by pooling adjacent violators."""
    blocks = list[tuple[int, float]]()
    for value in row.tolist():
        count, sum_ = 1, value
        while blocks and blocks[-1][1] / blocks[-1][0] >= sum_ / count:
            before = blocks.pop()
            count, sum_ = count + before[0], sum_ + before[1]
        blocks.append((count, sum_))
    return np.repeat([sum_ / count for count, sum_ in blocks], [count for count, _ in blocks])
