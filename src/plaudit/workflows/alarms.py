"""Alarms of a run that learns from own samples: their settings, and what the report says of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from plaudit.evaluation.report import RunWarning
from plaudit.training import Alarm, RunFolder
from plaudit.training.alarms import Watch
from plaudit.training.config import check


@dataclass(frozen=True, kw_only=True)
class AlarmsConfig:
    """When a method that learns from own samples says that a metric has left its band; training goes on.

    Attributes:
        most_kl: largest distance from the model before, in nats an output; methods measure it with a kl_coefficient.
        least_entropy: smallest entropy of what is sampled, in nats a token; below it the model says nearly the same again and
            again.
        shortest: least mean length of what is sampled, in tokens.
        longest: greatest mean length, in tokens.
    """

    most_kl: float | None = None
    least_entropy: float | None = 0.01
    shortest: float | None = None
    longest: float | None = None

    def __post_init__(self) -> None:
        for name in ("most_kl", "least_entropy", "shortest", "longest"):
            value = getattr(self, name)
            check(self, name, value is None or 0 <= value < math.inf, "a number >= 0, or nothing")
        low, high = self.shortest, self.longest
        check(self, "longest", low is None or high is None or low <= high, f"at least shortest, {low}")

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """The bands of the training steps' metrics."""
        bands = {
            "kl": (None, self.most_kl),
            "sampled_entropy": (self.least_entropy, None),
            "sampled_length": (self.shortest, self.longest),
        }
        return tuple(
            Alarm(metric, -math.inf if low is None else low, math.inf if high is None else high)
            for metric, (low, high) in bands.items()
            if (low, high) != (None, None)
        )


def alarm_warnings(config: AlarmsConfig, run: RunFolder) -> tuple[RunWarning, ...]:
    """What left its band in the training steps of a run, each the first time."""
    rows = [row for row in run.metrics() if row["split"] == "train"]
    measured = {name for row in rows for name in row}
    watch = Watch([alarm for alarm in config.alarms if alarm.metric in measured])
    said = [sentence for row in rows for sentence in watch.look(row["step"], row)]
    advice = "Look at the held-out answers while it learned. A stronger pull to the model before keeps it nearer."
    return tuple(RunWarning("out of its band", sentence, advice) for sentence in said)
