"""Sampling one token after another: a prompt is read once for all its rows, and rows that end make room for others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Rows
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from plaudit.policies.base import Sampling
from plaudit.policies.distribution import draw, penalise_repetition, sampled_distribution
from plaudit.policies.prefix_cache import PrefixCache
from plaudit.policies.rows import LogitsProcessor, Row
from plaudit.policies.scoring import TokenScorer

_WORTH = 8  # rows join, or the others are moved together, when an eighth of the slots is free


def decode(
    scorer: TokenScorer,
    rows: Rows[Row],
    *,
    slots: int,
    sampling: Sampling,
    ends: Callable[[Rows[int]], bool],
    device: torch.device,
    shares: bool,
    processors: Rows[LogitsProcessor] = (),
) -> Iterator[Row]:
    """Sample the rows to their ends; yields each as it ends.

    What is drawn for a row depends on its own random numbers and its own logits only. Logits depend on the rows beside it by
    rounding alone: a token differs where a uniform number falls within rounding of an edge between two tokens.

    Args:
        scorer: the model.
        rows: the outputs to sample, from `plaudit.policies.rows.new_rows`.
        slots: how many rows go side by side.
        sampling: settings.
        ends: whether an output with these token ids has ended.
        device: where the model lies.
        shares: whether the scorer's trunk attends over trees, see `plaudit.policies.packing`; where it does not, a row that
            waits is let in only when all others have ended.
        processors: change the logits, one after another, before the temperature and after the penalty on repetition.
    """
    waiting = deque(sorted(rows, key=lambda row: (-len(row.context), row.number)))
    slots = min(slots, len(waiting))
    cache: PrefixCache | _PaddedCache
    if shares:
        cache = PrefixCache(scorer, list(waiting), slots=slots, capacity=sampling.max_new_tokens, device=device)
    else:
        cache = _PaddedCache(scorer, slots, device)
    seats: list[Row | None] = [None] * slots
    next_ids = torch.zeros(slots, dtype=torch.long)
    while waiting or any(seats):
        free = [slot for slot, row in enumerate(seats) if row is None]
        empty = len(free) == len(seats)
        with torch.inference_mode():  # not around a yield: it would reach whoever asks for the rows
            if waiting and (empty or (cache.refills and _WORTH * len(free) >= len(seats))):
                places = free[: len(waiting)]
                for slot in places:
                    seats[slot] = waiting.popleft()
                logits = cache.admit([row for slot in places if (row := seats[slot])], places)
            else:
                places = [slot for slot, row in enumerate(seats) if row is not None]
                if not waiting and _WORTH * len(free) > len(seats):
                    cache.compact(places)
                    seats, next_ids = [seats[slot] for slot in places], next_ids[places]
                    places = list(range(len(seats)))
                logits = cache.step(next_ids)[places]
            going = [row for slot in places if (row := seats[slot])]
            next_ids[places] = _extend(going, logits, sampling, processors)
        for slot, row in zip(places, going, strict=True):
            if ends(row.token_ids) or len(row.token_ids) == sampling.max_new_tokens:
                seats[slot] = None
                cache.release(slot)
                yield row


def _extend(
    rows: list[Row], logits: Float[Tensor, "N V"], sampling: Sampling, processors: Rows[LogitsProcessor]
) -> Int[Tensor, " N"]:
    """Draw the next token of each row."""
    if sampling.repetition_penalty != 1:
        seen = [torch.tensor([*row.context, *row.token_ids], device=logits.device) for row in rows]
        penalty = sampling.repetition_penalty
        logits = torch.stack([penalise_repetition(*pair, penalty) for pair in zip(logits, seen, strict=True)])
    for processor in processors:
        logits = processor(rows, logits)
    probability = sampled_distribution(logits, sampling)
    uniform = torch.tensor([row.uniform.random() for row in rows], dtype=torch.float64, device=logits.device)
    drawn = draw(probability, uniform)
    log_prob = probability.gather(-1, drawn[:, None])[:, 0].log().tolist()
    for row, token, value in zip(rows, drawn.tolist(), log_prob, strict=True):
        row.token_ids.append(token)
        row.log_prob.append(value)
    return drawn.cpu()


class _PaddedCache:
    """The same for a trunk that cannot be told about trees, with the model's own cache: all rows in step."""

    refills = False

    def __init__(self, scorer: TokenScorer, slots: int, device: torch.device) -> None:
        self._scorer, self._slots, self._device = scorer, slots, device
        self._cache: Any = None
        self._mask = torch.zeros(0, 0, dtype=torch.long)

    def admit(self, rows: list[Row], slots: list[int]) -> Float[Tensor, "N V"]:
        prompts = {row.prompt: row.context for row in rows}
        length = max(map(len, prompts.values()))
        ids = torch.zeros(len(prompts), length, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for place, context in enumerate(prompts.values()):  # padded on the left: every row continues in the same column
            ids[place, length - len(context) :] = torch.tensor(context)
            mask[place, length - len(context) :] = 1
        self._cache, self._mask = None, mask
        logits = self._forward(ids, (mask.cumsum(-1) - 1).clamp(min=0))
        order = list(prompts)
        places = torch.tensor([order.index(row.prompt) for row in rows])
        seated = torch.zeros(self._slots, dtype=torch.long)  # a slot that stays free continues the first prompt
        seated[slots] = places
        self._select(seated)
        return logits[places.to(logits.device)]

    def step(self, token_ids: Int[Tensor, " S"]) -> Float[Tensor, "S V"]:
        self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=1)
        return self._forward(token_ids[:, None], self._mask.sum(-1, keepdim=True) - 1)

    def release(self, slot: int) -> None:
        """Its keys stay until the others are moved together."""

    def compact(self, slots: list[int]) -> None:
        self._slots = len(slots)
        self._select(torch.tensor(slots))

    def _select(self, places: Int[Tensor, " M"]) -> None:
        self._cache.batch_select_indices(places.to(self._device))
        self._mask = self._mask[places]

    def _forward(self, token_ids: Int[Tensor, "N S"], positions: Int[Tensor, "N S"]) -> Float[Tensor, "N V"]:
        logits, self._cache = self._scorer.next_logits(
            token_ids.to(self._device), self._mask.to(self._device), positions.to(self._device), self._cache
        )
        return logits
