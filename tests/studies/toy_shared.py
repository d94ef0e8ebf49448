"""The toy study, whose arms share a number of each seed; one arm has a score that the others lack."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from plaudit.studies import Trial, TrialResult

from . import toy


def _share(seed: int, quick: bool, folder: Path) -> None:
    toy._note(f"share {seed}")
    (folder / "number.txt").write_text(str(100 + seed))


def _run(trial: Trial) -> TrialResult:
    assert trial.shared is not None
    result = toy._run(trial)
    number = float((trial.shared / "number.txt").read_text())
    return replace(result, scores={**result.scores, **({"shared": [number]} if trial.arm == "new" else {})})


STUDY = replace(toy.STUDY, name="toy-shared", module=__name__, run=_run, share=_share)
