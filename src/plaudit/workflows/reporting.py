"""A run's figures as a report: the verdict, the curves, the samples and the warnings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from plaudit.evaluation.report import Curve, FeedbackSummary, Row, RunReport, Sample, find_warnings, write_report
from plaudit.profiling import active
from plaudit.sharing import is_main
from plaudit.training import RunFolder
from plaudit.training.run_folder import environment, without_none
from plaudit.workflows.measure import Answers, Comparison, JudgeQuality, Optimised
from plaudit.workflows.profile import keep_profile


def begin_report(
    run: RunFolder,
    *,
    title: str,
    method: str,
    model: str,
    feedback: FeedbackSummary,
    config: Mapping[str, Any],
    seconds: float,
) -> RunReport:
    """A report with all but the figures, and with those of the profile that is going on."""
    facts = environment()
    profile = active()
    about = {
        "machine": facts["machine"],
        "Python": facts["python"],
        **facts["packages"],
        "seed": str(config.get("training", config).get("seed", 0)),
        "wall time": f"{seconds / 60:.1f} minutes",
    }
    return RunReport(
        title=title,
        created=datetime.now(UTC),
        method=method,
        model=model,
        verdict="",
        headline=(),
        feedback=feedback,
        environment=about,
        commands=(f"plaudit {config.get('workflow', 'align')} --config {run.path}/config.toml --run NEW_FOLDER",),
        config=without_none(config),
        profile=None if profile is None else profile.figures(),
    )


def keep_report(report: RunReport, run: RunFolder) -> Path:
    """Write a report into its run's folder, and its profile into the metrics where it has one; returns the page.

    Of several processes the main one does.
    """
    if not is_main():
        return run.path / "report.html"
    page, _ = write_report(report, run.path)
    keep_profile(report, run)
    return page


def with_comparison(
    report: RunReport,
    comparison: Comparison | None,
    answers: Answers | None,
    *,
    judge: JudgeQuality | None = None,
    implicit: Row | None = None,
    optimised: Optimised | None = None,
    samples: int = 8,
) -> RunReport:
    """Add how the answers changed, the judge's worth, and the policy's own accuracy on held-out pairs or its reward's gain."""
    gain, gold = (optimised.gain, optimised.gold) if optimised else (None, None)
    itself = optimised is not None and optimised.judges
    headline = [
        *(comparison.rows if comparison else ()),
        *([gain] if gain else ()),
        *([gold] if gold else ()),
        *([implicit] if implicit else ()),
        *(judge.rows if judge else ()),
    ]
    warnings = find_warnings(
        headline=headline,
        feedback=report.feedback,
        proxy_reward_change=gain.estimate if gain else comparison.reward_change if comparison else None,
        utility=(comparison.utility or gold or comparison.win_rate) if comparison else None,
        divergence=comparison.divergence if comparison else None,
        lengths=comparison.lengths if comparison else None,
        length_controlled=comparison.length_controlled if comparison else None,
        overconfidence=judge.overconfidence if judge else None,
        judged_by_itself=itself,
        not_judged=optimised.not_judged if optimised else 0.0,
        hacking=optimised.hacking if optimised else None,
    )
    return replace(
        report,
        verdict=_verdict(headline) + " That is by the reward that was optimised; no other judge was asked." * itself,
        headline=tuple(headline),
        reliability=judge.reliability if judge else (),
        lengths=(comparison.histogram,) if comparison else (),
        samples=_samples(answers, comparison, samples) if answers and comparison else (),
        score_name=comparison.score_name if comparison else "reward",
        warnings=warnings,
    )


def training_curves(run: RunFolder) -> dict[str, Curve]:
    """Loss, accuracy, rewards and the like over the steps of a run."""
    rows = run.metrics()
    named = {
        ("train", "sampled_reward"): "Reward of the sampled outputs",
        ("train", "not_judged"): "Sampled outputs that could not be judged",
        ("train", "no_contrast"): "Groups whose rewards are all equal",
        ("train", "sampled_finished"): "Sampled outputs that ended by themselves",
        ("train", "sampled_length"): "Length of the sampled outputs",
        ("train", "sampled_entropy"): "Entropy of the sampled outputs, per token",
        ("held_out", "reward"): "Held-out reward",
        ("held_out", "gold"): "Held-out second reward (gold)",
        ("held_out", "length"): "Length of held-out answers",
        ("train", "kl"): "KL to the model before, per output",
        ("held_out", "kl"): "KL of held-out answers to the model before",
        ("train", "loss"): "Training loss",
        ("held_out", "loss"): "Held-out loss",
        ("train", "accuracy"): "Training accuracy",
        ("held_out", "accuracy"): "Held-out accuracy",
        ("train", "reward_margin"): "Reward margin, chosen minus rejected",
        ("train", "gradient_norm"): "Gradient norm before clipping",
    }
    shares = ("accuracy", "not_judged", "no_contrast", "sampled_finished")
    units = {
        "loss": "nats",
        "kl": "nats",
        "sampled_entropy": "nats",
        "sampled_length": "tokens",
        "length": "tokens",
        **dict.fromkeys(shares, "share"),
    }
    curves = {}
    for (split, metric), name in named.items():
        points = [(row["step"], row[metric]) for row in rows if row["split"] == split and metric in row]
        if len(points) > 1:
            steps, values = zip(*points, strict=True)
            curves[name] = Curve(tuple(map(float, steps)), tuple(map(float, values)), unit=units.get(metric, ""))
    return curves


def reward_curves(run: RunFolder) -> dict[str, Curve]:
    """The same of a reward model's training, named as such."""
    return {f"Reward model: {name[0].lower()}{name[1:]}": curve for name, curve in training_curves(run).items()}


def _verdict(headline: list[Row]) -> str:
    """One sentence from the first figure that a change can be read off."""
    for row in headline:
        if row.null is None or row.better is None:
            continue
        match row.reading:
            case "better":
                return f"The model got better: {row.name[0].lower()}{row.name[1:]} {row.estimate}."
            case "worse":
                return f"The model got worse: {row.name[0].lower()}{row.name[1:]} {row.estimate}."
            case _:
                return f"No clear change: {row.name[0].lower()}{row.name[1:]} {row.estimate} includes no change."
    return "Nothing was measured that shows a change."


def _samples(answers: Answers, comparison: Comparison, count: int) -> tuple[Sample, ...]:
    """Evenly spread over the contexts, whatever their scores, so that nothing is picked to please."""
    rows = answers.rows
    places = [index * len(rows) // min(count, len(rows)) for index in range(min(count, len(rows)))]
    return tuple(
        Sample(
            context=rows[place][0].text,
            before=rows[place][1].text,
            after=rows[place][2].text,
            score_before=comparison.before_scores[place] if comparison.before_scores else None,
            score_after=comparison.after_scores[place] if comparison.after_scores else None,
        )
        for place in places
    )
