"""The interval plot: each headline figure against no change, with better always to the right.

Rows of one unit and one null share a scale. Positions are in percent of the strip's width, so that the page draws
strips as wide as the screen without scaling their text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from plaudit.evaluation.report.run_report import Row

_MARGIN = 1.12  # of the farthest end, so that no whisker touches the strip's edge


@dataclass(frozen=True, slots=True)
class Strip:
    """A row with its place in the plot: `value`, `low` and `high` in percent from the left, no change at 50."""

    row: Row
    value: float
    low: float
    high: float
    left_label: str
    null_label: str
    right_label: str

    @property
    def description(self) -> str:
        """The strip in words, for who cannot see it."""
        return f"{self.row.name}: {self.row.estimate}; no change is {self.null_label}. {self.row.reading.capitalize()}."


def forest(rows: Sequence[Row]) -> tuple[Strip, ...]:
    """A strip for each row that has a null."""
    compared = [row for row in rows if row.null is not None]
    reach: dict[tuple[str, float | None], float] = {}
    for row in compared:
        key = (row.estimate.unit, row.null)
        reach[key] = max(reach.get(key, 0.0), _reach(row))
    return tuple(_strip(row, reach[row.estimate.unit, row.null]) for row in compared)


def _reach(row: Row) -> float:
    null = row.null or 0.0
    ends = [abs(end - null) for end in (row.estimate.low, row.estimate.value, row.estimate.high) if math.isfinite(end)]
    reach = max(ends) * _MARGIN
    return min(reach, 0.5) if row.estimate.unit == "share" and null == 0.5 else reach


def _strip(row: Row, reach: float) -> Strip:
    null, estimate = row.null or 0.0, row.estimate
    reach = _rounded_up(reach) if reach > 0 else 1.0
    if estimate.unit == "share" and null == 0.5:
        reach = min(reach, 0.5)
    sign = -1.0 if row.better == "down" else 1.0

    def place(value: float) -> float:
        return min(100.0, max(0.0, 50.0 + 50.0 * sign * (value - null) / reach))

    ends = sorted((place(estimate.low), place(estimate.high)))
    coarse = replace(estimate, low=null - reach, high=null + reach)
    labels = [coarse.number(null - sign * reach), coarse.number(null), coarse.number(null + sign * reach)]
    unit = f" {estimate.printed_unit}" if estimate.unit == "share" else ""
    return Strip(row, place(estimate.value), ends[0], ends[1], *(label + unit for label in labels))


def _rounded_up(value: float) -> float:
    """The next of 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    steps = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
    return next((step * power for step in steps if step * power >= value * (1 - 1e-9)), 10.0 * power)
