"""What a run's report says, as plain data: made by the run, written as page, Markdown and JSON, and read back."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict, JsonValue, TypeAdapter, ValidationError

from plaudit.evaluation.intervals import Estimate
from plaudit.evaluation.lengths import LengthHistogram
from plaudit.evaluation.preference import ReliabilityBin
from plaudit.evaluation.validation import EvaluationError
from plaudit.profile_figures import Figures

Reading = Literal["better", "worse", "no clear change", "higher", "lower", "not compared"]


@dataclass(frozen=True, slots=True)
class Row:
    """One headline figure.

    Attributes:
        name: what was measured, in a few words.
        estimate: the figure.
        better: whether more or less of it is better; None where neither is.
        null: the value that means no change (0.5 of a win rate, 0 of a difference), None where there is none.
        explanation: one sentence on what it is and what it was computed over.
    """

    name: str
    estimate: Estimate
    better: Literal["up", "down"] | None
    null: float | None
    explanation: str

    @property
    def reading(self) -> Reading:
        """What the interval says: a change only where it leaves `null` out."""
        if self.null is None:
            return "not compared"
        if not self.estimate.excludes(self.null):
            return "no clear change"
        higher = self.estimate.low > self.null
        if self.better is None:
            return "higher" if higher else "lower"
        return "better" if higher == (self.better == "up") else "worse"


@dataclass(frozen=True, slots=True)
class FeedbackSummary:
    """What was learned from: counts of records, and what became of them.

    Attributes:
        by_kind: records by kind of feedback, such as comparison or reaction.
        by_source: records by source.
        comparisons: comparisons among them that somebody decided, ties included.
        ties: comparisons that ended in a tie.
        examples_used: examples that were trained on.
        held_out: examples that were kept aside to measure with.
        dropped: records or parts of them that were left out, by reason.
    """

    by_kind: dict[str, int]
    by_source: dict[str, int]
    comparisons: int
    ties: int
    examples_used: int
    held_out: int
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def records(self) -> int:
        """All records."""
        return sum(self.by_kind.values())


@dataclass(frozen=True, slots=True)
class Curve:
    """A metric over the run's steps; `low` and `high` are its interval, NaN is a step without a value."""

    steps: tuple[float, ...]
    values: tuple[float, ...]
    unit: str = ""
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    explanation: str = ""

    def __post_init__(self) -> None:
        for name, row in (("steps", self.steps), ("low", self.low), ("high", self.high)):
            if row is not None and len(row) != len(self.values):
                raise EvaluationError(
                    f"{name}: expected as many numbers as values has, {len(self.values)}, got {len(row)}"
                )
        if (self.low is None) != (self.high is None):
            raise EvaluationError("low, high: expected both or neither")

    @property
    def measured(self) -> tuple[tuple[float, float], ...]:
        """The (step, value) pairs that are finite."""
        return tuple((step, value) for step, value in zip(self.steps, self.values, strict=True) if math.isfinite(value))


@dataclass(frozen=True, slots=True)
class Sample:
    """What the model answered to one context before and after, with scores where there are any."""

    context: str
    before: str
    after: str
    score_before: float | None = None
    score_after: float | None = None


@dataclass(frozen=True, slots=True)
class WatchedAnswer:
    """An answer at a look during training, with its reward and a second one where there is one."""

    step: int
    text: str
    reward: float
    gold: float | None = None


@dataclass(frozen=True, slots=True)
class Watched:
    """A held-out context and the answers that it was given at the looks."""

    context: str
    answers: tuple[WatchedAnswer, ...]


@dataclass(frozen=True, slots=True)
class Climb:
    """Rewards of the held-out answers at the looks during training, against their distance from the reference.

    Attributes:
        steps: of the looks.
        divergence: KL to the reference, in nats an answer.
        reward: what is optimised.
        gold: a second reward, where there is one.
    """

    steps: tuple[int, ...]
    divergence: tuple[float, ...]
    reward: tuple[float, ...]
    gold: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class RunWarning:
    """Something to know before the figures are believed: the rule that found it, the finding, and what to do."""

    rule: str
    sentence: str
    advice: str


@dataclass(frozen=True, slots=True)
class RunReport:
    """All that a report says.

    Attributes:
        title: of the run.
        created: when, with a time zone.
        method: the training procedure's name.
        model: what was trained.
        verdict: one sentence: did it get better, by how much.
        headline: the figures that the verdict rests on, the most important first.
        feedback: what was learned from.
        curves: metrics of the run by name.
        reliability: of the reward model, the pairs by predicted probability.
        lengths: of the outputs before and after.
        samples: outputs side by side.
        score_name: what the samples' scores are.
        watched: held-out contexts with their answers at the looks during training.
        climb: what the distance from the reference bought, look by look.
        warnings: see `find_warnings`.
        environment: versions, machine, seed, wall time.
        commands: what to type to get the same run.
        config: the resolved settings.
        profile: where the time went, if that was measured.
    """

    title: str
    created: datetime
    method: str
    model: str
    verdict: str
    headline: tuple[Row, ...]
    feedback: FeedbackSummary
    curves: dict[str, Curve] = field(default_factory=dict)
    reliability: tuple[ReliabilityBin, ...] = ()
    lengths: tuple[LengthHistogram, ...] = ()
    samples: tuple[Sample, ...] = ()
    score_name: str = "reward"
    watched: tuple[Watched, ...] = ()
    climb: Climb | None = None
    warnings: tuple[RunWarning, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    config: dict[str, JsonValue] = field(default_factory=dict)
    profile: Figures | None = None

    __pydantic_config__ = ConfigDict(extra="forbid")

    def to_json(self) -> str:
        """The report as JSON.

        Numbers that JSON lacks are the strings "NaN", "Infinity" and "-Infinity"; half of a surrogate pair, which UTF-8
        lacks, becomes U+FFFD.
        """
        return json.dumps(storable(_REPORT.dump_python(self, mode="json")), ensure_ascii=False, indent=2)

    @staticmethod
    def from_json(text: str | bytes) -> RunReport:
        """The report that `to_json` wrote.

        Raises:
            EvaluationError: it is not a report, or of a version with other fields; the fields are named.
        """
        try:
            return _REPORT.validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "the document"
            raise EvaluationError(
                f"report.json: {place}: {first['msg']} ({error.error_count()} such places); "
                "expected a report of this version of plaudit, write it again with `write_report`"
            ) from error


_REPORT = TypeAdapter(RunReport)


def storable(value: Any) -> Any:
    """The value with what neither JSON nor UTF-8 can hold replaced."""
    match value:
        case dict():
            return {storable(key): storable(item) for key, item in value.items()}
        case list():
            return [storable(item) for item in value]
        case float() if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case str():
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case _:
            return value
