"""Continue a run that was interrupted, from its folder alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from plaudit.errors import CheckpointError
from plaudit.training import RunFolder
from plaudit.workflows.align import align
from plaudit.workflows.config import AlignConfig, TrainRewardConfig, read_config
from plaudit.workflows.train_reward import train_reward


def resume(path: Path) -> RunFolder:
    """Continue the run in `path`; a run that is finished only writes its report again.

    Raises:
        CheckpointError: `path` is no run, or the run's feedback is gone.
    """
    values = RunFolder.open(path).config
    workflow = values.pop("workflow", None)
    match workflow:
        case "align":
            return align(replace(read_config(AlignConfig, values), run=path), resuming=True).run
        case "train reward":
            return train_reward(replace(read_config(TrainRewardConfig, values), run=path), resuming=True)
        case "demo":
            from plaudit.workflows.demo import DemoConfig, demo

            return demo(replace(read_config(DemoConfig, values), run=path), resuming=True).run
    raise CheckpointError(f"{path}/config.toml does not say what kind of run this is (workflow = {workflow!r}).")
