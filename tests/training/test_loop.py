"""The loop against a loop written by hand: steps, clipping, weights, looks, early stopping, and what stops it."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from plaudit.errors import CheckpointError, TrainingError
from plaudit.training import RunFolder
from plaudit.training.randomness import batch_indices

from .worlds import POINTS, Fit, Point, fit, identical, settings, state_of, timeless


def by_hand(points, config, steps: int) -> tuple[dict[str, torch.Tensor], list[float]]:
    """The same training in plain PyTorch on whole batches; returns the weights and the gradients' norms."""
    method = Fit(points)
    line = method.trainable.scorer
    optimizer = torch.optim.AdamW(
        line.parameters(),
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
    )
    norms = []
    for step in range(steps):
        batch = [points[index] for index in batch_indices(len(points), config.batch_size, step, seed=config.seed)]
        x, y, weight = (torch.tensor([getattr(point, name) for point in batch]) for name in ("x", "y", "weight"))
        loss = (weight * (line(x) - y) ** 2).sum() / weight.sum()
        optimizer.zero_grad()
        loss.backward()
        limit = config.max_grad_norm or math.inf
        norms.append(torch.nn.utils.clip_grad_norm_(line.parameters(), limit).item())
        optimizer.param_groups[0]["lr"] = config.learning_rate_at(step, steps)
        optimizer.step()
    return state_of(method), norms


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_grad_norm": 0.1},
        {"max_grad_norm": 0.0},
        {"weight_decay": 0.3, "adam_beta1": 0.7, "adam_beta2": 0.9, "adam_epsilon": 0.1},
        {"schedule": "linear", "warmup_ratio": 0.5},
        {"schedule": "constant", "warmup_ratio": 0.0, "seed": 3},
        {"batch_size": 50, "micro_batch_size": 3},
    ],
    ids=["default", "clipped", "unclipped", "adam", "linear", "constant", "one batch"],
)
def test_a_run_is_adamw_on_the_weighted_mean_clipped_as_torch_clips(tmp_path, changes):
    config = settings(**changes)
    method = Fit(POINTS)
    steps = config.steps(len(POINTS))
    fit(method, tmp_path, config)
    expected, norms = by_hand(POINTS, config, steps)
    for name, value in state_of(method).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
    rows = RunFolder(tmp_path).metrics()
    assert [row["gradient_norm"] for row in rows] == pytest.approx(norms, rel=1e-5)
    assert [row["learning_rate"] for row in rows] == [config.learning_rate_at(step, steps) for step in range(steps)]
    if changes.get("max_grad_norm") == 0.1:
        assert min(norms) > 0.1  # so that every step was clipped


def test_two_parameters_learn_the_least_squares_line(tmp_path):
    """The weighted least-squares solution by NumPy."""
    method = Fit(POINTS)
    fit(method, tmp_path, settings(batch_size=50, epochs=250, learning_rate=0.1, checkpoint_every=0))
    x, y, weight = (np.array([getattr(point, name) for point in POINTS]) for name in ("x", "y", "weight"))
    slope, height = np.polyfit(x, y, 1, w=np.sqrt(weight))
    assert state_of(method)["slope"].item() == pytest.approx(slope, abs=1e-3)
    assert state_of(method)["height"].item() == pytest.approx(height, abs=1e-3)


@pytest.mark.parametrize("size", [1, 3, 4, 100])
def test_the_size_of_a_micro_batch_changes_nothing(tmp_path, size):
    one, other = Fit(POINTS), Fit(POINTS)
    fit(one, tmp_path / "one", settings(micro_batch_size=2))
    fit(other, tmp_path / "other", settings(micro_batch_size=size))
    for name, value in state_of(one).items():
        torch.testing.assert_close(state_of(other)[name], value, rtol=1e-5, atol=1e-6)
    for row, same in zip(timeless(tmp_path / "one"), timeless(tmp_path / "other"), strict=True):
        assert same.pop("split") == row.pop("split")
        assert same == pytest.approx(row, rel=1e-5)


def test_a_micro_batch_holds_at_most_its_size(tmp_path):
    seen = []
    fit(Fit(POINTS, watch=lambda points: seen.append(len(points))), tmp_path, settings(micro_batch_size=3, epochs=1))
    assert seen == [3, 1, 3, 1, 3]


def test_a_budget_of_tokens_cuts_steps_and_looks_alike_and_changes_nothing(tmp_path):
    """Four tokens are the common one and three points."""
    seen = []
    one, other = Fit(POINTS), Fit(POINTS, watch=lambda points: seen.append(len(points)))
    changes = {"evaluate_every": 2, "epochs": 1}
    fit(one, tmp_path / "one", settings(**changes), held_out=POINTS[:5])
    fit(other, tmp_path / "other", settings(micro_batch_tokens=4, **changes), held_out=POINTS[:5])
    assert seen == [3, 1, 3, 1, 3, 2, 3, 3, 2]
    for name, value in state_of(one).items():
        torch.testing.assert_close(state_of(other)[name], value, rtol=1e-5, atol=1e-6)
    for row, same in zip(timeless(tmp_path / "one"), timeless(tmp_path / "other"), strict=True):
        assert same.pop("split") == row.pop("split")
        assert same == pytest.approx(row, rel=1e-5)


def test_metrics_are_means_over_the_examples_that_have_them(tmp_path):
    """Three points right of 0, where the fresh line is at 0.5; the other point's metric is NaN and left out."""
    points = [Point(-1, 3, weight=5), Point(1, 1.5), Point(2, 2.5), Point(3, 0.5)]
    fit(Fit(points), tmp_path, settings(batch_size=4, micro_batch_size=1), steps=1)
    (row,) = RunFolder(tmp_path).metrics()
    assert row["right_of_0"] == pytest.approx((1 + 2 + 0) / 3)
    assert row["loss"] == pytest.approx((5 * 2.5**2 + 1**2 + 2**2 + 0) / 8)
    assert row["tokens_per_s"] > 0
    assert (row["step"], row["split"]) == (1, "train")


def test_a_metric_that_no_example_has_is_left_out(tmp_path):
    fit(Fit([Point(-1, 0), Point(-2, 0)]), tmp_path, settings(), steps=1)
    (row,) = RunFolder(tmp_path).metrics()
    assert "right_of_0" not in row


def test_examples_of_weight_0_leave_no_trace_not_even_nan(tmp_path):
    clean, dirty = Fit(POINTS), Fit([*POINTS, Point(1, 5, weight=0), Point(2, -7, weight=0)])
    original = dirty.loss

    def undefined_without_weight(examples):
        loss = original(examples)
        return replace(loss, value=torch.where(loss.weight > 0, loss.value, math.nan))

    dirty.loss = undefined_without_weight
    config = settings(batch_size=50)
    fit(clean, tmp_path / "clean", config)
    fit(dirty, tmp_path / "dirty", config)
    for name, value in state_of(clean).items():
        torch.testing.assert_close(state_of(dirty)[name], value, rtol=1e-5, atol=1e-6)


def test_trackers_are_told_the_same_metrics(tmp_path):
    """Read back from TensorBoard's own files; a second training in the same process is logged as well."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for name in ("one", "two"):
        fit(Fit(POINTS), tmp_path / name, settings(trackers=("tensorboard",)), steps=3, held_out=POINTS[:2])
        (events,) = (
            path.parent for path in (tmp_path / name).rglob("events.out.tfevents.*") if path.parent.name == "plaudit"
        )
        told = EventAccumulator(str(events)).Reload()
        rows = RunFolder(tmp_path / name).metrics()
        for split in ("train", "held_out"):
            expected = [(row["step"], pytest.approx(row["loss"], rel=1e-6)) for row in rows if row["split"] == split]
            assert [(item.step, item.value) for item in told.Scalars(f"{split}/loss")] == expected


# --- what stops it --------------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    """The 5th step meets NaN; the checkpoint of step 4 is there, and the weights have not moved since."""
    config = settings(batch_size=2, epochs=1, checkpoint_every=2)
    order = [batch_indices(11, 2, step, seed=0) for step in range(6)]
    points = list(POINTS)
    points[order[4][1]] = Point(1, math.nan)
    method = Fit(points)
    with pytest.raises(
        TrainingError, match=r"Step 5: the loss is nan .*Lower learning_rate.*the last checkpoint is kept"
    ):
        fit(method, tmp_path, config)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000002", "step-00000004"]
    untouched = Fit(points)
    fit(untouched, tmp_path / "until", config, steps=6, stop_after=4)
    assert identical(state_of(method), state_of(untouched))
    assert [row["step"] for row in RunFolder(tmp_path).metrics()] == [1, 2, 3, 4]


def test_a_gradient_that_is_no_number_stops_the_run_although_the_loss_is_one(tmp_path):
    """The root of 0 has value 0 and an infinite slope."""
    method = Fit([Point(1, 0.5)])
    original = method.loss

    def steep(examples):
        loss = original(examples)
        return replace(loss, value=loss.value.sqrt())

    method.loss = steep
    with pytest.raises(TrainingError, match=r"Step 1: the loss is 0.0 and the gradient's norm (nan|inf)"):
        fit(method, tmp_path, settings(), steps=1)


def test_without_trained_weights_there_is_nothing_to_train(tmp_path):
    method = Fit(POINTS)
    method.trainable.scorer.requires_grad_(False)
    with pytest.raises(TrainingError, match="nothing to train: no parameter of the model requires a gradient"):
        fit(method, tmp_path, settings())


def test_the_module_is_handed_back_also_after_an_error(tmp_path):
    method = Fit(POINTS)
    module = method.trainable.scorer
    fit(method, tmp_path / "one", settings(epochs=1))
    assert method.trainable.scorer is module

    def stop(points):
        raise KeyboardInterrupt

    method.watch = stop
    with pytest.raises(KeyboardInterrupt):
        fit(method, tmp_path / "two", settings(epochs=1))
    assert method.trainable.scorer is module


# --- checkpoints and looks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"checkpoint_every": 1, "keep_checkpoints": 3}, [4, 5, 6]),
        ({"checkpoint_every": 2, "keep_checkpoints": 2}, [4, 6]),
        ({"checkpoint_every": 4, "keep_checkpoints": 9}, [4, 6]),
        ({"checkpoint_every": 0}, [6]),
    ],
)
def test_checkpoints_come_when_they_are_due_and_at_the_end(tmp_path, changes, kept):
    result = fit(Fit(POINTS), tmp_path, settings(**changes), steps=6)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [f"step-{step:08d}" for step in kept]
    assert (result.step, result.stopped_early) == (6, False)


@pytest.mark.parametrize(("every", "looks"), [(0, [5]), (2, [2, 4, 5]), (5, [5])])
def test_held_out_examples_are_looked_at_when_due_and_not_learned_from(tmp_path, every, looks):
    held_out = [Point(1, 4, weight=2), Point(-1, 0), Point(2, 1)]
    blind, looking = Fit(POINTS), Fit(POINTS)
    config = settings(evaluate_every=every)
    fit(blind, tmp_path / "blind", config, steps=5)
    result = fit(looking, tmp_path / "looking", config, steps=5, held_out=held_out)
    assert identical(state_of(blind), state_of(looking))
    rows = [row for row in RunFolder(tmp_path / "looking").metrics() if row["split"] == "held_out"]
    assert [row["step"] for row in rows] == looks
    slope, height = (value.item() for value in state_of(looking).values())
    errors = [(slope * point.x + height - point.y) ** 2 for point in held_out]
    expected = (2 * errors[0] + errors[1] + errors[2]) / 4
    assert result.held_out["loss"] == pytest.approx(expected, rel=1e-5) == pytest.approx(rows[-1]["loss"], rel=1e-5)


STOPPING = {
    "batch_size": 50,
    "schedule": "constant",
    "warmup_ratio": 0.0,
    "evaluate_every": 2,
    "patience": 2,
    "epochs": 40,
}
DISTANT, NEAR = [Point(0, 4.0)], [Point(0, 1.0)]


def test_early_stopping_ends_the_run_and_takes_the_best_weights(tmp_path):
    """Training pulls the height from 0.5 towards 4; held out, 1 is right. The loss there falls, then rises twice."""
    method = Fit(DISTANT)
    result = fit(method, tmp_path, settings(**STOPPING), held_out=NEAR)
    looks = {row["step"]: row["loss"] for row in RunFolder(tmp_path).metrics() if row["split"] == "held_out"}
    best = min(looks, key=looks.get)
    assert result.stopped_early
    assert result.step == best + 4 == max(looks) < 40
    alone = Fit(DISTANT)
    fit(alone, tmp_path / "until-best", settings(**STOPPING), steps=40, stop_after=best)
    assert identical(state_of(method), state_of(alone))
    assert (state_of(method)["height"].item() - 1) ** 2 == pytest.approx(looks[best], rel=1e-5)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} >= {f"step-{best:08d}"}


def test_without_patience_the_last_weights_stay(tmp_path):
    method = Fit(DISTANT)
    result = fit(method, tmp_path, settings(**{**STOPPING, "patience": 0}), held_out=NEAR)
    assert (result.step, result.stopped_early) == (40, False)
    assert state_of(method)["height"] > 1.5


def test_patience_that_never_ran_out_still_takes_the_best_weights(tmp_path):
    method = Fit(DISTANT)
    result = fit(method, tmp_path, settings(**{**STOPPING, "patience": 100}), held_out=NEAR)
    assert (result.step, result.stopped_early) == (40, False)
    looks = [row["loss"] for row in RunFolder(tmp_path).metrics() if row["split"] == "held_out"]
    assert (state_of(method)["height"].item() - 1) ** 2 == pytest.approx(min(looks), rel=1e-5)


@pytest.mark.parametrize("keep", [1, 2])
def test_the_best_checkpoint_outlives_the_newest(tmp_path, keep):
    fit(Fit(DISTANT), tmp_path, settings(**{**STOPPING, "patience": 100}, keep_checkpoints=keep), held_out=NEAR)
    state = json.loads((tmp_path / "checkpoints" / "step-00000040" / "state.json").read_text())
    best = state["progress"]["best_step"]
    kept = sorted(int(path.name[5:]) for path in (tmp_path / "checkpoints").iterdir())
    assert kept == sorted({best, *range(40, 40 - 2 * keep, -2)})


def test_a_best_checkpoint_that_was_damaged_is_not_taken(tmp_path):
    method = Fit(DISTANT)
    config = settings(**{**STOPPING, "patience": 100})
    fit(method, tmp_path, config, held_out=NEAR, stop_after=38)
    state = json.loads((tmp_path / "checkpoints" / "step-00000038" / "state.json").read_text())
    best = tmp_path / "checkpoints" / f"step-{state['progress']['best_step']:08d}" / "weights.safetensors"
    best.write_bytes(best.read_bytes()[:-1] + b"?")
    with pytest.raises(CheckpointError, match=r"is damaged: weights\.safetensors is not what was written"):
        fit(Fit(DISTANT), tmp_path, config, held_out=NEAR, resume=True)
