"""What a run would do, without doing it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import tomli_w

from plaudit.feedback import views
from plaudit.training.run_folder import without_none
from plaudit.workflows.config import AlignConfig, TrainRewardConfig, to_mapping
from plaudit.workflows.feedback_data import expect_examples, open_feedback, split_view


def plan(config: AlignConfig | TrainRewardConfig) -> str:
    """The resolved settings, the examples that the feedback gives, and the steps; the model is not loaded."""
    with (
        tempfile.TemporaryDirectory() as folder,
        open_feedback(config.feedback, format_name=config.format, folder=Path(folder)) as store,
    ):
        records = list(store.records())
    if isinstance(config, AlignConfig) and config.method == "sft":
        data = split_view(views.demonstrations(records), held_out=config.held_out, seed=config.training.seed)
        train, held_out, dropped = len(data.train), len(data.held_out), data.dropped
        expect_examples(data, held_out=config.held_out)
    else:
        ties = config.ties if isinstance(config, TrainRewardConfig) else "drop"
        made = config.pairs(records, ties=ties)
        pairs = split_view(made, held_out=config.held_out, seed=config.training.seed)
        train, held_out, dropped = len(pairs.train), len(pairs.held_out), pairs.dropped
        expect_examples(pairs, held_out=config.held_out)
    left_out = "".join(f"\n  left out: {reason}: {count}" for reason, count in dropped.most_common())
    return (
        f"{tomli_w.dumps(without_none(to_mapping(config)))}\n"
        f"{len(records)} records give {train} examples to learn from and {held_out} held-out ones.{left_out}\n"
        f"{config.training.steps(train)} steps of {config.training.batch_size} examples. Nothing was trained (--dry-run)."
    )
