"""Small decoders: trained once, kept under what they come from, and used as any model is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from plaudit.errors import ConfigError
from plaudit.policies import CausalLM
from plaudit.testbeds import arithmetic, decoders, topics
from plaudit.testbeds.decoders import TESTBEDS, DecoderConfig, decoder

SMALL = DecoderConfig(layers=1, width=32, demonstrations=64, batch_size=16)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PLAUDIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "decoders"


def test_a_decoder_is_trained_once_and_found_again(cache, monkeypatch):
    folder = decoder("arithmetic", SMALL)
    assert folder.parent == cache
    assert [path.name for path in cache.iterdir()] == [folder.name]
    monkeypatch.setattr(decoders, "train", None)
    assert decoder("arithmetic", SMALL) == folder


@pytest.mark.parametrize(
    "change", [{"layers": 2}, {"demonstrations": 65}, {"learning_rate": 1e-3}, {"batch_size": 17}], ids=str
)
def test_another_decoder_lies_elsewhere(cache, change):
    assert decoder("arithmetic", replace(SMALL, **change)) != decoder("arithmetic", SMALL)
    assert decoder("arithmetic", SMALL, seed=1) != decoder("arithmetic", SMALL)


def test_the_same_seed_gives_the_same_weights(cache, tmp_path, monkeypatch):
    first = CausalLM.load(decoder("arithmetic", SMALL)).model.state_dict()
    monkeypatch.setenv("PLAUDIT_CACHE", str(tmp_path / "other"))
    again = CausalLM.load(decoder("arithmetic", SMALL)).model.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_decoder_that_was_interrupted_leaves_nothing(cache, monkeypatch):
    def stop(*_args, **_settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(decoders, "train", stop)
    with pytest.raises(KeyboardInterrupt):
        decoder("arithmetic", SMALL)
    assert list(cache.iterdir()) == []


def test_of_two_processes_that_train_the_same_the_first_wins(cache, monkeypatch):
    real = decoders.train

    def overtaken(*args, **settings):
        real(*args, **settings)
        monkeypatch.setattr(decoders, "train", real)
        decoder("arithmetic", SMALL)

    monkeypatch.setattr(decoders, "train", overtaken)
    folder = decoder("arithmetic", SMALL)
    assert [path.name for path in cache.iterdir()] == [folder.name]


def test_contexts_and_answers_are_a_token_a_character_and_come_back(cache):
    policy = CausalLM.load(decoder("arithmetic", SMALL))
    (example,) = arithmetic.demonstrations(1, seed=0)
    sequence = policy.encoder.sequence(example.context, example.output)
    assert len(sequence.context) == len(example.context.text)
    assert len(sequence.output) == len(example.output.text) + 1  # and the end
    assert policy.encoder.text(sequence.output) == example.output.text
    strange = policy.encoder.tokenizer("1 x")["input_ids"]
    assert len(strange) == 3
    assert strange[1] == strange[2] == policy.encoder.tokenizer.unk_token_id


def test_words_are_tokens_where_the_alphabet_is_words(cache):
    policy = CausalLM.load(decoder("topics", SMALL))
    (example,) = topics.demonstrations(1, seed=0)
    sequence = policy.encoder.sequence(example.context, example.output)
    assert len(sequence.context) == len(example.context.text.split()) == 3
    assert len(sequence.output) == len(example.output.text.split()) + 1  # and the end
    assert policy.encoder.text(sequence.output) == example.output.text
    known, unknown = policy.encoder.tokenizer("river rivers")["input_ids"]
    assert known != unknown == policy.encoder.tokenizer.unk_token_id


def test_every_testbed_is_written_with_its_characters(cache):
    for name, testbed in decoders.TESTBEDS.items():
        policy = decoders._fresh(testbed.alphabet, SMALL, 0)
        for example in testbed.demonstrations(50, seed=0):
            sequence = policy.encoder.sequence(example.context, example.output)
            assert policy.encoder.tokenizer.unk_token_id not in (*sequence.context, *sequence.output), name


def test_the_default_decoder_has_800_thousand_weights():
    policy = decoders._fresh(arithmetic.CHARACTERS, DecoderConfig(), 0)
    assert sum(weight.numel() for weight in policy.model.parameters()) == pytest.approx(0.8e6, rel=0.02)


def test_a_decoder_learns_its_demonstrations(cache):
    few, many = (CausalLM.load(decoder("arithmetic", replace(SMALL, demonstrations=n))) for n in (16, 800))
    examples = arithmetic.demonstrations(64, seed=9)
    asked, answers = [e.context for e in examples], [e.output for e in examples]
    with torch.no_grad():
        before, after = (policy.log_prob(asked, answers).sum().mean() for policy in (few, many))
    assert after > before + 2


def test_another_model_takes_its_place(cache, tiny_model):
    folder = decoder("arithmetic", replace(SMALL, base=str(tiny_model)))
    policy = CausalLM.load(folder)
    assert policy.encoder.tokenizer.chat_template is not None
    start = CausalLM.load(tiny_model).model.state_dict()
    assert not all(torch.equal(start[name], weight) for name, weight in policy.model.state_dict().items())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: decoder("arithmetics"), f"testbed: expected one of {', '.join(TESTBEDS)}, got 'arithmetics'"),
        (lambda: DecoderConfig(layers=0), "layers: expected a whole number >= 1, got 0"),
        (lambda: DecoderConfig(width=100), "width: expected a multiple of 32, got 100"),
    ],
)
def test_settings_that_cannot_be_used(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
