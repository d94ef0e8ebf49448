"""Comparisons of a decoder's texts, and the reward models of their halves."""

from __future__ import annotations

import pytest
import torch

from plaudit.errors import ConfigError
from plaudit.policies import CausalLM
from plaudit.testbeds import topic_judges, topics
from plaudit.testbeds.decoders import DecoderConfig, decoder
from plaudit.testbeds.topic_judges import JudgesConfig, compare, judges

DECODER = DecoderConfig(layers=1, width=32, demonstrations=800, batch_size=32, learning_rate=1e-2)
CONFIG = JudgesConfig(pairs=40, batch_size=8, epochs=1.0)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLAUDIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield decoder("topics", DECODER)


def test_comparisons_are_of_different_texts_for_prompts_to_learn_from(start):
    policy = CausalLM.load(start, dtype="float32")
    pairs = compare(policy, 40, seed=0)
    assert len(pairs) == 40
    assert pairs == compare(policy, 40, seed=0) != compare(policy, 40, seed=1)
    asked = {context.text for context in topics.prompts()}
    for pair in pairs:
        assert pair.context.text in asked
        assert pair.chosen.text != pair.rejected.text
    agree = sum(topics.appeal(p.context, p.chosen.text) >= topics.appeal(p.context, p.rejected.text) for p in pairs)
    assert agree > 24  # of 40


def test_judges_learn_from_halves_of_their_own_and_are_kept(start, monkeypatch):
    known = judges(start, CONFIG, seed=0)
    pairs = compare(CausalLM.load(start, dtype="float32"), 40, seed=0)
    winners = [(example.context.text, example.output.text) for example in known.winners]
    assert winners == [(pair.context.text, pair.chosen.text) for pair in pairs[:20]]
    contexts, outputs = [pair.context for pair in pairs], [pair.chosen for pair in pairs]
    one, other = (model.reward(contexts, outputs).value for model in (known.train, known.validation))
    assert not torch.allclose(one, other, atol=1e-3)
    sides = [(pair.context, side) for pair in pairs[:20] for side in (pair.chosen, pair.rejected)]
    centred = known.train.reward(*map(list, zip(*sides, strict=True))).value
    assert float(centred.mean()) == pytest.approx(0, abs=1e-5)
    monkeypatch.setattr(topic_judges, "train", None)
    again = judges(start, CONFIG, seed=0)
    torch.testing.assert_close(again.train.reward(contexts, outputs).value, one, rtol=0, atol=0)
    assert again.winners == known.winners


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pairs": 3}, "pairs: expected an even number >= 4, got 3"),
        ({"epochs": 0.0}, "epochs: expected a number > 0, got 0.0"),
    ],
)
def test_settings_that_cannot_be_used(settings, message):
    with pytest.raises(ConfigError, match=message):
        JudgesConfig(**settings)
