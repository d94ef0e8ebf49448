"""What of sampling through vLLM can be shown without vLLM: the settings that it is given, and the weights."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from plaudit.errors import MissingExtra, PolicyError
from plaudit.policies import CausalLM, LoRA, Sampling, VLLMSampler
from plaudit.policies.vllm_sampler import merged_weights, sampling_parameters

from .conftest import perturb

# The parameters of vllm.SamplingParams that are used here, by vLLM's documentation of release 0.11.
DOCUMENTED = {
    "n", "seed", "max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop", "stop_token_ids",
    "logprobs", "detokenize", "skip_special_tokens",
}  # fmt: skip


def test_every_setting_goes_to_the_parameter_of_its_meaning():
    sampling = Sampling(
        max_new_tokens=7, temperature=0.6, top_p=0.9, top_k=40, min_p=0.05, repetition_penalty=1.1, stop=("END",)
    )
    given = sampling_parameters(sampling, stop_ids=frozenset({9, 2}), seed=5)
    assert given.keys() == DOCUMENTED
    assert given == {
        "n": 1, "seed": 5, "max_tokens": 7, "temperature": 0.6, "top_p": 0.9, "top_k": 40, "min_p": 0.05,
        "repetition_penalty": 1.1, "stop": ["END"], "stop_token_ids": [2, 9], "logprobs": 0, "detokenize": True,
        "skip_special_tokens": True,
    }  # fmt: skip


def test_all_tokens_are_top_k_0_and_without_stop_texts_no_text_is_made():
    given = sampling_parameters(Sampling(), stop_ids=frozenset({2}), seed=0)
    assert given["top_k"] == 0
    assert given["stop"] == []
    assert given["detokenize"] is False


def test_without_vllm_the_extra_is_named(policy):
    with pytest.raises(MissingExtra, match=r"vllm is not installed.*plaudit\[vllm\]"):
        VLLMSampler(policy)


def test_a_whole_model_is_pushed_as_it_is(policy):
    pushed = dict(merged_weights(policy.model))
    assert pushed.keys() == dict(policy.model.named_parameters()).keys()
    assert all(pushed[name] is weight for name, weight in policy.model.named_parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_are_merged_into_the_weights_and_the_frozen_ones_stay_bit_by_bit(tiny_model, dtype):
    """Against peft's own merge of a second copy; the names are those of the model without adapters, as vLLM knows them."""
    policy = perturb(CausalLM.load(tiny_model, lora=LoRA(rank=4), dtype=dtype))
    before = {name: weight.detach().clone() for name, weight in policy.model.named_parameters()}
    pushed = {name: weight.clone() for name, weight in merged_weights(policy.model)}
    after = dict(policy.model.named_parameters())
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    twin = perturb(CausalLM.load(tiny_model, lora=LoRA(rank=4), dtype=dtype))
    merged = twin.model.merge_and_unload()
    assert pushed.keys() == dict(merged.named_parameters()).keys()
    assert all(torch.equal(pushed[name], weight) for name, weight in merged.named_parameters())
    plain = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=getattr(torch, dtype))
    changed = [name for name, weight in plain.named_parameters() if not torch.equal(pushed[name], weight)]
    assert len(changed) == 14  # seven linear layers in each of two blocks


def test_only_the_policys_own_adapters_are_pushed(tiny_model):
    """A reward model's adapters may lie on the same weights, and be the active ones."""
    policy = perturb(CausalLM.load(tiny_model, lora=LoRA(rank=4), dtype="float32"))
    alone = {name: weight.clone() for name, weight in merged_weights(policy.model)}
    policy.model.add_adapter("reward", LoRA(rank=2).peft_config())
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if ".reward." in name:
                weight.fill_(0.1)
    policy.model.set_adapter("reward")
    pushed = dict(merged_weights(policy.model))
    assert pushed.keys() == alone.keys()
    assert all(torch.equal(pushed[name], weight) for name, weight in alone.items())


def test_adapters_that_are_merged_already_are_refused(tiny_model):
    policy = perturb(CausalLM.load(tiny_model, lora=LoRA(rank=4), dtype="float32"))
    policy.model.merge_adapter()
    with pytest.raises(PolicyError, match="are merged already"):
        dict(merged_weights(policy.model))


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_a_completion_becomes_a_sample(policy, temperature):
    """Read from an object of the documented shape: the probability of the sampled token by its id, and why it ended."""
    sampler = object.__new__(VLLMSampler)  # without an engine
    sampler.policy = policy
    ids = policy.encoder.tokenizer("ok")["input_ids"] + [policy.encoder.turn_end]
    steps = [{0: SimpleNamespace(logprob=-9.0), token: SimpleNamespace(logprob=-0.5)} for token in ids]
    completion = SimpleNamespace(token_ids=ids, logprobs=steps, text="", finish_reason="stop")
    sample = sampler._sample(completion, Sampling(temperature=temperature))
    assert sample.token_ids == tuple(ids)
    assert sample.text == "ok"
    assert sample.log_prob == ((-0.5,) if temperature else (0.0,)) * 3
    assert sample.finished
    completion.finish_reason = "length"
    assert not sampler._sample(completion, Sampling()).finished
