"""What a run would do, without doing it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import tomli_w

from plaudit.feedback.records import Feedback
from plaudit.training.run_folder import without_none
from plaudit.workflows.align import expect_learnable, views_of
from plaudit.workflows.config import AlignConfig, TrainRewardConfig, to_mapping
from plaudit.workflows.feedback_data import FeedbackData, expect_examples, open_feedback, split_view
from plaudit.workflows.online import steps_of


def plan(config: AlignConfig | TrainRewardConfig) -> str:
    """The resolved settings, the examples that the feedback gives, and the steps; the model is not loaded."""
    records = _records(config)
    data: FeedbackData[Any]
    if isinstance(config, AlignConfig):
        data, pairs = views_of(records, config)
        expect_learnable(config, data, pairs)
    else:
        data = split_view(config.pairs(records, ties=config.ties), held_out=config.held_out, seed=config.training.seed)
        expect_examples(data, held_out=config.held_out)
    return (
        f"{tomli_w.dumps(without_none(to_mapping(config)))}\n"
        f"{_amount(config, records, data)}"
        f"{''.join(f'{chr(10)}  left out: {reason}: {count}' for reason, count in data.dropped.most_common())}\n"
        f"{_work(config, len(data.train))} Nothing was trained (--dry-run)."
    )


def _records(config: AlignConfig | TrainRewardConfig) -> list[Feedback]:
    if config.feedback is None:
        return []
    with (
        tempfile.TemporaryDirectory() as folder,
        open_feedback(config.feedback, format_name=config.format, folder=Path(folder)) as store,
    ):
        return list(store.records())


def _amount(config: AlignConfig | TrainRewardConfig, records: list[Feedback], data: FeedbackData[Any]) -> str:
    sides = len(data.train), len(data.held_out)
    if isinstance(config, AlignConfig) and config.online is not None:
        source = f"{config.contexts} gives" if config.contexts is not None else f"{len(records)} records give"
        return f"{source} {sides[0]} contexts to learn on and {sides[1]} held-out ones."
    return f"{len(records)} records give {sides[0]} examples to learn from and {sides[1]} held-out ones."


def _work(config: AlignConfig | TrainRewardConfig, examples: int) -> str:
    training = config.training
    if isinstance(config, AlignConfig) and (online := config.online) is not None:
        return (
            f"{steps_of(training, online, examples)} steps, {online.steps_per_rollout} for each asking of "
            f"{online.contexts_per_rollout} contexts with {online.outputs_per_context} outputs each."
        )
    return f"{training.steps(examples)} steps of {training.batch_size} examples."
