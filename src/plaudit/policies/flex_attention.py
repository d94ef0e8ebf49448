"""Attention over a `PrefixTree` in one kernel on GPUs: torch's FlexAttention (Dong et al. 2024, arXiv 2412.05496).

In a pack that is laid out depth first, the token at place q sees the one at place k exactly if ``k <= q < last(k)``, where
`last` is the end of the descendants of k's segment. So a mask is one number for each key, and which blocks of 128 x 128
scores are empty, full or cut follows from the largest and the smallest of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from plaudit.policies.prefix_tree import PrefixTree

BLOCK = 128


@dataclass(frozen=True, slots=True)
class FlexPlan:
    """A tree's mask; made once per pack, used by every layer.

    Attributes:
        mask: of the pack, filled up to whole blocks with tokens that see themselves only.
        length: tokens of the pack.
    """

    mask: BlockMask
    length: int

    @classmethod
    def of(cls, tree: PrefixTree, *, device: torch.device) -> FlexPlan:
        """The mask of a tree."""
        size = max(1, -(-len(tree) // BLOCK)) * BLOCK
        last = torch.arange(1, size + 1)
        for segment in tree.segments:
            last[segment.start : segment.end] = segment.last
        last = last.to(device)
        some, whole = _blocks(last)
        mask = BlockMask.from_kv_blocks(
            *_listed(some & ~whole),
            *_listed(whole),
            BLOCK_SIZE=BLOCK,
            mask_mod=lambda _batch, _head, query, key: (key <= query) & (query < last[key]),
        )
        return cls(mask, len(tree))


def _blocks(last: Int[Tensor, " S"]) -> tuple[Bool[Tensor, "R R"], Bool[Tensor, "R R"]]:
    """Whether some, and whether all tokens of block row q see some, or all, of block column k."""
    lasts = last.reshape(-1, BLOCK)
    starts = torch.arange(0, len(last), BLOCK, device=last.device)[:, None]
    some = (starts >= starts.T) & (lasts.amax(-1) > starts)
    whole = (starts > starts.T) & (lasts.amin(-1) >= starts + BLOCK)
    return some, whole


def _listed(blocks: Bool[Tensor, "R R"]) -> tuple[Int[Tensor, "1 1 R"], Int[Tensor, "1 1 R R"]]:
    """How many blocks each row has, and which, these first."""
    numbers = blocks.int()
    order = numbers.argsort(dim=-1, descending=True, stable=True)
    return numbers.sum(-1, dtype=torch.int32)[None, None], order.int()[None, None]


def flex_tree_attention(
    query: Float[Tensor, "1 H S D"],
    key: Float[Tensor, "1 G S D"],
    value: Float[Tensor, "1 G S D"],
    plan: FlexPlan,
    scale: float,
) -> Float[Tensor, "1 H S D"]:
    """Attention of a packed tree's tokens, differentiable.

    Args:
        query: queries of the pack's S tokens.
        key: keys; each head of them serves H / G heads of the queries.
        value: values; the products are taken in their type.
        plan: the tree's mask.
        scale: factor on the scores.
    """
    missing = plan.mask.seq_lengths[0] - plan.length
    query, key, value = (torch.nn.functional.pad(x.to(value.dtype), (0, 0, 0, missing)) for x in (query, key, value))
    grouped = query.shape[1] != key.shape[1]
    attention = _kernel(query.device.type)
    result: Tensor = attention(query, key, value, block_mask=plan.mask, scale=scale, enable_gqa=grouped)
    return result[:, :, : plan.length]


@functools.cache
def _kernel(device_type: str) -> Callable[..., Any]:
    """Compiled where there is a fused kernel; elsewhere the plain computation with all scores, for tests."""
    attention: Callable[..., Any] = flex_attention
    return torch.compile(attention, dynamic=True) if device_type == "cuda" else attention
