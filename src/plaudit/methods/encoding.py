"""Views of feedback as token ids, ready for a method; what a tokenizer makes indistinguishable is left out and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as Rows
from dataclasses import dataclass

from plaudit.feedback.examples import Demonstrated, Pair
from plaudit.policies.encoding import Encoder, Sequence


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """A preference between two outputs of one context, as token ids."""

    chosen: Sequence
    rejected: Sequence
    tie: bool = False
    margin: float | None = None
    source: str = ""


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
    encoded, dropped = [], Counter[str]()
    for example in demonstrations:
        before = encoder.truncated
        sequence = encoder.sequence(example.context, example.output)
        if any(sequence.mask):
            encoded.append(sequence)
            if encoder.truncated > before:
                dropped["(kept, but truncated)"] += 1
        else:
            dropped["an output without tokens of the model"] += 1
    return encoded, dropped
