"""The one place where the benchmarks ask a policy for outputs."""

from __future__ import annotations

from collections.abc import Sequence as Rows

import torch

from plaudit.feedback.records import Context, Tokens
from plaudit.policies import CausalLM, Sampling


def endless(policy: CausalLM) -> CausalLM:
    """The same policy, whose outputs go on after an end of text, so that all of them reach the length limit."""
    policy.encoder.stop_ids = frozenset()
    return policy


def as_contexts(policy: CausalLM, prompts: Rows[tuple[int, ...]]) -> list[Context]:
    """Prompts that are token ids already."""
    encoder = policy.encoder
    return [Context(content=Tokens(ids=ids, tokenizer=encoder.fingerprint, text=encoder.text(ids))) for ids in prompts]


def sample_ids(
    policy: CausalLM, contexts: Rows[Context], n: int, *, length: int, generator: torch.Generator
) -> list[list[tuple[int, ...]]]:
    """n outputs of each context, all side by side, at temperature 1.

    Raises:
        ValueError: an output is shorter than the limit, so that sides would be compared at unequal work.
    """
    drawn = policy.sample(
        contexts,
        n,
        generator=generator,
        sampling=Sampling(max_new_tokens=length),
        batch_size=n * len(contexts),
    )
    short = [len(sample.token_ids) for group in drawn for sample in group if len(sample.token_ids) != length]
    if short:
        raise ValueError(
            f"Expected outputs of {length} tokens, got {len(short)} shorter ones, the first of {short[0]}."
        )
    return [[sample.token_ids for sample in group] for group in drawn]
