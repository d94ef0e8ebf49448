"""Sequences as a trunk takes them: packed, with every common beginning once, or padded where a model can do no better."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plaudit.policies.encoding import Sequence
from plaudit.policies.flex_attention import FlexPlan
from plaudit.policies.prefix_tree import PrefixTree
from plaudit.policies.tree_attention import Plan, plan_of


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """Sequences side by side, padded on the right, and where their output tokens are predicted.

    What a model is given whose attention cannot be told about trees.
    """

    input_ids: Int[Tensor, "N S"]
    attention_mask: Int[Tensor, "N S"]
    position_ids: Int[Tensor, "N S"]
    rows: Int[Tensor, " M"]
    columns: Int[Tensor, " M"]
    targets: Int[Tensor, " M"]
    mask: Bool[Tensor, "N T"]

    @classmethod
    def of(cls, sequences: Rows[Sequence], *, device: torch.device) -> PaddedBatch:
        """Pad N sequences. `rows` and `columns` list, output by output, the M positions that predict a masked-in token."""
        length = max((len(sequence) for sequence in sequences), default=0)
        steps = max((len(sequence.output) for sequence in sequences), default=0)
        input_ids = torch.zeros(len(sequences), length, dtype=torch.long)
        attention_mask = torch.zeros_like(input_ids)
        mask = torch.zeros(len(sequences), steps, dtype=torch.bool)
        for row, sequence in enumerate(sequences):
            input_ids[row, : len(sequence)] = torch.tensor(sequence.context + sequence.output, dtype=torch.long)
            attention_mask[row, : len(sequence)] = 1
            mask[row, : len(sequence.output)] = torch.tensor(sequence.mask, dtype=torch.bool)
        rows, steps_of = mask.nonzero(as_tuple=True)
        starts = torch.tensor([len(sequence.context) for sequence in sequences], dtype=torch.long)
        columns = starts[rows] + steps_of - 1
        targets = input_ids[rows, columns + 1]
        position_ids = torch.arange(length).expand(len(sequences), -1)
        return cls(
            *(part.to(device) for part in (input_ids, attention_mask, position_ids, rows, columns, targets, mask))
        )

    @property
    def inputs(self) -> dict[str, Any]:
        """The trunk's arguments."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
            "use_cache": False,
        }

    def predicting(self, hidden: Float[Tensor, "N S D"]) -> Float[Tensor, "M D"]:
        """The states that predict the targets."""
        return hidden[self.rows, self.columns]

    def final(self, hidden: Float[Tensor, "N S D"]) -> Float[Tensor, "N D"]:
        """The state at each sequence's last token."""
        last = self.attention_mask.sum(-1) - 1
        return hidden[torch.arange(len(last), device=hidden.device), last]


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Sequences as one row of tokens without padding; what several begin with stands, and is computed, once."""

    input_ids: Int[Tensor, "1 S"]
    position_ids: Int[Tensor, "1 S"]
    plan: Plan | FlexPlan
    places: Int[Tensor, " M"]
    targets: Int[Tensor, " M"]
    mask: Bool[Tensor, "N T"]
    last: Int[Tensor, " N"]

    @classmethod
    def of(cls, sequences: Rows[Sequence], *, device: torch.device, whole: bool = False) -> PackedBatch:
        """Pack N sequences. `places` lists, output by output, where the M masked-in tokens are predicted.

        Tokens after the last one that predicts something are left out, unless the `whole` sequence is asked for.
        """
        kept = [len(sequence) if whole else _predictors(sequence) for sequence in sequences]
        tree = PrefixTree.of(
            [(sequence.context + sequence.output)[:end] for sequence, end in zip(sequences, kept, strict=True)]
        )
        steps = max((len(sequence.output) for sequence in sequences), default=0)
        mask = torch.zeros(len(sequences), steps, dtype=torch.bool)
        places, targets = [torch.empty(0, dtype=torch.long)], [torch.empty(0, dtype=torch.long)]
        for row, (sequence, path) in enumerate(zip(sequences, tree.places, strict=True)):
            mask[row, : len(sequence.output)] = torch.tensor(sequence.mask, dtype=torch.bool)
            (counted,) = mask[row].nonzero(as_tuple=True)
            places.append(path[len(sequence.context) + counted - 1])
            targets.append(torch.tensor(sequence.output, dtype=torch.long)[counted])
        last = torch.tensor([int(path[-1]) for path in tree.places], dtype=torch.long)
        plan = plan_of(tree, device=device)
        ids, positions = tree.token_ids[None].to(device), tree.position_ids[None].to(device)
        rows = (part.to(device) for part in (torch.cat(places), torch.cat(targets), mask, last))
        return cls(ids, positions, plan, *rows)

    @property
    def inputs(self) -> dict[str, Any]:
        """The trunk's arguments; the attention mask is a stand-in, since the plan says who sees what."""
        stand_in = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.input_ids.device)
        return {
            "input_ids": self.input_ids,
            "attention_mask": stand_in,
            "position_ids": self.position_ids,
            "use_cache": False,
            "plan": self.plan,
        }

    def predicting(self, hidden: Float[Tensor, "1 S D"]) -> Float[Tensor, "M D"]:
        """The states that predict the targets."""
        return hidden[0, self.places]

    def final(self, hidden: Float[Tensor, "1 S D"]) -> Float[Tensor, "N D"]:
        """The state at each sequence's last token."""
        return hidden[0, self.last]


Batch = PaddedBatch | PackedBatch


def _predictors(sequence: Sequence) -> int:
    """Length of the part of a sequence that predicts its last masked-in token; the context alone where there is none."""
    after = max((step for step, counts in enumerate(sequence.mask) if counts), default=0)
    return len(sequence.context) + after
