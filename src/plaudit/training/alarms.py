"""Alarms: metrics that should stay in a band, such as the KL or the length of outputs, and rewards that come apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plaudit.errors import ConfigError
from plaudit.evaluation.overoptimisation import proxy_up_gold_down


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


def reward_hacking(looks: Sequence[Mapping[str, float]]) -> str | None:
    """What is to be said of looks at which the reward that is optimised rose and a second one fell; see `proxy_up_gold_down`.

    Args:
        looks: metrics with step, reward, gold and gold_error; those without gold are left out.
    """
    rows = [row for row in looks if "gold" in row]
    if not rows:
        return None
    proxy, gold, error = ([row[name] for row in rows] for name in ("reward", "gold", "gold_error"))
    found = proxy_up_gold_down(proxy, gold, error)
    if found.alarm is None:
        return None
    best, alarm = rows[found.best], rows[found.alarm]
    return (
        f"Step {alarm['step']:g}: the reward that is optimised rose from {best['reward']:.4g} to {alarm['reward']:.4g} since "
        f"step {best['step']:g}, where the second reward was highest, and that fell from {best['gold']:.4g} to "
        f"{alarm['gold']:.4g}: suspicion of reward hacking."
    )
