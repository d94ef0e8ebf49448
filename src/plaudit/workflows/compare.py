"""Compare finished or running runs by their looks: at the last one, and at equal distance from the model before."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from plaudit.errors import ConfigError
from plaudit.evaluation import Checkpoints, EvaluationError, bootstrap_mean, matched_divergence, paired_difference
from plaudit.evaluation.report.comparison import AgainstFirst, ComparedRun, RunComparison, write_comparison
from plaudit.evaluation.report.run_report import RunWarning
from plaudit.methods import ONLINE
from plaudit.training import RunFolder
from plaudit.training.randomness import numpy_generator
from plaudit.workflows.looks import FILE

_HOW_SAMPLED = ("max_new_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop")
_SAME_CONTEXTS = "Give all runs the same contexts, training.seed, held_out and evaluation.contexts_at_looks"


@dataclass(frozen=True)
class Looked:
    """A run's looks as they lie in its folder.

    Attributes:
        name: the folder's name.
        config: the resolved settings.
        looks: by step and then by context, the answers with their rewards.
        mean_divergence: the mean KL of each step, as the run's metrics have it.
    """

    name: str
    config: Mapping[str, Any]
    looks: Mapping[int, Mapping[str, Sequence[Mapping[str, Any]]]]
    mean_divergence: Mapping[int, float]

    @classmethod
    def read(cls, path: Path) -> Looked:
        """What `plaudit align` left.

        Raises:
            CheckpointError: the folder is no run.
            ConfigError: it has fewer than two looks, or they measured no distance; the message names the setting to change.
        """
        run, config = RunFolder.open(path), RunFolder.open(path).config
        method, file = config.get("method"), path / FILE
        if method not in ONLINE:
            raise ConfigError(
                f"{path}: expected a run of a method that looks at its own answers ({', '.join(ONLINE)}), got "
                f"{method or config.get('workflow')}, which samples none while it learns. `plaudit evaluate` compares its model"
            )
        looks: dict[int, dict[str, list[Any]]] = {}
        for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
            row = json.loads(line)
            looks.setdefault(row["step"], {})[row["context"]] = row["answers"]
        if len(looks) < 2:
            raise ConfigError(
                f"{path}: expected at least two looks at held-out contexts, got {len(looks)}; run it again with "
                "--training.evaluate-every at most half its steps"
            )
        nats = {row["step"]: row["kl"] for row in run.metrics() if row["split"] == "held_out" and "kl" in row}
        if looks.keys() - nats.keys():
            raise ConfigError(
                f"{path}: expected looks that measure the distance from the model before; run it again with adapters (without "
                "--full), or with the method's kl_coefficient above 0"
            )
        return cls(path.resolve().name, config, looks, nats)

    @property
    def contexts(self) -> frozenset[str]:
        """All that were asked at some look."""
        return frozenset(context for look in self.looks.values() for context in look)

    def known(self, score: str) -> frozenset[str]:
        """The contexts with an answer that has this score, at every look."""
        found = [
            {context for context, answers in look.items() if any(score in answer for answer in answers)}
            for look in self.looks.values()
        ]
        return frozenset.intersection(*map(frozenset, found))

    def scores(self, score: str, contexts: Sequence[str]) -> np.ndarray:
        """Means over the answers that have it, "C P"."""
        return np.array(
            [
                [fmean(one[score] for one in look[context] if score in one) for context in contexts]
                for look in self._ordered
            ]
        )

    def divergence(self, contexts: Sequence[str]) -> np.ndarray:
        """Mean log-ratios of the answers, "C P"; of a look that did not keep them, its mean stands for every context."""

        def of(step: int, answers: Sequence[Mapping[str, Any]]) -> float:
            kept = [one["log_ratio"] for one in answers if "log_ratio" in one]
            return fmean(kept) if kept else self.mean_divergence[step]

        return np.array([[of(step, self.looks[step][context]) for context in contexts] for step in self.steps])

    @property
    def steps(self) -> tuple[int, ...]:
        """Of the looks."""
        return tuple(sorted(self.looks))

    @property
    def _ordered(self) -> list[Mapping[str, Sequence[Mapping[str, Any]]]]:
        return [self.looks[step] for step in self.steps]


def compare(paths: Sequence[Path], folder: Path, *, seed: int = 0) -> tuple[RunComparison, Path]:
    """Compare runs with the first of them, and write the pages.

    The score is the second reward (gold) where all runs have the same one, else the reward that was optimised, if that is
    the same. Only contexts that every run answered and could have judged at every look count.

    Args:
        paths: the runs' folders, at least two.
        folder: where compare.html, compare.md and compare.json go.
        seed: of the intervals.

    Returns:
        The comparison, and the path of the page.

    Raises:
        CheckpointError: a folder is no run.
        ConfigError: the runs cannot be compared; the message names what they differ in, or what to turn on.
    """
    if len(paths) < 2 or len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError(f"runs: expected at least two different ones, got {', '.join(map(str, paths)) or 'none'}")
    runs = _named([Looked.read(path) for path in paths], paths)
    score, score_name = _score(runs)
    _expect_same(runs, "model", "the same start, which the KL is measured to")
    contexts = _contexts(runs, score)
    made = RunComparison(
        created=datetime.now(UTC),
        score_name=score_name,
        contexts=len(contexts),
        runs=tuple(_compared(run, score, contexts, seed) for run in runs),
        settings=_differences(runs),
        against_first=tuple(_against(run, runs[0], score, contexts, seed) for run in runs[1:]),
        warnings=tuple(_warnings(runs, score, len(contexts))),
    )
    return made, write_comparison(made, folder)[0]


def _named(runs: list[Looked], paths: Sequence[Path]) -> list[Looked]:
    """Runs whose folders have the same name are told apart by their whole path."""
    names = [run.name for run in runs]
    return [
        run if names.count(run.name) == 1 else Looked(str(path), run.config, run.looks, run.mean_divergence)
        for run, path in zip(runs, paths, strict=True)
    ]


def _score(runs: Sequence[Looked]) -> tuple[str, str]:
    """Which reward is in all runs, and what it is called."""
    for name, setting, told in (("gold", "gold", "the second reward (gold)"), ("reward", "reward", "the reward")):
        if len({_source(run, setting) for run in runs}) == 1 and all(run.known(name) for run in runs):
            return name, told
    told = "; ".join(
        f"{run.name}: reward {_text(run.config.get('reward'))}, gold {_text(run.config.get('gold'))}" for run in runs
    )
    raise ConfigError(
        f"reward: expected runs that the same reward judged, got {told}. Give all of them one --gold, or one --reward that is "
        "a folder or a function (train makes each run a reward model of its own)"
    )


def _source(run: Looked, setting: str) -> str:
    """What tells a reward from another; one that was trained in the run is its own."""
    value = run.config.get(setting)
    if value is None or value == "train":
        return f"{value} {run.name}"
    return str(value) if str(value).startswith("python:") else str(Path(str(value)).expanduser().resolve())


def _expect_same(runs: Sequence[Looked], setting: str, what: str) -> None:
    first = runs[0].config.get(setting)
    for run in runs[1:]:
        if run.config.get(setting) != first:
            raise ConfigError(
                f"{setting}: expected {what}, got {_text(first)} in {runs[0].name} and {_text(run.config.get(setting))} in "
                f"{run.name}"
            )


def _contexts(runs: Sequence[Looked], score: str) -> list[str]:
    first = runs[0]
    for run in runs[1:]:
        if run.contexts != first.contexts:
            shared = len(run.contexts & first.contexts)
            raise ConfigError(
                f"contexts: expected the same held-out contexts at the looks of all runs, got {len(first.contexts)} in "
                f"{first.name} and {len(run.contexts)} in {run.name}, of which {shared} are the same. {_SAME_CONTEXTS}"
            )
    known = frozenset.intersection(*(run.known(score) for run in runs))
    if len(known) < 2:
        raise ConfigError(
            f"contexts: expected at least two that every run answered and that {score} could judge at every look, got "
            f"{len(known)}; raise evaluation.contexts_at_looks or evaluation.outputs_per_context"
        )
    return sorted(known)


def _compared(run: Looked, score: str, contexts: Sequence[str], seed: int) -> ComparedRun:
    scores, nats = run.scores(score, contexts), run.divergence(contexts)
    generator = numpy_generator(seed, "compare", run.name)
    return ComparedRun(
        run.name,
        str(run.config["method"]),
        run.steps,
        tuple(nats.mean(1).tolist()),
        tuple(scores.mean(1).tolist()),
        bootstrap_mean(scores[-1], generator=generator),
        bootstrap_mean(nats[-1], generator=generator, unit="nats"),
    )


def _against(run: Looked, first: Looked, score: str, contexts: Sequence[str], seed: int) -> AgainstFirst:
    generator = numpy_generator(seed, "compare", first.name, run.name)
    both = [one.scores(score, contexts) for one in (run, first)]
    last = paired_difference(both[0][-1], both[1][-1], generator=generator)
    try:
        sides = [
            [Checkpoints.of(one.divergence(contexts), values)] for one, values in zip((run, first), both, strict=True)
        ]
        return AgainstFirst(run.name, last, matched_divergence(sides[0], sides[1], generator=generator))
    except EvaluationError as error:
        return AgainstFirst(run.name, last, None, str(error))


def _differences(runs: Sequence[Looked]) -> dict[str, tuple[str, ...]]:
    """Settings that differ, without the runs' folders and the sections of methods that none of them uses."""
    flat = [_flat(run.config) for run in runs]
    names = dict.fromkeys(name for values in flat for name in values)
    rows = {name: tuple(_text(values.get(name)) for values in flat) for name in names if name != "run"}
    return {name: values for name, values in rows.items() if len(set(values)) > 1}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found


def _warnings(runs: Sequence[Looked], score: str, contexts: int) -> list[RunWarning]:
    found = []
    if score == "reward":
        found.append(
            RunWarning(
                "compared by the reward that was optimised",
                "A run that games its reward looks better here than it is.",
                "Give all runs the same second reward (--gold), which they do not climb.",
            )
        )
    evaluation = [run.config.get("evaluation", {}) for run in runs]
    unequal = [name for name in _HOW_SAMPLED if len({_text(one.get(name)) for one in evaluation}) > 1]
    if unequal:
        found.append(
            RunWarning(
                "sampled unequally",
                f"The runs answered with different evaluation.{', evaluation.'.join(unequal)}.",
                "Differences between them are those of the sampling as well.",
            )
        )
    if any(not math.isclose(one.get("temperature", 1.0), 1.0) for one in evaluation):
        found.append(
            RunWarning(
                "no KL",
                "Answers that are not sampled at temperature 1 do not measure the KL of the model itself.",
                "Look with evaluation.temperature 1.",
            )
        )
    asked = len(runs[0].contexts)
    if contexts < asked:
        found.append(
            RunWarning(
                "contexts left out",
                f"{asked - contexts} of {asked} held-out contexts have a look without an answer that could be judged.",
                "If that is because a run learned to give such answers, its score flatters it.",
            )
        )
    return found


def _text(value: Any) -> str:
    return "none" if value is None else str(value)
