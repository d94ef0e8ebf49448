"""Alarms: metrics that should stay in a band, such as the KL, the entropy or the length of outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plaudit.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Alarm:
    """The band that a metric of the training steps should stay in.

    Attributes:
        metric: its name in the run's metrics.
        low: its lower end.
        high: its upper end.
    """

    metric: str
    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ConfigError(f"alarm on {self.metric}: expected low <= high, got {self.low} and {self.high}")


class Watch:
    """Says once, in a sentence, that a metric has left its band, and that there is no such metric."""

    def __init__(self, alarms: Sequence[Alarm]) -> None:
        self._waiting = list(alarms)
        self._begun = False

    def look(self, step: int, row: Mapping[str, float]) -> list[str]:
        """What is to be said of the metrics after so many steps."""
        said = []
        for alarm in tuple(self._waiting):
            value = row.get(alarm.metric)
            if value is None and not self._begun:
                said.append(f"There is no metric {alarm.metric} for an alarm; there are {', '.join(sorted(row))}.")
            elif value is not None and not alarm.low <= value <= alarm.high:
                said.append(
                    f"Step {step}: {alarm.metric} is {value:.4g} and has left its band of {alarm.low:g} to {alarm.high:g}."
                )
                self._waiting.remove(alarm)
        self._begun = True
        return said
