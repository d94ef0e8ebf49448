"""A reference must read the policy's token ids as the policy does."""

from __future__ import annotations

import pytest

from plaudit.errors import PolicyError
from plaudit.feedback.records import Context
from plaudit.methods import DPO, KTO, DPOConfig, GRPOConfig, KTOConfig, OnlineDPO, OnlineDPOConfig, OnPolicy, grpo
from plaudit.policies import CausalLM, LoRA, Reference
from plaudit.rewards import FunctionReward
from plaudit.testbeds import arithmetic, decoders
from plaudit.testbeds.decoders import DecoderConfig

REWARD = FunctionReward(lambda context, output: 0.0)
CONTEXTS = [Context(content="1+1=")]
METHODS = {
    "dpo": lambda policy, reference: DPO(policy, reference, (), DPOConfig()),
    "kto": lambda policy, reference: KTO(policy, reference, (), KTOConfig()),
    "grpo": lambda policy, reference: OnPolicy(
        policy, REWARD, CONTEXTS, grpo(GRPOConfig()), GRPOConfig(kl_coefficient=0.1), reference=reference
    ),
    "online-dpo": lambda policy, reference: OnlineDPO(policy, reference, REWARD, CONTEXTS, OnlineDPOConfig()),
}


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_a_reference_with_another_tokenizer_is_refused(tiny_model, make):
    policy = CausalLM.load(tiny_model, dtype="float32", lora=LoRA(rank=2))
    of_digits = decoders._fresh(arithmetic.CHARACTERS, DecoderConfig(layers=1, width=32), 0)
    with pytest.raises(PolicyError, match=r"reference: expected the policy's tokenizer .* the same token ids"):
        make(policy, Reference(of_digits))
    make(policy, Reference(CausalLM.load(tiny_model, dtype="float32")))
