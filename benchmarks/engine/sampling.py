"""Sampling alone: ours and transformers' generate, the same prompts, outputs of a fixed length, temperature 1.

No adapters on either side. generate runs with its default cache, which grows by copying, and with its static one, which does
not; compilation is left out, since it takes minutes on this machine. The better of both is the peer.
"""

from __future__ import annotations

from typing import Any

import torch

from plaudit.policies import CausalLM

from .cases import ADAPTERS, Case, groups, load_base
from .drawing import as_contexts, endless, sample_ids
from .flops import Floor
from .measuring import OURS, Step

CACHES = {"generate": None, "generate_static_cache": "static"}
SIDES = (OURS, *CACHES)


def cases(model: str, dtypes: list[str], prompt_tokens: list[int]) -> list[Case]:
    """Eight prompts with eight outputs of 64 tokens."""
    return [
        Case(
            workload="sampling", model=model, dtype=dtype, prompts=8, outputs=8, prompt_tokens=length, output_tokens=64
        )
        for length in prompt_tokens
        for dtype in dtypes
    ]


def build(case: Case, side: str) -> Step:
    """Sample all outputs of all prompts."""
    prompts = [group[0].context for group in groups(case)]
    return _ours(case, prompts) if side == OURS else _theirs(case, prompts, CACHES[side])


def _ours(case: Case, prompts: list[tuple[int, ...]]) -> Step:
    # fresh adapters change nothing and are skipped; without any, the weights would be those of full training, in float32
    policy = endless(CausalLM.load(case.folder, lora=ADAPTERS, dtype=case.dtype))
    contexts = as_contexts(policy, prompts)
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        sample_ids(policy, contexts, case.outputs, length=case.output_tokens, generator=generator)

    return step


def _theirs(case: Case, prompts: list[tuple[int, ...]], cache: str | None) -> Step:
    from transformers import GenerationConfig

    model, _ = load_base(case)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=case.output_tokens,
        num_return_sequences=case.outputs,
        cache_implementation=cache,
        pad_token_id=0,
        disable_compile=True,
    )
    ids = torch.tensor(prompts)

    def step() -> None:
        drawn = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids))
        expected = (case.prompts * case.outputs, case.prompt_tokens + case.output_tokens)
        if tuple(drawn.shape) != expected:
            raise ValueError(f"Expected rows of shape {expected}, got {tuple(drawn.shape)}.")

    return step


def check(case: Case) -> dict[str, Any]:  # noqa: ARG001 - every workload has one
    """Nothing: two samplers draw differently. The distribution is tested beside the sampler."""
    return {}


def floor(case: Case, config: Any) -> dict[str, int]:
    """What sampling cannot do without."""
    costs = Floor(config, bytes_per_number=case.torch_dtype.itemsize)
    found = costs.sampling(case.prompts, case.outputs, case.prompt_tokens, case.output_tokens)
    return {"tokens": case.prompts * (case.prompt_tokens + case.outputs * case.output_tokens), **found}
