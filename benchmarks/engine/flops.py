"""The floor of a workload: the products that cannot be left out, and the bytes that must be read.

For a decoder of L layers, width d, H query and K key heads of width h, inner width i, vocabulary V and adapters of rank r:

    W = L (2 d H h + 2 d K h + 3 d i)           weights of the trunk's products
    A = r L Σ (inputs + outputs of a product)   weights of the adapters
    forward(S, Q, M)  = 2 (W + A) S + 4 L H h Q + 2 d V M
    backward(S, Q, M) = (2 W + 4 A) S + 8 L H h Q + 2 d V M    (frozen weights need no gradient, adapters do)

S is the number of distinct tokens, Q the sum over them of the tokens that each sees (itself included), M the number of
predicted tokens. The reference's forward pass has A = 0. Recomputation (of the head's logits, of attention's scores in its
backward pass) is work of an implementation and not in the floor.

Bytes of a training step: the weights once per pass (forward, backward, reference), and what the backward pass needs, written
once and read once: per token and layer two residuals, two normed inputs, queries, keys, values, attention's result, and three
inner vectors, ``L (5 d + H h + 2 K h + 3 i)`` numbers. Bytes of sampling: all weights and the head once per step, and per step
the keys and values of every prompt once and of every output so far.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Any

import torch

from plaudit.policies import Sequence
from plaudit.policies.batches import PackedBatch

from .cases import ADAPTERS


@dataclass(frozen=True)
class Amount:
    """S, Q and M of the formulas above."""

    tokens: int
    visible: int
    predicted: int


def distinct(sequences: Rows[Sequence], *, whole: bool = False) -> Amount:
    """What must be computed of these sequences when every common beginning is computed once.

    Tokens that predict nothing are left out, unless the state at the `whole` sequence's end is what is wanted.
    """
    batch = PackedBatch.of(sequences, device=torch.device("cpu"), whole=whole)
    return Amount(batch.input_ids.numel(), int((batch.position_ids + 1).sum()), 0 if whole else len(batch.targets))


class Floor:
    """Floating-point operations and bytes of one model."""

    def __init__(self, config: Any, *, bytes_per_number: int) -> None:
        self.size = bytes_per_number
        width, self.layers = config.hidden_size, config.num_hidden_layers
        head = getattr(config, "head_dim", None) or width // config.num_attention_heads
        self.queries, self.keys = config.num_attention_heads * head, config.num_key_value_heads * head
        inner = config.intermediate_size
        self.products = [
            (width, self.queries), (width, self.keys), (width, self.keys), (self.queries, width),
            (width, inner), (width, inner), (inner, width),
        ]  # fmt: skip
        self.weights = self.layers * sum(a * b for a, b in self.products)
        self.adapters = ADAPTERS.rank * self.layers * sum(a + b for a, b in self.products)
        self.head = (width, config.vocab_size)
        self.saved = self.layers * (5 * width + self.queries + 2 * self.keys + 3 * inner)

    def forward(self, amount: Amount, *, adapters: bool = True) -> int:
        """FLOP of a forward pass."""
        linear = 2 * (self.weights + self.adapters * adapters) * amount.tokens
        return linear + 4 * self.layers * self.queries * amount.visible + self._head(amount)

    def backward(self, amount: Amount) -> int:
        """FLOP of the backward pass with frozen weights and trained adapters."""
        linear = (2 * self.weights + 4 * self.adapters) * amount.tokens
        return linear + 8 * self.layers * self.queries * amount.visible + self._head(amount)

    def _head(self, amount: Amount) -> int:
        return 2 * self.head[0] * self.head[1] * amount.predicted

    def weight_bytes(self) -> int:
        """Bytes of the trunk and the head."""
        return self.size * (self.weights + self.head[0] * self.head[1])

    def training_bytes(self, amount: Amount, *, passes: int = 2) -> int:
        """Bytes of a forward and a backward pass, and of the reference's forward pass where there are three."""
        return passes * self.weight_bytes() + 2 * self.size * self.saved * amount.tokens

    def sampling(self, prompts: int, outputs: int, prompt_tokens: int, output_tokens: int) -> dict[str, int]:
        """FLOP and bytes of sampling: one prefill of each prompt, then one token of each output a step, without adapters."""
        rows, steps = prompts * outputs, output_tokens - 1
        prefill = Amount(prompts * prompt_tokens, prompts * prompt_tokens * (prompt_tokens + 1) // 2, prompts)
        seen = rows * sum(prompt_tokens + step for step in range(1, output_tokens))
        decode = Amount(rows * steps, seen, rows * steps)
        cached = prompts * prompt_tokens * steps + rows * sum(range(1, output_tokens))
        return {
            "flop": self.forward(prefill, adapters=False) + self.forward(decode, adapters=False),
            "bytes": output_tokens * self.weight_bytes() + 2 * self.size * self.keys * self.layers * cached,
        }
