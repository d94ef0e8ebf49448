"""What every evaluation checks about its input: finite numbers, equal lengths, and which values belong together."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from plaudit.errors import PlauditError

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.intp]


class EvaluationError(PlauditError, ValueError):
    """What was given cannot be evaluated: nothing to measure, a value that is no number, or lists that do not match."""


def finite_array(name: str, values: npt.ArrayLike) -> FloatArray:
    """The values as one row of finite float64 numbers.

    Args:
        name: what the values are called in the message of an error.
        values: any row of numbers or booleans.

    Raises:
        EvaluationError: the values are not one row, there are none, or one is not finite; the message names its index.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise EvaluationError(f"{name}: expected one row of numbers, got an array of shape {array.shape}")
    if array.size == 0:
        raise EvaluationError(f"{name}: expected at least one number, got none; there is nothing to evaluate")
    broken = np.flatnonzero(~np.isfinite(array))
    if broken.size:
        more = f" ({broken.size} such values in all)" if broken.size > 1 else ""
        raise EvaluationError(
            f"{name}[{broken[0]}] is {array[broken[0]]}{more}: expected finite numbers; "
            "leave out what could not be measured and say how many were left out"
        )
    return array


def same_length(name: str, values: Sequence[object] | FloatArray, other: str, n: int) -> None:
    """Raise an `EvaluationError` unless there are as many values as in the other row."""
    if len(values) != n:
        raise EvaluationError(f"{name}: expected as many values as {other} has, {n}, got {len(values)}")


def cluster_codes(clusters: Sequence[Hashable] | None, n: int) -> tuple[IndexArray, int]:
    """For each of n values the number of its cluster, and how many clusters there are; None makes each its own."""
    if clusters is None:
        return np.arange(n, dtype=np.intp), n
    same_length("clusters", clusters, "the values", n)
    codes: dict[Hashable, int] = {}
    row = np.fromiter((codes.setdefault(cluster, len(codes)) for cluster in clusters), dtype=np.intp, count=n)
    return row, len(codes)


def cluster_sums(codes: IndexArray, groups: int, *columns: FloatArray) -> FloatArray:
    """The sums of each column over each cluster, "groups columns"."""
    return np.stack([np.bincount(codes, weights=column, minlength=groups) for column in columns], axis=1)
