"""Checkpoints: whole or not there, verified when read, the one before when damaged, and clear about what does not fit."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from plaudit.errors import CheckpointError
from plaudit.training import checkpoint
from plaudit.training.checkpoint import (
    Progress,
    forget_checkpoints_after,
    latest_checkpoint,
    load_checkpoint,
    load_method_state,
    prune_checkpoints,
    save_checkpoint,
)

PROGRESS = Progress(step=3, best_loss=0.25, best_step=2, looks_without_gain=1)


def trained(seed: int = 0, *, steps: int = 3) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A module with a frozen part after a few steps of AdamW."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    module[0].bias.requires_grad_(False)
    optimizer = torch.optim.AdamW([weight for weight in module.parameters() if weight.requires_grad], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        module(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()
    return module, optimizer


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_read_is_what_was_written(tmp_path):
    module, optimizer = trained()
    path = save_checkpoint(tmp_path, module, optimizer, PROGRESS, {"kept": [0.1, None]})
    assert load_method_state(path) == {"kept": [0.1, None]}
    assert names(tmp_path) == ["step-00000003"] == [path.name]
    assert names(path) == ["method.json", "optimizer.safetensors", "state.json", "weights.safetensors"]
    other, fresh = trained(1, steps=0)
    frozen = other[0].bias.clone()
    assert load_checkpoint(path, other, fresh) == PROGRESS
    for name, weight in module.named_parameters():
        assert torch.equal(other.get_parameter(name), frozen if name == "0.bias" else weight)
    for one, another in zip(optimizer.state.values(), fresh.state.values(), strict=True):
        assert one.keys() == another.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(value, another[name]) for name, value in one.items())


def test_the_next_step_after_reading_is_the_step_without(tmp_path):
    path = save_checkpoint(tmp_path, *trained(steps=3), PROGRESS)
    module, optimizer = trained(1, steps=1)
    load_checkpoint(path, module, optimizer)
    optimizer.zero_grad()
    module[0].bias.data.copy_(trained()[0][0].bias)
    module(torch.ones(1, 3)).square().sum().backward()
    optimizer.step()
    expected, _ = trained(steps=4)
    assert all(torch.equal(weight, expected.get_parameter(name)) for name, weight in module.named_parameters())


@pytest.mark.parametrize("moment", ["first file", "second file", "sync", "rename"])
def test_a_crash_while_writing_leaves_the_checkpoint_before(tmp_path, monkeypatch, moment):
    """A crash is no exception that anybody handles, so what was written so far stays behind and must not count."""
    save_checkpoint(tmp_path, *trained(), Progress(step=1))
    calls = {"count": 0}

    class Crash(BaseException):
        pass

    def crash_at(number, original):
        def replacement(*args, **options):
            calls["count"] += 1
            if calls["count"] == number:
                raise Crash
            return original(*args, **options)

        return replacement

    with monkeypatch.context() as patch:
        if moment == "rename":
            patch.setattr(Path, "rename", crash_at(1, Path.rename))
        elif moment == "sync":
            patch.setattr(checkpoint, "_sync", crash_at(1, checkpoint._sync))
        else:
            patch.setattr(checkpoint, "save_file", crash_at(1 if moment == "first file" else 2, checkpoint.save_file))
        with pytest.raises(Crash):
            save_checkpoint(tmp_path, *trained(2), Progress(step=2))
    path, damaged = latest_checkpoint(tmp_path)
    assert (path.name, damaged) == ("step-00000001", [])
    assert names(tmp_path) == [".writing-step-00000002", "step-00000001"]
    save_checkpoint(tmp_path, *trained(2), Progress(step=2))
    assert names(tmp_path) == ["step-00000001", "step-00000002"]
    assert latest_checkpoint(tmp_path)[0].name == "step-00000002"


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda path: flip_a_bit(path / "weights.safetensors"),
            "is damaged: weights.safetensors is not what was written",
        ),
        (lambda path: flip_a_bit(path / "optimizer.safetensors"), "is damaged: optimizer.safetensors is not what was"),
        (lambda path: (path / "weights.safetensors").write_bytes(b""), "is damaged: weights.safetensors"),
        (lambda path: (path / "weights.safetensors").unlink(), "is incomplete: .*No such file"),
        (lambda path: (path / "state.json").unlink(), "is incomplete: .*No such file"),
        (lambda path: (path / "state.json").write_text('{"progress": {"st'), "is incomplete"),
        (lambda path: (path / "state.json").write_text("{}"), "is incomplete: 'sha256'"),
    ],
    ids=["bit in weights", "bit in optimiser", "empty", "no weights", "no state", "cut state", "no sums"],
)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, damage, message):
    save_checkpoint(tmp_path, *trained(), Progress(step=1))
    newest = save_checkpoint(tmp_path, *trained(2), Progress(step=2))
    damage(newest)
    path, damaged = latest_checkpoint(tmp_path)
    assert path.name == "step-00000001"
    assert len(damaged) == 1
    assert re.search(f"The checkpoint {newest} {message}", damaged[0])
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(newest, *trained())


def test_without_a_whole_checkpoint_there_is_none(tmp_path):
    assert latest_checkpoint(tmp_path / "nothing") == (None, [])
    for step in (1, 2):
        flip_a_bit(save_checkpoint(tmp_path, *trained(), Progress(step=step)) / "weights.safetensors")
    path, damaged = latest_checkpoint(tmp_path)
    assert path is None
    assert len(damaged) == 2


def test_the_newest_is_the_one_of_the_highest_step(tmp_path):
    for step in (9, 10, 100):
        save_checkpoint(tmp_path, *trained(), Progress(step=step))
    assert latest_checkpoint(tmp_path)[0].name == "step-00000100"


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)), r"2 weights differ in name or shape, the first is 0\.bias"),
        (
            nn.Sequential(nn.Linear(3, 2)),
            r"differ in name or shape, the first is 0\.bias \(expected \(2,\), found None\)",
        ),
        (nn.Sequential(nn.Linear(3, 5), nn.Linear(2, 1)), r"the first is 0\.bias"),
    ],
    ids=["wider", "shorter", "other"],
)
def test_another_models_checkpoint_is_refused(tmp_path, module, message):
    path = save_checkpoint(tmp_path, *trained(), PROGRESS)
    if "2 weights" in message:
        module[0].bias.requires_grad_(False)
        message = r"2 weights differ in name or shape, the first is 0\.weight \(expected \(4, 3\), found \(2, 3\)\)"
    before = {name: weight.clone() for name, weight in module.named_parameters()}
    with pytest.raises(
        CheckpointError, match=f"The checkpoint {path} belongs to another model or LoRA setting: .*{message}"
    ):
        load_checkpoint(path, module, None)
    assert all(torch.equal(weight, before[name]) for name, weight in module.named_parameters())


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
    ids=["system", "safetensors"],
)
def test_a_full_disk_is_named_with_what_to_do(tmp_path, monkeypatch, error):
    folder = tmp_path / "run" / "checkpoints"
    save_checkpoint(folder, *trained(), Progress(step=1))

    def full(*args, **options):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        advice = rf"no space left .* in {folder}\. Free some and run: plaudit resume {tmp_path}/run$"
        with pytest.raises(CheckpointError, match=advice):
            save_checkpoint(folder, *trained(), Progress(step=2))
    assert names(folder) == ["step-00000001"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    file = tmp_path / "checkpoints"
    file.write_text("in the way")
    with pytest.raises(CheckpointError, match=f"Cannot write a checkpoint into {file}: "):
        save_checkpoint(file, *trained(), PROGRESS)


@pytest.mark.parametrize(
    ("keep", "also", "left"), [(1, None, [5]), (2, None, [4, 5]), (2, 1, [1, 4, 5]), (9, 2, [1, 2, 3, 4, 5])]
)
def test_the_newest_and_the_best_stay(tmp_path, keep, also, left):
    for step in range(1, 6):
        save_checkpoint(tmp_path, *trained(steps=1), Progress(step=step))
    prune_checkpoints(tmp_path, keep=keep, also=also)
    assert names(tmp_path) == [f"step-{step:08d}" for step in left]


def test_what_comes_after_a_step_is_forgotten(tmp_path):
    for step in (1, 2, 10):
        save_checkpoint(tmp_path, *trained(steps=1), Progress(step=step))
    (tmp_path / "step-00000010" / "state.json").write_text("damaged")
    forget_checkpoints_after(tmp_path, 1)
    assert names(tmp_path) == ["step-00000001"]
    forget_checkpoints_after(tmp_path, -1)
    assert names(tmp_path) == []


def test_nothing_in_a_checkpoint_is_pickled(tmp_path):
    path = save_checkpoint(tmp_path, *trained(), PROGRESS)
    assert json.loads((path / "state.json").read_text())["progress"]["step"] == 3
    for file in path.glob("*.safetensors"):
        length = int.from_bytes(file.read_bytes()[:8], "little")
        assert json.loads(file.read_bytes()[8 : 8 + length])
