"""Views of feedback as token ids, ready for a method; what a tokenizer makes indistinguishable is left out and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as Rows
from dataclasses import dataclass

from plaudit.feedback.examples import Demonstrated, Labelled, Pair
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
