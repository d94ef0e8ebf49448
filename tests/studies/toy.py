"""A study that takes no time, for the harness: arms of known means; some seeds fail or hang where a file says so."""

from __future__ import annotations

import os
import time
from pathlib import Path

from plaudit.studies import Budget, Finding, Results, Study, Trial, TrialResult, better, equivalent

MEANS = {"old": 0.5, "new": 0.52, "good": 0.9}


def _note(text: str) -> None:
    with (Path(os.environ["TOY_FOLDER"]) / "calls.txt").open("a") as file:
        file.write(f"{text}\n")


def _prepare(quick: bool) -> None:
    _note("prepare")


def _run(trial: Trial) -> TrialResult:
    _note(f"{trial.name} {os.environ['OMP_NUM_THREADS']}")
    folder = Path(os.environ["TOY_FOLDER"])
    (trial.folder / "scratch.txt").write_text("gone afterwards")
    if (folder / f"fail-{trial.name}").exists():
        raise ValueError("the engine crashed")
    if (folder / f"hang-{trial.name}").exists():
        time.sleep(600)
    values = [MEANS[trial.arm] + 0.001 * trial.seed * (trial.arm == "new") + 0.1 * example for example in range(4)]
    samples = 11 if (folder / f"greedy-{trial.name}").exists() else 10
    own = {"bonus": [0.5, 1.5]} if trial.arm == "good" else {}
    return TrialResult({"score": values, **own}, samples, {"before": 0.25})


def _judge(results: Results) -> tuple[Finding, ...]:
    return (
        equivalent("new is like old", results.difference("new", "old", "score", level=0.9), margin=0.05),
        better("new is above good", results.difference("new", "good", "score")),
    )


STUDY = Study(
    name="toy", module=__name__, arxiv="0000.00000", title="Toy — a study", setting="Four examples.",
    criterion="Within 0.05.", arms=tuple(MEANS), metric=("score", ""), seeds=3,
    budget=Budget(samples=10, seconds=300), prepare=_prepare, run=_run, judge=_judge,
)  # fmt: skip
