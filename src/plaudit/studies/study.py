"""What a study is, what one arm gives, and how a claim is decided by an interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Rows
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from plaudit.errors import ConfigError
from plaudit.evaluation import (
    Estimate,
    EvaluationError,
    RankCorrelation,
    bootstrap_mean,
    paired_difference,
    rank_correlation,
)
from plaudit.studies.plot import write_plot
from plaudit.training.randomness import numpy_generator

Decision = Literal["holds", "does not hold", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Budget:
    """What one arm may use with one seed: outputs that are sampled to learn from, and seconds on one core."""

    samples: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Trial:
    """One arm with one seed.

    Attributes:
        arm: the arm.
        seed: the seed.
        quick: whether it is a smoke run's.
        folder: its own; it is removed when the trial has ended.
        shared: what the study's `share` wrote for this seed, to be read only; None where it shares nothing.
    """

    arm: str
    seed: int
    quick: bool
    folder: Path
    shared: Path | None = None

    @property
    def name(self) -> str:
        """The arm and the seed."""
        return f"{self.arm}-{self.seed}"


@dataclass(frozen=True, slots=True)
class TrialResult:
    """What a trial found.

    Attributes:
        scores: by metric, one number for each held-out example; the same examples, in the same order, for all arms of a seed
            that have the metric. An arm of which a metric says nothing leaves it out; all have the one that is shown.
        samples: outputs that it sampled to learn from.
        figures: what else is worth keeping, by name.
    """

    scores: Mapping[str, Rows[float]]
    samples: int
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Finding:
    """A claim, what was decided of it, and the interval that decided."""

    claim: str
    decision: Decision
    estimate: Estimate

    def as_json(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Results:
    """The results of all trials of a study, by arm and seed."""

    found: Mapping[tuple[str, int], TrialResult]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that were run."""
        return tuple(sorted({seed for _, seed in self.found}))

    def has(self, arm: str, metric: str) -> bool:
        """Whether an arm has a metric.

        Raises:
            ConfigError: it has it with some seeds only.
        """
        having = [seed for seed in self.seeds if metric in self.found[arm, seed].scores]
        if having and len(having) < len(self.seeds):
            raise ConfigError(f"scores of {arm}: expected {metric!r} with every seed or none, got it with {having}")
        return bool(having)

    def mean(self, arm: str, metric: str, *, unit: str = "", level: float = 0.95) -> Estimate:
        """An arm's mean over seeds and examples; whole seeds are the independent units."""
        values, seeds = self._scores(arm, metric)
        bounds = (0.0, 1.0) if unit == "share" else None
        return bootstrap_mean(
            values, clusters=seeds, unit=unit, level=level, bounds=bounds, generator=_generator(arm, metric)
        )

    def difference(self, arm: str, other: str, metric: str, *, unit: str = "", level: float = 0.95) -> Estimate:
        """The mean of arm - other, in pairs of one seed and example; whole seeds are the independent units."""
        (values, seeds), (others, _) = self._scores(arm, metric), self._scores(other, metric)
        return paired_difference(
            values, others, clusters=seeds, unit=unit, level=level, generator=_generator(arm, other, metric)
        )

    def per_seed(self, values: Rows[float], *, what: str, unit: str = "", level: float = 0.95) -> Estimate:
        """The mean of one number a seed, in the order of the seeds; for a statistic that is no mean over examples."""
        return bootstrap_mean(values, unit=unit, level=level, generator=_generator(what))

    def rank_correlation(self, arms: Rows[str], metric: str, other: str, *, level: float = 0.95) -> RankCorrelation:
        """Whether two metrics rank arms alike: of their means over seeds and examples, which are drawn within seeds."""
        rows = [[self._scores(arm, name)[0] for arm in arms] for name in (metric, other)]
        seeds = self._scores(arms[0], metric)[1]
        return rank_correlation(*rows, groups=seeds, level=level, generator=_generator(metric, other))

    def _scores(self, arm: str, metric: str) -> tuple[Rows[float], Rows[int]]:
        values, seeds = [], []
        for seed in self.seeds:
            scores = self.found[arm, seed].scores[metric]
            values.append(np.asarray(scores, dtype=np.float64))
            seeds.extend([seed] * len(scores))
        return np.concatenate(values).tolist(), seeds


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A claim of a system, and how it is tried.

    Attributes:
        name: on the command line.
        module: that holds it as STUDY.
        arxiv: number of the paper.
        title: the system's name.
        setting: data, model and budgets, in a sentence.
        criterion: what decides, in words; `judge` computes it, and the first claim that it returns decides.
        arms: what is compared.
        metric: which of the scores is shown for every arm, and its unit (see `Estimate`).
        seeds: how many the full study has.
        budget: of an arm with one seed.
        prepare: what all arms share, done before any of them; its argument is whether the run is a quick one.
        run: one arm with one seed.
        judge: the claims, decided.
        share: what all arms of one seed share, done before them; its arguments are the seed, whether the run is a quick one,
            and the folder to write into.
        plot: draws the result, as it is written to ``result.json``, into a file; by default every arm's metric.
    """

    name: str
    module: str
    arxiv: str
    title: str
    setting: str
    criterion: str
    arms: tuple[str, ...]
    metric: tuple[str, str]
    seeds: int
    budget: Budget
    prepare: Callable[[bool], None]
    run: Callable[[Trial], TrialResult]
    judge: Callable[[Results], tuple[Finding, ...]]
    share: Callable[[int, bool, Path], None] | None = None
    plot: Callable[[Mapping[str, Any], Path], None] = write_plot

    def __post_init__(self) -> None:
        if len(set(self.arms)) < max(2, len(self.arms)):
            raise ConfigError(f"arms: expected at least two different ones to compare, got {self.arms}")


def equivalent(claim: str, difference: Estimate, *, margin: float) -> Finding:
    """Two one-sided tests: equal to within a margin.

    At level 1 - 2 alpha, the interval inside (-margin, margin) rejects both "below -margin" and "above margin" at alpha
    (Schuirmann 1987). Wholly outside, the claim does not hold; else the study cannot tell.
    """
    if not margin > 0:
        raise EvaluationError(f"margin: expected a number > 0, got {margin}")
    if -margin < difference.low and difference.high < margin:
        return Finding(claim, "holds", difference)
    apart = difference.low >= margin or difference.high <= -margin
    return Finding(claim, "does not hold" if apart else "inconclusive", difference)


def ranked_alike(claim: str, found: RankCorrelation, *, least: float, alpha: float = 0.05) -> Finding:
    """Holds where the correlation is at least so large and the permutation test rejects chance.

    It does not hold where the whole interval lies below `least`; else the study cannot tell.
    """
    if found.estimate.value >= least and found.p_value < alpha:
        return Finding(claim, "holds", found.estimate)
    return Finding(claim, "does not hold" if found.estimate.high < least else "inconclusive", found.estimate)


def better(claim: str, difference: Estimate) -> Finding:
    """Above 0: the interval lies above it; below it, the claim does not hold; else the study cannot tell."""
    if difference.low > 0:
        return Finding(claim, "holds", difference)
    return Finding(claim, "does not hold" if difference.high < 0 else "inconclusive", difference)


def _generator(*names: str) -> np.random.Generator:
    return numpy_generator(0, "study", *names)
