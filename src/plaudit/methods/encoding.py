"""Views of feedback as token ids, ready for a method; what a tokenizer makes indistinguishable is left out and counted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from statistics import fmean

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.errors import ConfigError
from plaudit.feedback.examples import Demonstrated, Labelled, Pair, RankedList
from plaudit.policies.encoding import Encoder, Sequence


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """A preference between two outputs of one context, as token ids."""

    chosen: Sequence
    rejected: Sequence
    tie: bool = False
    margin: float | None = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class EncodedLabel:
    """An output that was called good or bad, as token ids; `baseline` is what KTO holds its log-ratio against."""

    sequence: Sequence
    desirable: bool
    baseline: float = 0.0


@dataclass(frozen=True, slots=True)
class EncodedList:
    """Outputs of one context as token ids, with a label each; up is better, equal labels are ties.

    Raises:
        ConfigError: fewer than two outputs, not a finite label for each, labels that are all equal, or several contexts.
    """

    outputs: tuple[Sequence, ...]
    labels: tuple[float, ...]
    source: str = ""

    def __post_init__(self) -> None:
        if len(self.outputs) < 2:
            raise ConfigError(f"outputs: expected a list of at least two to rank, got {len(self.outputs)}")
        if len(self.labels) != len(self.outputs):
            raise ConfigError(f"labels: expected one for each of {len(self.outputs)} outputs, got {len(self.labels)}")
        odd = [label for label in self.labels if not math.isfinite(label)]
        if odd:
            raise ConfigError(f"labels: expected finite numbers, got {odd[0]}")
        if len(set(self.labels)) == 1:
            raise ConfigError(
                f"labels: expected at least two that differ, got {len(self.labels)} times {self.labels[0]:g}"
            )
        if len({output.context for output in self.outputs}) > 1:
            raise ConfigError("outputs: expected outputs of one context, got several contexts")


def encode_pairs(pairs: Rows[Pair], encoder: Encoder) -> tuple[list[EncodedPair], Counter[str]]:
    """Pairs as token ids, and how many were left out by reason."""
    encoded, dropped = [], Counter[str]()
    for pair in pairs:
        before = encoder.truncated
        chosen = encoder.sequence(pair.context, pair.chosen)
        rejected = encoder.sequence(pair.context, pair.rejected)
        if chosen.output == rejected.output:
            dropped["equal after tokenisation and truncation"] += 1
        elif not (any(chosen.mask) and any(rejected.mask)):
            dropped["an output without tokens of the model"] += 1
        else:
            encoded.append(EncodedPair(chosen, rejected, pair.tie, pair.margin, pair.source))
            if encoder.truncated > before:
                dropped["(kept, but truncated)"] += 1
    return encoded, dropped


def encode_lists(lists: Rows[RankedList], encoder: Encoder) -> tuple[list[EncodedList], Counter[str]]:
    """Ranked lists as token ids with labels in [0, 1], and how many were left out by reason.

    Gains above 1 are places in a ranking; divided by the list's largest one they are the share of the tiers that lie below.
    Outputs that are equal to the model count once, with the mean of their labels.
    """
    encoded, dropped = [], Counter[str]()
    for ranked in lists:
        before = encoder.truncated
        scale = max(1.0, *ranked.gains)
        labels: dict[Sequence, list[float]] = {}
        for output, gain in zip(ranked.outputs, ranked.gains, strict=True):
            sequence = encoder.sequence(ranked.context, output)
            if any(sequence.mask):
                labels.setdefault(sequence, []).append(gain / scale)
            else:
                dropped["an output without tokens of the model"] += 1
        means = {sequence: fmean(values) for sequence, values in labels.items()}
        dropped["equal after tokenisation and truncation"] += sum(map(len, labels.values())) - len(means)
        if len(means) < 2:
            dropped["a list of fewer than two outputs"] += 1
        elif len(set(means.values())) == 1:
            dropped["a list whose labels are all equal"] += 1
        else:
            encoded.append(EncodedList(tuple(means), tuple(means.values()), ranked.source))
            dropped["(kept, but truncated)"] += encoder.truncated > before
    return encoded, +dropped


def encode_demonstrations(demonstrations: Rows[Demonstrated], encoder: Encoder) -> tuple[list[Sequence], Counter[str]]:
    """Demonstrations as token ids, and how many were left out by reason."""
    dropped = Counter[str]()
    found = (_single(example, encoder, dropped) for example in demonstrations)
    return [sequence for sequence in found if sequence is not None], dropped


def encode_labelled(labelled: Rows[Labelled], encoder: Encoder) -> tuple[list[EncodedLabel], Counter[str]]:
    """Labelled outputs as token ids, and how many were left out by reason."""
    dropped = Counter[str]()
    found = ((_single(example, encoder, dropped), example.desirable) for example in labelled)
    return [EncodedLabel(sequence, desirable) for sequence, desirable in found if sequence is not None], dropped


def _single(example: Demonstrated | Labelled, encoder: Encoder, dropped: Counter[str]) -> Sequence | None:
    before = encoder.truncated
    sequence = encoder.sequence(example.context, example.output)
    if not any(sequence.mask):
        dropped["an output without tokens of the model"] += 1
        return None
    if encoder.truncated > before:
        dropped["(kept, but truncated)"] += 1
    return sequence


def padded(values: Float[Tensor, " N"], lengths: Rows[int]) -> tuple[Float[Tensor, "B K"], Bool[Tensor, "B K"]]:
    """Values of lists one after another as rows with zeros at their ends, and where the values are."""
    rows = torch.nn.utils.rnn.pad_sequence(list(torch.split(values, list(lengths))), batch_first=True)
    places = torch.arange(rows.shape[1], device=values.device)
    return rows, places < torch.tensor(list(lengths), device=values.device)[:, None]
