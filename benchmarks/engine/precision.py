"""How far each path's log-probabilities and gradients are from float64's, and sampled log-probabilities from scored ones.

The truth is the padded path in float64 on the same weights and tokens: one row a sequence, the model's own attention and head.
"""

from __future__ import annotations

from typing import Any

import torch

from plaudit.policies import CausalLM, Sampling, Sequence
from plaudit.policies.decoding import decode
from plaudit.policies.loading import quiet_transformers
from plaudit.policies.rows import new_rows

from .cases import Case, groups, load_policy, trained
from .measuring import Results, machine

PATHS = ("packed", "padded")


def cases(model: str, dtypes: list[str]) -> list[Case]:
    """Four outputs of 64 tokens for each of two prompts of 128."""
    return [
        Case(workload="precision", model=model, dtype=dtype, prompts=2, outputs=4, prompt_tokens=128, output_tokens=64)
        for dtype in dtypes
    ]


def run(case: Case, *, rounds: int, results: Results) -> None:  # noqa: ARG001
    """Measure one type; there is nothing to repeat."""
    sequences = [sequence for group in groups(case) for sequence in group]
    exact = Case(**{**case.settings(), "dtype": "float32"})
    with quiet_transformers():
        truth = load_policy(exact)
        truth.model.double()
        values, slopes = scored(truth, sequences, packed=False)
        del truth
        policy = load_policy(case)
    entry: dict[str, Any] = {"machine": machine()}
    for path in PATHS:
        found, gradient = scored(policy, sequences, packed=path == "packed")
        error = (found.double() - values).abs()
        entry[path] = {
            "log_prob_rms": float(error.square().mean().sqrt()),
            "log_prob_largest": float(error.max()),
            "gradient_relative": float((gradient.double() - slopes).norm() / slopes.norm()),
        }
    entry["sampled_largest"] = sampled(policy, sequences)
    print(f"{case}: {entry}", flush=True)
    results.put(case, entry)


def scored(policy: CausalLM, sequences: list[Sequence], *, packed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of all tokens, and the gradient of their mean by all adapters."""
    could = policy.packer.packs
    policy.packer.packs = could and packed
    policy.model.zero_grad(set_to_none=True)
    found = policy.log_prob_of(sequences).per_step
    found.mean().backward()
    policy.packer.packs = could
    slopes = [weight.grad.flatten() for _, weight in sorted(trained(policy.model).items()) if weight.grad is not None]
    return found.detach(), torch.cat(slopes)


def sampled(policy: CausalLM, sequences: list[Sequence]) -> float:
    """The largest difference of a log-probability that sampling gave from the one that scoring gives."""
    contexts = list(dict.fromkeys(sequence.context for sequence in sequences))
    rows = decode(
        policy.scorer,  # type: ignore[arg-type]
        new_rows(contexts, 8, torch.Generator().manual_seed(0)),
        slots=12,
        sampling=Sampling(max_new_tokens=len(sequences[0].output)),
        ends=lambda _: False,
        device=policy.device,
        shares=policy.packer.shares_cache,
    )
    largest = 0.0
    with torch.no_grad():
        for row in rows:
            ids = tuple(row.token_ids)
            again = policy.log_prob_of([Sequence(row.context, ids, (True,) * len(ids))]).per_step[0]
            largest = max(largest, float((torch.tensor(row.log_prob) - again).abs().max()))
    return largest
