"""Sequences as a tree: what several of them begin with stands once, so that it is computed once.

A prompt with G outputs is a tree of one segment with G branches; outputs that share their own first part branch later. The
tree is packed into one row of tokens, depth first: the descendants of a segment directly follow it. Nothing is padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

FEWEST_SHARED = 4  # a shorter common part costs less when it is computed twice than as a segment of its own


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens ``start`` to ``end`` of the pack, a causal run that its ``start_position`` places in the unpacked sequence.

    The tokens from ``end`` to ``last`` are those of its descendants, which see all of it.
    """

    start: int
    end: int
    last: int
    start_position: int


@dataclass(frozen=True, slots=True)
class PrefixTree:
    """A pack of S tokens that stands for sequences of more tokens.

    Attributes:
        token_ids: the pack.
        position_ids: where each token stands in its unpacked sequence.
        segments: depth first.
        places: for each sequence of L tokens, where in the pack they are, [L].
    """

    token_ids: Int[Tensor, " S"]
    position_ids: Int[Tensor, " S"]
    segments: tuple[Segment, ...]
    places: tuple[Tensor, ...]

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]]) -> PrefixTree:
        """Pack sequences of token ids; equal ones take no further room."""
        builder = _Builder(sequences)
        builder.build()
        return cls(
            torch.tensor(builder.token_ids, dtype=torch.long),
            torch.tensor(builder.position_ids, dtype=torch.long),
            tuple(builder.segments),
            tuple(torch.tensor(places, dtype=torch.long) for places in builder.places),
        )

    def __len__(self) -> int:
        return len(self.token_ids)


class _Builder:
    """Builds a tree from sorted sequences: those that share a beginning stand side by side."""

    def __init__(self, sequences: Sequence[Sequence[int]]) -> None:
        self.sequences = sequences
        self.order = sorted(range(len(sequences)), key=lambda index: tuple(sequences[index]))
        self.shared = [
            _common(sequences[first], sequences[second])
            for first, second in zip(self.order, self.order[1:], strict=False)
        ]
        self.token_ids: list[int] = []
        self.position_ids: list[int] = []
        self.segments: list[Segment] = []
        self.places: list[list[int]] = [[] for _ in sequences]

    def build(self) -> None:
        self._branches(0, len(self.order), 0)

    def _branches(self, first: int, last: int, depth: int) -> None:
        """Lay out the sequences ``order[first:last]``, which agree in their first `depth` tokens, from there on."""
        start = first
        for index in range(first, last):
            if index + 1 == last or self.shared[index] < depth + FEWEST_SHARED:
                self._branch(start, index + 1, depth)
                start = index + 1

    def _branch(self, first: int, last: int, depth: int) -> None:
        until = min([len(self.sequences[self.order[first]]), *self.shared[first : last - 1]])
        if until == depth:
            return
        start = len(self.token_ids)
        end = start + until - depth
        number = len(self.segments)
        self.segments.append(Segment(start, end, end, depth))
        self.token_ids.extend(self.sequences[self.order[first]][depth:until])
        self.position_ids.extend(range(depth, until))
        for index in range(first, last):
            self.places[self.order[index]].extend(range(start, end))
        self._branches(first, last, until)
        self.segments[number] = Segment(start, end, len(self.token_ids), depth)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences agree in from the beginning."""
    for index, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return index
    return min(len(a), len(b))
