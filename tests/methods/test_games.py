"""The methods of games: what each learns from, that runs go on bit for bit, and that halves begin at one centre."""

from __future__ import annotations

import pytest
import torch

from plaudit.errors import ConfigError
from plaudit.feedback.records import Context, Text
from plaudit.methods.egpo import EGPOConfig, egpo
from plaudit.methods.inpo import INPOConfig, inpo
from plaudit.methods.nash_md import NashMD, NashMDConfig
from plaudit.methods.nash_mp import NashMPConfig, nash_mp
from plaudit.methods.online_ipo import OnlineIPOConfig, online_ipo
from plaudit.methods.sppo import SPPOConfig, sppo
from plaudit.policies import CausalLM, LoRA, Reference
from plaudit.policies.snapshots import weights_of
from plaudit.training import RunFolder, Step, TrainingConfig, train

CONTEXTS = [Context(content=Text(text=text)) for text in ("one", "two", "three", "four")]
SMALL = {"contexts_per_rollout": 2, "max_new_tokens": 4, "rollout_batch_size": 16}


class Longer:
    """An oracle of texts: the longer beats the shorter."""

    def prefer(self, contexts, a, b):
        return [
            0.5 + 0.5 * ((len(x.text) > len(y.text)) - (len(x.text) < len(y.text))) for x, y in zip(a, b, strict=True)
        ]


MAKE = {
    "inpo": lambda *parts: inpo(*parts, INPOConfig(**SMALL, outputs_per_context=4, updates_per_rollout=2)),
    "sppo": lambda *parts: sppo(*parts, SPPOConfig(**SMALL, updates_per_rollout=2)),
    "online-ipo": lambda *parts: online_ipo(*parts, OnlineIPOConfig(**SMALL)),
    "nash-md": lambda *parts: NashMD(*parts, NashMDConfig(**SMALL)),
    "nash-ema": lambda *parts: NashMD(*parts, NashMDConfig(**SMALL, opponent="average", decay=0.5)),
    "nash-mp": lambda *parts: nash_mp(*parts, NashMPConfig(**SMALL)),
    "egpo": lambda *parts: egpo(*parts, EGPOConfig(**SMALL)),
}


def made(name, model):
    policy = CausalLM.load(model, lora=LoRA(rank=2), dtype="float32")
    return MAKE[name](policy, Reference(policy), Longer(), CONTEXTS)


TRAINING = TrainingConfig(learning_rate=1e-2, checkpoint_every=1, seed=3)


@pytest.mark.parametrize("name", MAKE)
def test_an_interrupted_run_ends_with_the_weights_of_one_that_was_not(tiny_model, tmp_path, name):
    whole = made(name, tiny_model)
    train(whole, RunFolder.create(tmp_path / "whole", {}), TRAINING, steps=5)
    parted, run = made(name, tiny_model), RunFolder.create(tmp_path / "parted", {})
    train(parted, run, TRAINING, steps=5, stop_after=3)
    again = made(name, tiny_model)
    train(again, run, TRAINING, steps=5, resume=True)
    expected, found = weights_of(whole.trainable), weights_of(again.trainable)
    assert any(bool(weight.any()) for key, weight in expected.items() if "lora_B" in key)
    assert all(torch.equal(found[key], weight) for key, weight in expected.items())


def test_the_second_half_begins_at_the_centre_with_the_same_outputs(tiny_model):
    game = made("egpo", tiny_model)
    centre = weights_of(game.trainable)
    first = game.collect(Step(0, 3, 1))
    with torch.no_grad():
        for weight in game.trainable.scorer.parameters():
            if weight.requires_grad:
                weight.add_(0.3)
    second = game.collect(Step(1, 3, 1))
    assert [played.sequences for played in second] == [played.sequences for played in first]
    assert all(torch.equal(weights_of(game.trainable)[key], weight) for key, weight in centre.items())


def test_the_knock_out_puts_the_best_first(tiny_model):
    for played in made("inpo", tiny_model).collect(Step(0, 3, 1)):
        assert played.win_rate[0] >= played.win_rate[1]


def test_settings_out_of_range():
    with pytest.raises(ConfigError, match="eta"):
        INPOConfig(beta=0.5, eta=0.3)
    with pytest.raises(ConfigError, match="eta"):
        NashMPConfig(eta=3.0)
    with pytest.raises(ConfigError, match="steps_per_half"):
        EGPOConfig(steps_per_half=2)
