"""Runs a study: what is declared first, every arm with every seed in a process of its own, the verdict last.

A finished trial is one JSON file, so a study that was interrupted goes on with the trials that are missing. What the study
declares, its criterion above all, is written down before the first trial, and a study that was changed since refuses to go on.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
import time
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from plaudit.errors import CheckpointError, ConfigError, TrainingError
from plaudit.progress import console, track
from plaudit.studies.catalogue import load_study
from plaudit.studies.processes import Job, cores, run_jobs
from plaudit.studies.study import Results, Study, Trial, TrialResult
from plaudit.training.config import whole
from plaudit.training.run_folder import RunFolder, environment

QUICK_SEEDS = 2


def run_study(study: Study, folder: Path, *, seeds: int | None = None, quick: bool = False) -> dict[str, Any]:
    """Run a study, or the rest of it, and decide; returns what is written to ``result.json`` beside ``plot.png``.

    Args:
        study: what to run.
        folder: where its trials and its result are kept.
        seeds: how many, from 0 on; by default the study's own number, and 2 in a quick run.
        quick: a smoke run at a small size, whose figures say nothing and are marked so.

    Raises:
        ConfigError: the folder holds another study, or this one as it was before it was changed.
        TrainingError: a trial failed; the others are kept.
    """
    if seeds is not None and not whole(seeds, 1):
        raise ConfigError(f"seeds: expected a whole number >= 1, got {seeds!r}")
    count = seeds or (QUICK_SEEDS if quick else study.seeds)
    run = RunFolder(folder)
    declared = _declare(study, run, quick)
    _run_missing(study, run, count, quick)
    results = Results({(arm, seed): _load(run, study, arm, seed, quick) for arm in study.arms for seed in range(count)})
    result = {**declared, **_decided(study, results), **_spent(study, run, count), "environment": environment()}
    run.write("result.json", json.dumps(result, indent=2, allow_nan=False) + "\n")
    study.plot(result, folder / "plot.png")
    return result


def is_complete(result: dict[str, Any], study: Study) -> bool:
    """Whether a result is the study's as declared: at full size and with all seeds."""
    return not result["quick"] and len(result["seeds"]) >= study.seeds


def _declare(study: Study, run: RunFolder, quick: bool) -> dict[str, Any]:
    """Write down what will be done and what decides, or check that it is what was written down."""
    found = find_spec(study.module)
    if found is None or found.origin is None:
        raise ConfigError(f"{study.name}: its module {study.module} has no file")
    declared = {
        "study": study.name, "arxiv": study.arxiv, "title": study.title, "quick": quick, "setting": study.setting,
        "criterion": study.criterion, "arms": list(study.arms), "metric": list(study.metric),
        "budget": asdict(study.budget), "file_sha256": hashlib.sha256(Path(found.origin).read_bytes()).hexdigest(),
    }  # fmt: skip
    file = run.path / "study.json"
    if file.is_file():
        before = json.loads(file.read_text())
        differs = [name for name, value in declared.items() if before.get(name) != value]
        if differs:
            raise ConfigError(
                f"{run.path} was begun with another {differs[0].replace('_', ' ')}: expected {before.get(differs[0])!r}, got "
                f"{declared[differs[0]]!r}. A study that has begun is not changed; give another folder with --run."
            )
    elif run.path.exists() and any(run.path.iterdir()):
        raise ConfigError(f"{run.path} holds something that is no study. Give another folder with --run.")
    (run.path / "trials").mkdir(parents=True, exist_ok=True)
    run.write("study.json", json.dumps(declared, indent=2) + "\n")
    return declared


def _run_missing(study: Study, run: RunFolder, count: int, quick: bool) -> None:
    trials = run.path / "trials"
    missing = [
        (arm, seed) for seed in range(count) for arm in study.arms if not (trials / f"{arm}-{seed}.json").is_file()
    ]
    if not missing:
        return
    prepared = [Job("prepare", _prepare, (study.module, quick))]
    shared = [
        Job(f"share-{seed}", _share, (study.module, seed, quick, _shared(run, seed)))
        for seed in sorted({seed for _, seed in missing})
        if study.share is not None and not _shared(run, seed).is_dir()
    ]
    jobs = [
        Job(f"{arm}-{seed}", _run_trial, (study.module, arm, seed, quick, trials, _shared(run, seed)))
        for arm, seed in missing
    ]
    with track(f"Study {study.name}", len(prepared) + len(shared) + len(jobs)) as bar:
        for stage in (prepared, shared, jobs):
            troubles = run_jobs(stage, at_once=cores(), limit_s=study.budget.seconds, folder=trials, ended=bar.advance)
            if troubles:
                first = next(iter(troubles))
                raise TrainingError(
                    f"{len(troubles)} of {len(stage)} processes failed. The first, {first}: {troubles[first]}. What is "
                    "finished is kept; the same command goes on from there."
                )


def _prepare(module: str, quick: bool) -> None:
    """In a process of its own."""
    console.quiet = True
    load_study(module).prepare(quick)


def _share(module: str, seed: int, quick: bool, target: Path) -> None:
    """In a process of its own."""
    console.quiet = True
    share = load_study(module).share
    assert share is not None
    target.parent.mkdir(exist_ok=True)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".running-{seed}-") as scratch:
        made = Path(scratch) / "shared"
        made.mkdir()
        share(seed, quick, made)
        (made / "seconds.json").write_text(json.dumps(time.perf_counter() - started))
        made.rename(target)


def _shared(run: RunFolder, seed: int) -> Path:
    """Where what the arms of a seed share lies."""
    return run.path / "shared" / str(seed)


def _run_trial(module: str, arm: str, seed: int, quick: bool, trials: Path, shared: Path) -> None:
    """In a process of its own."""
    console.quiet = True
    study = load_study(module)
    scratch = Path(tempfile.mkdtemp(dir=trials, prefix=f".running-{arm}-{seed}-"))
    started = time.perf_counter()
    try:
        result = study.run(Trial(arm, seed, quick, scratch, shared if study.share is not None else None))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if result.samples > study.budget.samples:
        raise ConfigError(f"samples: expected at most {study.budget.samples}, the budget, got {result.samples}")
    told = {"arm": arm, "seed": seed, "quick": quick, "seconds": time.perf_counter() - started, **asdict(result)}
    RunFolder(trials).write(f"{arm}-{seed}.json", json.dumps(told, allow_nan=False) + "\n")


def _load(run: RunFolder, study: Study, arm: str, seed: int, quick: bool) -> TrialResult:
    file = run.path / "trials" / f"{arm}-{seed}.json"
    told = json.loads(file.read_text())
    if told["quick"] != quick or told["samples"] > study.budget.samples:
        raise CheckpointError(f"{file} belongs to another run. Remove it, and the same command makes it again.")
    return TrialResult(told["scores"], told["samples"], told["figures"])


def _decided(study: Study, results: Results) -> dict[str, Any]:
    findings = study.judge(results)
    metric, unit = study.metric
    names = list(dict.fromkeys(name for trial in results.found.values() for name in trial.scores))
    return {
        "verdict": findings[0].decision,
        "seeds": list(results.seeds),
        "findings": [_finite(finding.as_json()) | {"text": str(finding.estimate)} for finding in findings],
        "scores": {
            name: {
                arm: _finite(asdict(results.mean(arm, name, unit=unit if name == metric else "")))
                for arm in study.arms
                if results.has(arm, name)
            }
            for name in names
        },
    }


def _spent(study: Study, run: RunFolder, count: int) -> dict[str, Any]:
    """Seconds of all trials and of what they share, samples, and what else each told."""
    trials = [
        json.loads((run.path / "trials" / f"{arm}-{seed}.json").read_text())
        for seed in range(count)
        for arm in study.arms
    ]
    kept = ("arm", "seed", "samples", "seconds", "figures")
    shared = [json.loads((_shared(run, seed) / "seconds.json").read_text()) for seed in range(count) if study.share]
    return {
        "core_seconds": sum(trial["seconds"] for trial in trials) + sum(shared),
        "trials": [{name: trial[name] for name in kept} for trial in trials],
    }


def _finite(value: Any) -> Any:
    """JSON has no infinity: a bound that the sample does not give is null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
