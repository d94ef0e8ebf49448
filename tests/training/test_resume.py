"""An interrupted run goes on as if nothing had happened: the same bits at every step, whatever the crash left behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from plaudit.errors import CheckpointError
from plaudit.policies import CausalLM, LoRA
from plaudit.training.loop import console

from .worlds import LM_SETTINGS, LM_STEPS, POINTS, Fit, Point, dpo_run, fit, identical, settings, state_of, timeless

STEPS = 9
HELD_OUT = [Point(1.5, 0.5), Point(-1, 2)]


class Interruption(BaseException):
    """What a process that is killed does: nothing any more."""


def interrupt_after(portions: int) -> Callable[[object], None]:
    """A watch that ends the process in its next portion."""
    seen = []

    def watch(points) -> None:
        seen.append(points)
        if len(seen) > portions:
            raise Interruption

    return watch


@pytest.fixture(params=["looks", "noise"])
def world(request) -> dict:
    """Settings of a run; with noise, the forward pass draws from the global generator."""
    return {
        "looks": {"config": settings(checkpoint_every=2, evaluate_every=3, patience=9), "held_out": HELD_OUT},
        "noise": {"config": settings(checkpoint_every=1), "noise": 0.5},
    }[request.param]


def run(folder: Path, world: dict, *, watch=lambda points: None, **options) -> Fit:
    method = Fit(POINTS, watch=watch, noise=world.get("noise", 0.0))
    fit(method, folder, world["config"], steps=STEPS, held_out=world.get("held_out", ()), **options)
    return method


@pytest.mark.parametrize("step", range(STEPS + 1))
def test_a_run_left_after_any_step_goes_on_bit_identically(tmp_path, world, step):
    whole = run(tmp_path / "whole", world)
    run(tmp_path / "left", world, stop_after=step)
    torch.manual_seed(step)  # a new process has another state
    resumed = run(tmp_path / "left", world, resume=True)
    assert identical(state_of(resumed), state_of(whole))
    assert timeless(tmp_path / "left") == timeless(tmp_path / "whole")


@pytest.mark.parametrize("portions", range(0, 18, 2))
def test_a_run_killed_within_any_step_goes_on_bit_identically(tmp_path, world, portions):
    """Metrics written after the last checkpoint are forgotten, their steps are done again."""
    whole = run(tmp_path / "whole", world)
    with pytest.raises(Interruption):
        run(tmp_path / "killed", world, watch=interrupt_after(portions))
    resumed = run(tmp_path / "killed", world, resume=True)
    assert identical(state_of(resumed), state_of(whole))
    assert timeless(tmp_path / "killed") == timeless(tmp_path / "whole")


def test_a_run_can_be_interrupted_again_and_again(tmp_path, world):
    whole = run(tmp_path / "whole", world)
    for step in range(STEPS):
        run(tmp_path / "often", world, resume=step > 0, stop_after=step)
    assert identical(state_of(run(tmp_path / "often", world, resume=True)), state_of(whole))
    assert timeless(tmp_path / "often") == timeless(tmp_path / "whole")


def test_a_finished_run_is_left_as_it_is(tmp_path, world):
    whole = run(tmp_path, world)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*")}
    metrics = (tmp_path / "metrics.jsonl").read_text()
    again = run(tmp_path, world, resume=True)
    assert identical(state_of(again), state_of(whole))
    assert (tmp_path / "metrics.jsonl").read_text() == metrics
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*")} == before


def test_a_run_that_stopped_early_stays_stopped(tmp_path):
    """It was interrupted after its training; the resumed run takes the same best weights and trains no further."""
    config = settings(batch_size=50, schedule="constant", evaluate_every=2, patience=2, checkpoint_every=3)

    def stopping(folder, **options):
        method = Fit([Point(0, 4.0)])
        return method, fit(method, folder, config, steps=40, held_out=[Point(0, 1.0)], **options)

    method, result = stopping(tmp_path / "one")
    assert result.stopped_early
    metrics = timeless(tmp_path / "one")
    again, resumed = stopping(tmp_path / "one", resume=True)
    assert (resumed.step, resumed.stopped_early) == (result.step, True)
    assert identical(state_of(again), state_of(method))
    assert timeless(tmp_path / "one") == metrics
    for step in range(1, result.step):
        stopping(tmp_path / str(step), stop_after=step)
        later, resumed = stopping(tmp_path / str(step), resume=True)
        assert (resumed.step, resumed.stopped_early) == (result.step, True)
        assert identical(state_of(later), state_of(method))
        assert timeless(tmp_path / str(step)) == metrics


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("damaged", [1, 2])
def test_damaged_checkpoints_give_way_to_older_ones_and_are_said_so(tmp_path, monkeypatch, keep, damaged):
    """With one checkpoint kept there may be none left, and the run begins again; either way it ends with the same bits."""
    world = {"config": settings(checkpoint_every=2, keep_checkpoints=keep)}
    whole = run(tmp_path / "whole", world)
    with pytest.raises(Interruption):
        run(tmp_path / "broken", world, watch=interrupt_after(11))
    found = sorted((tmp_path / "broken" / "checkpoints").iterdir(), reverse=True)
    for path in found[:damaged]:
        (path / "weights.safetensors").write_bytes(b"not this")
    said = []
    monkeypatch.setattr(console, "print", lambda text, **_: said.append(text))
    with pytest.raises(Interruption):  # once more, before the damaged checkpoint's step is reached again
        run(tmp_path / "broken", world, resume=True, watch=interrupt_after(2))
    left = found[damaged:]
    instead = left[0].name if left else "the beginning"
    assert [f"Taking {instead} instead" in text for text in said if "is damaged" in text] == [True] * min(damaged, keep)
    assert all(path.name <= instead for path in (tmp_path / "broken" / "checkpoints").iterdir()) or not left
    resumed = run(tmp_path / "broken", world, resume=True)
    assert identical(state_of(resumed), state_of(whole))
    assert timeless(tmp_path / "broken") == timeless(tmp_path / "whole")


def test_new_checkpoints_are_kept_although_a_damaged_one_has_a_higher_step(tmp_path):
    """It would count as the newest, and with one checkpoint kept every new one would be removed at once."""
    world = {"config": settings(checkpoint_every=2, keep_checkpoints=1)}
    run(tmp_path, world, stop_after=6)
    (tmp_path / "checkpoints" / "step-00000006" / "weights.safetensors").unlink()
    run(tmp_path, world, resume=True, stop_after=3)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]


def test_without_a_checkpoint_a_run_begins(tmp_path, world):
    whole = run(tmp_path / "whole", world)
    assert identical(state_of(run(tmp_path / "fresh", world, resume=True)), state_of(whole))


# --- language models ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit"])
@pytest.mark.parametrize("lora", [None, LoRA(rank=2), LoRA(rank=2, dora=True)], ids=["full", "lora", "dora"])
def test_a_language_models_run_goes_on_bit_identically_after_every_step(tiny_model, tmp_path, lora, optimizer):
    run = partial(dpo_run, tiny_model, lora=lora, config=replace(LM_SETTINGS, optimizer=optimizer))
    whole = run(folder=tmp_path / "whole")
    untrained = CausalLM.load(tiny_model, lora=lora, dtype="float32").scorer
    assert not identical(whole, {name: untrained.get_parameter(name) for name in whole})
    for step in range(1, LM_STEPS):
        run(folder=tmp_path / str(step), stop_after=step)
        assert identical(run(folder=tmp_path / str(step), resume=True), whole)


def test_a_run_with_other_adapters_cannot_go_on(tiny_model, tmp_path):
    dpo_run(tiny_model, tmp_path, LoRA(rank=2), stop_after=1)
    with pytest.raises(CheckpointError, match=r"belongs to another model or LoRA setting: 28 weights differ .*lora_A"):
        dpo_run(tiny_model, tmp_path, LoRA(rank=3), resume=True)
