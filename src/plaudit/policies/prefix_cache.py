"""Keys and values while sampling: a prompt's once for all its rows, a row's own in room that is there from the start.

A step reads each prompt's keys once, whatever the number of rows below it, and copies nothing: no cache grows, no key is
repeated for the heads that share it. The two parts of a row's attention are merged as in `plaudit.policies.tree_attention`.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from plaudit.policies.prefix_tree import PrefixTree
from plaudit.policies.tree_attention import Plan, flash


class PrefixCache:
    """The cache of P prompts with N rows that continue them, one step at a time.

    Args:
        prompts: the prompts' token ids.
        rows: which prompt each row continues.
        capacity: how many tokens a row may have.
        device: where the keys lie.
    """

    def __init__(self, prompts: list[tuple[int, ...]], rows: list[int], capacity: int, *, device: torch.device) -> None:
        tree = PrefixTree.of(prompts)
        self.tree, self.plan = tree, Plan.of(tree, device=device)
        self.device, self.capacity = device, capacity
        self.step = -1  # -1: the prompts are being read
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        width = int(lengths.max())
        self._places = torch.zeros(len(prompts), width, dtype=torch.long)
        for prompt, places in enumerate(tree.places):
            self._places[prompt, : len(places)] = places
        inside = torch.arange(width) < lengths[:, None]
        self._hidden = None if bool(inside.all()) else torch.where(inside, 0.0, -torch.inf)[:, None, None].to(device)
        self._lengths = lengths
        self._prompt_of = torch.tensor(rows)
        self._prompts: dict[int, Tensor] = {}  # by layer: keys and values, [2, P, heads, L, D]
        self._own: dict[int, Tensor] = {}  # by layer: keys and values, [2, N, heads, capacity, D]
        self._arrange()

    @property
    def inputs(self) -> dict[str, Any]:
        """The trunk's arguments for reading the prompts."""
        return self._inputs(self.tree.token_ids, self.tree.position_ids)

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self._prompt_of)

    @property
    def ends(self) -> Int[Tensor, " N"]:
        """Where in the packed prompts each row's prompt ends."""
        ends = torch.tensor([int(places[-1]) for places in self.tree.places])
        return ends[self._prompt_of].to(self.device)

    def next_inputs(self, token_ids: Int[Tensor, " N"]) -> dict[str, Any]:
        """The trunk's arguments for one more token of each row."""
        self.step += 1
        return self._inputs(token_ids, self._lengths[self._prompt_of] + self.step)

    def keep(self, rows: Int[Tensor, " M"]) -> None:
        """Go on with these rows only. Prompts without rows leave as well."""
        self._prompt_of = self._prompt_of[rows]
        here = rows.to(self.device)
        used = slice(0, self.step + 1)
        for layer, old in self._own.items():
            new = old.new_empty(2, len(rows), *old.shape[2:])
            new[:, :, :, used] = old[:, here, :, used]
            self._own[layer] = new
        still, self._prompt_of = torch.unique(self._prompt_of, return_inverse=True)
        if len(still) < len(self._lengths):
            self._lengths = self._lengths[still]
            there = still.to(self.device)
            self._prompts = {layer: old[:, there] for layer, old in self._prompts.items()}
            self._hidden = None if self._hidden is None else self._hidden[there]
        self._arrange()

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Float[Tensor, "1 H N D"]:
        """Attention of one new token per row: to its prompt, its own earlier tokens, and itself."""
        _, heads, rows, width = query.shape
        groups = key.shape[1]
        shared = heads // groups
        if layer not in self._own:
            self._own[layer] = key.new_empty(2, rows, groups, self.capacity, width)
        own = self._own[layer]
        for store, new in zip(own, (key, value), strict=True):
            store[:, :, self.step] = new[0].transpose(0, 1)
        asked = query[0].transpose(0, 1).reshape(rows, groups, shared, width)
        seen = slice(0, self.step + 1)
        out, lse = flash(asked, own[0][:, :, seen], own[1][:, :, seen], 0.0, False, scale=scale)
        keys, values = self._prompts[layer]
        prompts, most = self._members.shape
        together = asked[self._members].transpose(1, 2).reshape(prompts, groups, most * shared, width)
        hidden = None if self._hidden is None else self._hidden.to(query.dtype)
        above, above_lse = flash(together, keys, values, 0.0, False, attn_mask=hidden, scale=scale)
        above, above_lse = (
            x.reshape(prompts, groups, most, shared, *x.shape[3:]).transpose(1, 2)[self._seat]
            for x in (above, above_lse)
        )
        share = torch.sigmoid(lse - above_lse)[..., None]
        merged = torch.lerp(above.float(), out.float(), share.float()).to(query.dtype)
        return merged.reshape(rows, heads, width).transpose(0, 1)[None]

    def keep_prompts(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Take in the keys and values of the packed prompts, [1, groups, S, D]."""
        places = self._places.to(key.device)
        self._prompts[layer] = torch.stack([x[0][:, places].transpose(0, 1) for x in (key, value)])

    def _arrange(self) -> None:
        """Seat the rows of each prompt side by side: `members` [P, G] lists them, `seat` says where each row sits."""
        counts = torch.bincount(self._prompt_of, minlength=len(self._lengths))
        order = self._prompt_of.argsort(stable=True)
        starts = counts.cumsum(0) - counts
        place = torch.arange(len(order)) - starts[self._prompt_of[order]]
        members = torch.zeros(len(self._lengths), int(counts.max()), dtype=torch.long)
        members[self._prompt_of[order], place] = order
        seat = torch.empty_like(order)
        seat[order] = place
        self._members = members.to(self.device)
        self._seat = (self._prompt_of.to(self.device), seat.to(self.device))

    def _inputs(self, token_ids: Tensor, position_ids: Tensor) -> dict[str, Any]:
        return {
            "input_ids": token_ids[None].to(self.device),
            "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.device),
            "position_ids": position_ids[None].to(self.device),
            "use_cache": False,
            "cache": self,
        }
