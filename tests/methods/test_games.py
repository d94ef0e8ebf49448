"""The methods of games: what each learns from, that runs go on bit for bit, and that halves begin at one centre."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

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
from plaudit.policies import CausalLM, LoRA, Reference, Sampling
from plaudit.policies.mixtures import GeometricMixture
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


class LowTokens:
    """An oracle of token ids: who has the larger share of tokens below 130 wins."""

    def prefer(self, contexts, a, b):
        ahead = [share_of_low(x.content.ids) - share_of_low(y.content.ids) for x, y in zip(a, b, strict=True)]
        return [0.5 + 0.5 * ((gap > 0) - (gap < 0)) for gap in ahead]


def share_of_low(ids):
    return sum(token < 130 for token in ids) / max(1, len(ids))


PLENTY = {"contexts_per_rollout": 4, "max_new_tokens": 4, "rollout_batch_size": 64}
LEARNING = {
    "inpo": lambda *parts: inpo(*parts, INPOConfig(**PLENTY, outputs_per_context=8, updates_per_rollout=1)),
    "sppo": lambda *parts: sppo(*parts, SPPOConfig(**PLENTY, outputs_per_context=8, updates_per_rollout=1)),
    "online-ipo": lambda *parts: online_ipo(*parts, OnlineIPOConfig(**PLENTY)),
    "nash-md": lambda *parts: NashMD(*parts, NashMDConfig(**PLENTY, outputs_per_context=8)),
    "nash-ema": lambda *parts: NashMD(*parts, NashMDConfig(**PLENTY, outputs_per_context=8, opponent="average")),
    "nash-mp": lambda *parts: nash_mp(*parts, NashMPConfig(**PLENTY, outputs_per_context=8)),
    "egpo": lambda *parts: egpo(*parts, EGPOConfig(**PLENTY)),
}


@pytest.mark.parametrize("name", LEARNING)
def test_what_the_oracle_prefers_becomes_more_frequent(tiny_model, tmp_path, name):
    """Pairs of two samples tell less than eight, and take more steps: over 5 s, since each step samples."""
    policy = CausalLM.load(tiny_model, lora=LoRA(rank=4), dtype="float32")
    game = LEARNING[name](policy, Reference(policy), LowTokens(), CONTEXTS)

    def share():
        sampling = Sampling(max_new_tokens=4)
        answers = policy.sample(
            CONTEXTS, 100, generator=torch.Generator().manual_seed(0), sampling=sampling, batch_size=400
        )
        return fmean(share_of_low(sample.token_ids) for group in answers for sample in group)

    before = share()
    train(
        game,
        RunFolder.create(tmp_path / "run", {}),
        replace(TRAINING, checkpoint_every=0),
        steps=120 if game.config.outputs_per_context == 2 else 36,
    )
    assert share() > before + 0.1


def test_the_mixture_goes_from_the_policy_to_its_reference(tiny_model):
    policy = CausalLM.load(tiny_model, lora=LoRA(rank=4), dtype="float32")
    with torch.no_grad():
        for key, weight in policy.scorer.named_parameters():
            if "lora_B" in key:
                weight.fill_(0.3)

    def samples(*processors):
        sampling = Sampling(max_new_tokens=6)
        found = policy.sample(
            CONTEXTS, 6, generator=torch.Generator().manual_seed(1), sampling=sampling, processors=processors
        )
        return [sample.token_ids for group in found for sample in group]

    own, halfway, frozen = samples(), samples(GeometricMixture(policy, 0.5)), samples(GeometricMixture(policy, 1.0))
    with policy.without_adapters():
        reference = samples()
    assert samples(GeometricMixture(policy, 0.0)) == own != reference
    assert frozen == reference
    assert halfway not in (own, reference)
    for share in (-0.1, 1.1):
        with pytest.raises(ConfigError, match="share"):
            GeometricMixture(policy, share)


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
