"""Keys and values while sampling: a prompt's once for all its rows, a row's own in room that is there from the start.

A step reads each prompt's keys once, whatever the number of rows below it, and copies nothing: no key is repeated for the
heads or rows that share it. The two parts of a row's attention are merged as in `plaudit.policies.tree_attention`. A row that
ended leaves its slot to one that waits, whose prompt is read beside the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from plaudit.policies.encoding import TokenIds
from plaudit.policies.prefix_tree import PrefixTree
from plaudit.policies.rows import Row
from plaudit.policies.scoring import TokenScorer
from plaudit.policies.tree_attention import Plan, flash

_FIRST_ROOM = 64  # tokens that a row has room for at first; the room doubles


@dataclass(slots=True, eq=False)
class _Cohort:
    """Prompts that were read together, P of them, and where the rows sit that continue them.

    Attributes:
        numbers: the prompts' numbers.
        lengths: their lengths, [P].
        hidden: what hides the padding behind shorter prompts, [P, 1, 1, L]; None where there is none.
        logits: of the first token after each, [P, V].
        keys: by layer, keys and values, [2, P, groups, L, D].
        slots: the rows' slots, [M].
        members: by prompt, its rows' slots, side by side, [P, G]; 0 where it has fewer.
        seat: where in `members` each of the M rows is.
    """

    numbers: list[int]
    lengths: Int[Tensor, " P"]
    hidden: Tensor | None
    logits: Float[Tensor, "P V"]
    keys: dict[int, Tensor]
    slots: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    members: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.long))
    seat: tuple[Tensor, Tensor] = field(default_factory=lambda: (torch.zeros(0), torch.zeros(0)))

    def keep(self, numbers: set[int]) -> None:
        """Forget the other prompts."""
        places = [place for place, number in enumerate(self.numbers) if number in numbers]
        if len(places) == len(self.numbers):
            return
        self.numbers = [self.numbers[place] for place in places]
        self.lengths = self.lengths[places]
        kept = torch.tensor(places, dtype=torch.long, device=self.logits.device)
        self.hidden = None if self.hidden is None else self.hidden[kept]
        self.logits = self.logits[kept]
        self.keys = {layer: old[:, kept] for layer, old in self.keys.items()}

    def seat_rows(self, rows: Iterable[tuple[int, int]]) -> None:
        """Take in the (slot, prompt) of every row that continues one of these prompts."""
        device = self.logits.device
        below: dict[int, list[int]] = {number: [] for number in self.numbers}
        for slot, number in rows:
            if number in below:
                below[number].append(slot)
        most = max(map(len, below.values()), default=0)
        self.members = torch.tensor([slots + [0] * (most - len(slots)) for slots in below.values()], device=device)
        seats = [(slot, p, g) for p, slots in enumerate(below.values()) for g, slot in enumerate(slots)]
        self.slots, *seat = torch.tensor(seats, dtype=torch.long, device=device).reshape(-1, 3).unbind(-1)
        self.seat = (seat[0], seat[1])


class PrefixCache:
    """The cache of rows that continue prompts, each in a slot, one step at a time.

    Args:
        scorer: the model.
        rows: all rows that will come; a prompt is kept until its last row has left.
        slots: how many rows there are at once.
        capacity: how many tokens a row may have.
        device: where the keys lie.

    Attributes:
        refills: whether rows can join others that go on.
        plan: how the prompts that are being read attend; None while rows continue.
    """

    refills = True

    def __init__(
        self, scorer: TokenScorer, rows: list[Row], *, slots: int, capacity: int, device: torch.device
    ) -> None:
        self._scorer, self._device, self._capacity = scorer, device, capacity
        self._expected = Counter(row.prompt for row in rows)
        self._held: dict[int, int] = {}  # by slot, its row's prompt
        self._cohorts: list[_Cohort] = []
        self._own: dict[int, Tensor] = {}  # by layer, keys and values, [2, slots, groups, room, D]
        self._used = torch.zeros(slots, dtype=torch.long)  # how many tokens of its own each row has
        self._lengths = torch.zeros(slots, dtype=torch.long)  # of each row's prompt
        self._longest = 0  # of the rows' own tokens, before the step
        self._late: Tensor | None = None  # hides room that a row has not used yet, where others have
        self._at: tuple[Tensor | slice, ...] = ()  # where each slot's new keys go
        self._places = torch.zeros(0, 0, dtype=torch.long)  # of the prompts that are being read
        self._read: dict[int, Tensor] = {}  # their keys and values by layer
        self.plan: Plan | None = None

    def admit(self, rows: list[Row], slots: list[int]) -> Float[Tensor, "N V"]:
        """Put rows into slots that are free, and read the prompts that are new; gives the first token's logits."""
        known = {number for cohort in self._cohorts for number in cohort.numbers}
        if new := {row.prompt: row.context for row in rows if row.prompt not in known}:
            self._cohorts.append(self._read_prompts(new))
        logits = []
        for row, slot in zip(rows, slots, strict=True):
            cohort = next(cohort for cohort in self._cohorts if row.prompt in cohort.numbers)
            logits.append(cohort.logits[cohort.numbers.index(row.prompt)])
            self._held[slot], self._used[slot], self._lengths[slot] = row.prompt, 0, len(row.context)
        self._arrange()
        return torch.stack(logits)

    def step(self, token_ids: Int[Tensor, " S"]) -> Float[Tensor, "S V"]:
        """One more token of every slot; gives the next token's logits. What a free slot is given does not matter."""
        held = list(self._held)
        self._longest = int(self._used[held].max())
        used = torch.full_like(self._used, self._longest)  # a free slot is never the one that needs a mask
        used[held] = self._used[held]
        behind = torch.arange(self._longest + 1) > used[:, None]
        late = torch.where(behind, -torch.inf, 0.0)[:, None, None]
        self._late = late.to(self._device) if bool(behind.any()) else None
        self._at = (torch.arange(len(used), device=self._device), slice(None), used.to(self._device))
        logits = self._scorer.packed_logits(self._inputs(token_ids, self._lengths + used))
        self._used[held] += 1
        return logits

    def release(self, slot: int) -> None:
        """The row in this slot has ended."""
        self._expected[self._held.pop(slot)] -= 1

    def compact(self, slots: list[int]) -> None:
        """Go on with these slots only, in this order."""
        kept = torch.tensor(slots, device=self._device)
        seen = slice(0, self._longest + 1)
        for layer, old in self._own.items():
            new = old.new_zeros(2, len(slots), *old.shape[2:])
            new[:, :, :, seen] = old[:, kept, :, seen]
            self._own[layer] = new
        self._used, self._lengths = self._used[slots], self._lengths[slots]
        self._held = {place: self._held[slot] for place, slot in enumerate(slots)}
        self._arrange()

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Float[Tensor, "1 H S D"]:
        """Attention of one new token per slot: to its row's prompt, its own earlier tokens, and itself."""
        _, heads, slots, width = query.shape
        groups = key.shape[1]
        shared = heads // groups
        own = self._room(layer, key)
        for store, new in zip(own, (key, value), strict=True):
            store[self._at] = new[0].transpose(0, 1).to(store.dtype)
        asked = query[0].transpose(0, 1).reshape(slots, groups, shared, width)
        seen = slice(0, self._longest + 1)
        late = None if self._late is None else self._late.to(query.dtype)
        out, lse = flash(asked, own[0][:, :, seen], own[1][:, :, seen], 0.0, False, attn_mask=late, scale=scale)
        above, above_lse = torch.zeros_like(out), torch.zeros_like(lse)  # of a free slot, anything
        for cohort in self._cohorts:
            prompts, most = cohort.members.shape
            if most == 0:
                continue
            together = asked[cohort.members].transpose(1, 2).reshape(prompts, groups, most * shared, width)
            hidden = None if cohort.hidden is None else cohort.hidden.to(query.dtype)
            found = flash(together, *cohort.keys[layer], 0.0, False, attn_mask=hidden, scale=scale)
            for whole, part in zip((above, above_lse), found, strict=True):
                by_row = part.reshape(prompts, groups, most, shared, *part.shape[3:]).transpose(1, 2)
                whole[cohort.slots] = by_row[cohort.seat]
        share = torch.sigmoid(lse - above_lse)[..., None]
        merged = torch.lerp(above.float(), out.float(), share.float()).to(query.dtype)
        return merged.reshape(slots, heads, width).transpose(0, 1)[None]

    def keep_prompts(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Take in the keys and values of the prompts that are being read, [1, groups, S, D]."""
        self._read[layer] = torch.stack([x[0][:, self._places].transpose(0, 1) for x in (key, value)])

    def _read_prompts(self, prompts: dict[int, TokenIds]) -> _Cohort:
        tree = PrefixTree.of(list(prompts.values()))
        lengths = torch.tensor([len(prompt) for prompt in prompts.values()])
        places = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.long)
        for prompt, path in enumerate(tree.places):
            places[prompt, : len(path)] = path
        inside = torch.arange(places.shape[1]) < lengths[:, None]
        hidden = None if bool(inside.all()) else torch.where(inside, 0.0, -torch.inf)[:, None, None].to(self._device)
        ends = torch.stack([path[-1] for path in tree.places]).to(self._device)
        self.plan, self._places, self._read = Plan.of(tree, device=self._device), places.to(self._device), {}
        logits = self._scorer.packed_logits(self._inputs(tree.token_ids, tree.position_ids), ends)
        self.plan = None
        return _Cohort(list(prompts), lengths, hidden, logits, self._read)

    def _arrange(self) -> None:
        expected = {prompt for prompt, count in self._expected.items() if count}
        for cohort in self._cohorts:
            cohort.keep(expected)
            cohort.seat_rows(self._held.items())
        self._cohorts = [cohort for cohort in self._cohorts if cohort.numbers]

    def _room(self, layer: int, key: Tensor) -> Tensor:
        """The layer's own keys and values, with room for one more token of each row."""
        _, groups, slots, width = key.shape
        own = self._own.get(layer)
        if own is None or own.shape[3] <= self._longest:
            room = min(_FIRST_ROOM if own is None else 2 * own.shape[3], self._capacity)
            new = key.new_zeros(2, slots, groups, room, width)  # hidden or not, what is NaN would spread
            if own is not None:
                new[:, :, :, : own.shape[3]] = own
            self._own[layer] = own = new
        return own

    def _inputs(self, token_ids: Tensor, position_ids: Tensor) -> dict[str, Any]:
        return {
            "input_ids": token_ids[None].to(self._device),
            "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self._device),
            "position_ids": position_ids[None].to(self._device),
            "use_cache": False,
            "cache": self,
        }
