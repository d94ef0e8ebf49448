"""Sampling from the geometric mixture of a policy with its reference, token by token."""

from __future__ import annotations

from collections.abc import Sequence as Rows

import torch
from jaxtyping import Float
from torch import Tensor

from plaudit.errors import ConfigError
from plaudit.policies.causal_lm import CausalLM
from plaudit.policies.rows import Row


class GeometricMixture:
    """A `LogitsProcessor` that mixes the logits: each token comes from ``π^(1-a) π_ref^a``, normalised at each token.

    The mixture of whole outputs is normalised once; that of tokens is the form that can be sampled from (Munos et al.,
    arXiv 2312.00886, section 7; TRL's ``GeometricMixtureWrapper``). The reference, the frozen weights below the adapters,
    reads the whole prefix again for every token: a sampler for short outputs.

    Args:
        policy: that samples; it has adapters.
        share: a in [0, 1], the reference's; 0 is the policy, 1 the reference.

    Raises:
        ConfigError: a share outside its range, or a policy without adapters.
    """

    def __init__(self, policy: CausalLM, share: float) -> None:
        if not 0 <= share <= 1:
            raise ConfigError(f"share: expected a number in [0, 1], got {share}")
        if not policy.has_adapters:
            raise ConfigError("policy: expected one with adapters, whose frozen weights are the reference")
        self._policy, self._share = policy, share

    def __call__(self, rows: Rows[Row], logits: Float[Tensor, "N V"]) -> Float[Tensor, "N V"]:
        """Mixed logits of each row's next token."""
        return torch.lerp(logits, self._reference(rows).to(logits), self._share)

    @torch.no_grad()
    def _reference(self, rows: Rows[Row]) -> Float[Tensor, "N V"]:
        prefixes = [(*row.context, *row.token_ids) for row in rows]
        ids = torch.zeros(len(rows), max(map(len, prefixes)), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for place, prefix in enumerate(prefixes):  # padded on the left: the last column is each row's newest token
            ids[place, ids.shape[1] - len(prefix) :] = torch.tensor(prefix)
            mask[place, ids.shape[1] - len(prefix) :] = 1
        device = self._policy.device
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        with self._policy.without_adapters():
            found: Tensor = self._policy.next_logits(ids.to(device), mask.to(device), positions.to(device))
        return found
