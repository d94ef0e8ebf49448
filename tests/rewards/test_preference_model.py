"""A general preference model fits a circle, which Bradley and Terry's cannot; it is antisymmetric, and comes back from disk."""

from __future__ import annotations

import pytest
import torch

from plaudit.errors import CheckpointError, RewardError
from plaudit.methods.encoding import EncodedPair
from plaudit.methods.preference_modelling import PreferenceConfig, PreferenceModelling
from plaudit.policies import Sequence
from plaudit.rewards import PreferenceModel, RewardModel
from plaudit.training import RunFolder, TrainingConfig, train

SIDES = [Sequence((5, 6), (token, token + 1), (True, True)) for token in (10, 40, 90)]
CIRCLE = [EncodedPair(SIDES[i], SIDES[(i + 1) % 3]) for i in range(3)]


def fitted(model, tmp_path, planes):
    made = PreferenceModel.load(model, planes=planes, dtype="float32")
    config = TrainingConfig(learning_rate=3e-3, batch_size=3, checkpoint_every=0)
    method = PreferenceModelling(made, CIRCLE, PreferenceConfig())
    train(method, RunFolder.create(tmp_path / str(planes), {}), config, steps=60)
    return made


def chances(model):
    return model.preference_of([pair.chosen for pair in CIRCLE], [pair.rejected for pair in CIRCLE])


def test_a_circle(tiny_model, tmp_path):
    circle, line = fitted(tiny_model, tmp_path, 2), fitted(tiny_model, tmp_path, 0)
    assert bool((chances(circle) > 0.8).all())
    assert chances(line).logit().sum().abs() < 1e-4  # whatever was learned, three differences of rewards add up to 0
    for model in (circle, line):
        folder = tmp_path / f"saved-{model.planes}"
        model.save(folder)
        again = PreferenceModel.load(folder, dtype="float32")
        assert again.planes == model.planes
        assert torch.equal(chances(again), chances(model))
        with pytest.raises(CheckpointError, match=f"holds a model of {model.planes} planes, and 3 were expected"):
            PreferenceModel.load(folder, dtype="float32", planes=3)


def test_swapping_the_outputs_turns_the_sign(tiny_model):
    model = PreferenceModel.load(tiny_model, dtype="float32")
    forward, backward = model.logits(SIDES[:2], SIDES[1:]), model.logits(SIDES[1:], SIDES[:2])
    torch.testing.assert_close(forward, -backward, atol=1e-6, rtol=0)


def test_it_gives_no_reward(tiny_model):
    with pytest.raises(RewardError, match="which gives no reward"):
        RewardModel.load(tiny_model, dtype="float32", dimensions=5).reward_of(SIDES)
