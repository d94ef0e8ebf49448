"""Policies on the tiny models, and tokenizers with and without a chat template."""

from __future__ import annotations

import pytest
import torch

from plaudit.feedback.records import Chat, Context, Message, Output, Text
from plaudit.policies import CausalLM, LoRA, Sequence


def ask(text: str) -> Context:
    return Context(content=Text(text=text))


def answer(text: str) -> Output:
    return Output(content=Text(text=text))


def chat(*turns: tuple[str, str]) -> Chat:
    return Chat(messages=tuple(Message(role=role, content=content) for role, content in turns))


def perturb(policy: CausalLM, *, seed: int = 0, size: float = 0.1) -> CausalLM:
    """Move the trained weights, as training would; fresh adapters change nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in policy.scorer.parameters():
            if weight.requires_grad:
                weight.add_(size * torch.randn(weight.shape, generator=generator))
    return policy


def random_sequences(count: int, *, longest: int = 12, seed: int = 0, vocabulary: int = 250) -> list[Sequence]:
    """Sequences of many lengths, some of whose output tokens do not count."""
    generator = torch.Generator().manual_seed(seed)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, vocabulary, (length,), generator=generator).tolist())

    def lengths() -> int:
        return int(torch.randint(1, longest + 1, (), generator=generator))

    sequences = []
    for _ in range(count):
        output = ids(lengths())
        mask = tuple((torch.rand(len(output), generator=generator) < 0.8).tolist())
        sequences.append(Sequence(ids(lengths()), output, mask))
    return sequences


@pytest.fixture(scope="session")
def policy(tiny_model) -> CausalLM:
    """All weights trained; tests that share it leave it as it is."""
    return CausalLM.load(tiny_model, dtype="float32")


@pytest.fixture
def lora_policy(tiny_model) -> CausalLM:
    """Adapters that make a difference, to be moved at will."""
    return perturb(CausalLM.load(tiny_model, lora=LoRA(rank=4), dtype="float32"))


@pytest.fixture(scope="session")
def tokenizer(tiny_model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="session")
def plain_tokenizer(tiny_plain_model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_plain_model)
