"""Train a reward model from feedback, and report how well it predicts held-out comparisons."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from plaudit.evaluation.report import RunReport
from plaudit.feedback.examples import Pair
from plaudit.methods import EncodedPair, RewardConfig, RewardModelling, encode_pairs
from plaudit.policies import Sequence as TokenSequence
from plaudit.progress import console, track
from plaudit.rewards import RewardModel
from plaudit.sharing import from_main, is_main, join
from plaudit.training import RunFolder, TrainingConfig, train
from plaudit.training.randomness import numpy_generator
from plaudit.workflows.config import TrainRewardConfig, to_mapping
from plaudit.workflows.feedback_data import (
    FeedbackData,
    expect_examples,
    new_run_folder,
    records_of,
    split_view,
    summarise,
)
from plaudit.workflows.measure import JudgeQuality, judge_quality
from plaudit.workflows.profile import profiled_run
from plaudit.workflows.reporting import begin_report, keep_report, reward_curves


def train_reward(config: TrainRewardConfig, *, resuming: bool = False) -> RunFolder:
    """Train a reward model; its folder is ``RUN/model``, its report ``RUN/report.html``."""
    join()
    with profiled_run(config.profile, dtype=config.dtype, device=config.device):
        return _train_reward(config, resuming=resuming)


def _train_reward(config: TrainRewardConfig, *, resuming: bool) -> RunFolder:
    started = time.perf_counter()
    config = replace(config, run=config.run or from_main(lambda: new_run_folder("reward")))
    assert config.run is not None
    seed = config.training.seed
    with RunFolder.begin(config.run, {"workflow": "train reward", **to_mapping(config)}, resuming=resuming) as run:
        records = records_of(config.feedback, run, format_name=config.format, resuming=resuming)
        data = split_view(config.pairs(records, ties=config.ties), held_out=config.held_out, seed=seed)
        expect_examples(data, held_out=config.held_out)
        run.write_feedback_ids(data.record_ids)
        console.print(f"Loading {config.model} ...")
        model = RewardModel.load(config.model, **config.loading, seed=seed)
    quality = fit_reward_model(model, data, run, config.training, config.reward, resuming=resuming)
    report = begin_report(
        run,
        title="Reward model",
        method="reward",
        model=config.model,
        feedback=summarise(records, data),
        config=to_mapping(config),
        seconds=time.perf_counter() - started,
    )
    report = with_judge(report, quality, run)
    page = keep_report(report, run)
    console.print(f"{report.verdict}\nReward model: {run.model}\nReport: {page}")
    return run


def fit_reward_model(
    model: RewardModel,
    data: FeedbackData[Pair],
    run: RunFolder,
    training: TrainingConfig,
    config: RewardConfig,
    *,
    resuming: bool,
) -> JudgeQuality | None:
    """Train a fresh reward model, shift its rewards to mean 0 over the chosen outputs, save it, and measure it.

    Returns None where there are no decided held-out pairs to measure it on.
    """
    pairs, _ = encode_pairs(data.train, model.encoder)
    held_out, _ = encode_pairs(data.held_out, model.encoder)
    if not (run.model / "reward.json").is_file():
        with model.active():
            train(
                RewardModelling(model, pairs, config),
                run,
                training,
                steps=training.steps(len(pairs)),
                held_out=held_out,
                resume=resuming,
            )
        decided = [pair.chosen for pair in pairs if not pair.tie]
        model.normalise(_spread(decided, 256))
        if is_main():
            model.save(run.model)
    return measure_reward_model(model, held_out, seed=training.seed)


def measure_reward_model(model: RewardModel, encoded: Sequence[EncodedPair], *, seed: int) -> JudgeQuality | None:
    """Accuracy and calibration of a reward model on pairs it has not seen."""
    decided = [pair for pair in encoded if not pair.tie]
    if not decided:
        return None
    sequences = [pair.chosen for pair in decided] + [pair.rejected for pair in decided]
    with track("Testing the reward model", len(sequences)) as bar:
        rewards = model.reward_of(sequences, progress=bar.advance)
    difference = (rewards[: len(decided)] - rewards[len(decided) :]).numpy().astype(np.float64)
    clusters = [pair.chosen.context for pair in decided]
    return judge_quality(difference, clusters, generator=numpy_generator(seed, "judge"))


def with_judge(report: RunReport, quality: JudgeQuality | None, run: RunFolder) -> RunReport:
    """A reward model's report with its figures, curves and verdict."""
    curves = reward_curves(run)
    if quality is None:
        return replace(
            report, verdict="There were no held-out comparisons to measure the reward model with.", curves=curves
        )
    accuracy = quality.accuracy
    sure = "more often than chance" if accuracy.low > 0.5 else "not reliably more often than chance"
    return replace(
        report,
        verdict=f"The reward model predicts {accuracy} of held-out comparisons, {sure}.",
        headline=quality.rows,
        reliability=quality.reliability,
        curves=curves,
        warnings=quality.warnings(report.feedback),
    )


def _spread(items: list[TokenSequence], count: int) -> list[TokenSequence]:
    """At most `count` of the items, evenly over all of them."""
    if len(items) <= count:
        return items
    return [items[index] for index in torch.linspace(0, len(items) - 1, count).long().tolist()]
