"""What a model cannot do is said when it is loaded, or when it is first asked: positions, tokens, padding, caches."""

from __future__ import annotations

import copy
import types

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer

from plaudit.errors import ConfigError, PolicyError
from plaudit.feedback.records import Context, Output, Tokens
from plaudit.policies import CausalLM, Encoder, LoRA, Sampling
from plaudit.policies.limits import expect_positions, positions_of
from plaudit.rewards import RewardModel

from .conftest import answer, ask

SHORT = Sampling(max_new_tokens=3)


def configured(family: str, **settings):
    """As much of a model as its limits are read from."""
    return types.SimpleNamespace(config=AutoConfig.for_model(family, **settings))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (configured("llama", max_position_embeddings=64), 64),
        (configured("gpt2", n_positions=32), 32),
        (configured("opt", max_position_embeddings=48), 48),
        (configured("falcon"), 2048),
        (configured("falcon", alibi=True), None),
        (configured("bloom"), None),
        (configured("mpt"), None),
        (configured("rwkv"), None),
        (configured("mamba"), None),
    ],
    ids=lambda value: value.config.model_type if isinstance(value, types.SimpleNamespace) else str(value),
)
def test_positions_end_where_they_are_learned_or_rotate(model, expected):
    assert positions_of(model) == expected


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, 256),  # Qwen's way
        ({"rope_type": "llama3", "factor": 2.0, "original_max_position_embeddings": 16}, 64),  # stretched already
    ],
)
def test_stretched_positions_count(rope, expected):
    factors = {"low_freq_factor": 1.0, "high_freq_factor": 4.0} if rope["rope_type"] == "llama3" else {}
    rope = {**rope, **factors, "rope_theta": 1e4}
    assert positions_of(configured("llama", max_position_embeddings=64, rope_parameters=rope)) == expected


@pytest.mark.parametrize("kind", [CausalLM, RewardModel])
def test_contexts_and_outputs_must_fit_into_the_model_together(tiny_model, kind):
    kind.load(tiny_model, dtype="float32", max_context_tokens=2000, max_output_tokens=48)
    message = (
        r"max_context_tokens \+ max_output_tokens: expected at most 2048 together, the positions that this llama model "
        r"knows, got 2000 \+ 49\. Lower one of them: 1999 \+ 49 would do\."
    )
    with pytest.raises(ConfigError, match=message):
        kind.load(tiny_model, dtype="float32", max_context_tokens=2000, max_output_tokens=49)


def test_what_is_proposed_fits():
    model = configured("gpt2", n_positions=10)
    with pytest.raises(ConfigError, match=r"got 1 \+ 20\. Lower one of them: 5 \+ 5 would do"):
        expect_positions(model, context=1, output=20)
    expect_positions(model, context=5, output=5)


def test_room_for_samples_is_asked_for_by_name(tiny_model):
    limits = {"max_context_tokens": 2000, "max_output_tokens": 8}
    policy = CausalLM.load(tiny_model, lora=LoRA(rank=2), dtype="float32", **limits)
    policy.expect_room(48)
    with pytest.raises(ConfigError, match=r"max_context_tokens \+ max_new_tokens: .* got 2000 \+ 49"):
        policy.expect_room(49)


def test_a_loaded_policy_knows_its_vocabulary(policy):
    """The model's, not the tokenizer's: it may have been sampled from, whatever the tokenizer says."""
    size = policy.model.config.vocab_size

    def of(*ids: int) -> Output:
        return Output(content=Tokens(ids=ids, tokenizer=policy.encoder.fingerprint, text="?"))

    policy.log_prob([ask("Hi")], [of(5, size - 1)])
    message = f"The output's token ids: expected whole numbers from 0 to {size - 1}, .* got {size} at place 1"
    with pytest.raises(PolicyError, match=message):
        policy.log_prob([ask("Hi")], [of(5, size)])
    with pytest.raises(PolicyError, match=f"The context's token ids: .* got {size} at place 0"):
        policy.sample([Context(content=of(size).content)], 1, generator=torch.Generator(), sampling=SHORT)


def test_no_token_for_padding_is_needed(tiny_model, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.pad_token = None
    assert tokenizer.pad_token_id is None
    policy = CausalLM.load(tiny_model, dtype="float32")
    without = CausalLM(copy.deepcopy(policy.model), Encoder(tokenizer), name="without")
    without.model.config.pad_token_id = None
    asked, answers = [ask("Hi"), ask("What is the colour of the sky?")], [answer("Hello!"), answer("Blue.")]
    for packs in (True, False):
        policy.packer.packs = without.packer.packs = packs
        assert torch.equal(without.log_prob(asked, answers).sum(), policy.log_prob(asked, answers).sum())
        drawn = [
            model.sample(asked, 2, generator=torch.Generator().manual_seed(0), sampling=SHORT)
            for model in (without, policy)
        ]
        assert drawn[0] == drawn[1]
    without.save(tmp_path)
    assert CausalLM.load(tmp_path, dtype="float32").encoder.tokenizer.pad_token_id is None


@pytest.mark.parametrize("whole_logits", [False, True])
def test_a_model_that_keeps_no_cache_cannot_be_sampled_from(tiny_model, monkeypatch, whole_logits):
    policy = CausalLM.load(tiny_model, dtype="float32")
    policy.packer.packs, policy.scorer.whole_logits = False, whole_logits
    module = policy.model if whole_logits else policy.model.model
    original = module.forward
    monkeypatch.setattr(module, "forward", lambda **inputs: original(**{**inputs, "use_cache": False}))
    assert policy.log_prob([ask("Hi")], [answer("Hello!")]).sum().isfinite()
    message = r"LlamaForCausalLM returns no cache of keys and values \(past_key_values\), so it cannot be sampled from"
    with pytest.raises(PolicyError, match=message):
        policy.sample([ask("Hi")], 1, generator=torch.Generator(), sampling=SHORT)
