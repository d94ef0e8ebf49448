"""How the examples of a step are cut into micro-batches for every process: by number, or to a budget of distinct tokens.

Every process gets equally many micro-batches, since their gradients are synchronised at the last one. Where the examples do
not give that many, one is repeated and does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plaudit.policies import Sequence as TokenSequence

Pieces = dict[tuple[tuple[int, ...], tuple[int, ...] | None], int]


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Examples by index, and which of them count."""

    indices: tuple[int, ...]
    counts: tuple[bool, ...]


def by_size(examples: int, size: int, *, processes: int) -> list[list[MicroBatch]]:
    """The micro-batches of each process, of at most `size` examples, in the order of the examples."""
    share, last = -(-examples // processes), examples - 1

    def micro_batch(positions: range) -> MicroBatch:
        return MicroBatch(tuple(min(place, last) for place in positions), tuple(place <= last for place in positions))

    shares = [range(process * share, (process + 1) * share) for process in range(processes)]
    return [[micro_batch(own[start : start + size]) for start in range(0, share, size)] for own in shares]


def by_tokens(examples: Sequence[Sequence[TokenSequence]], budget: int, *, processes: int) -> list[list[MicroBatch]]:
    """The micro-batches of each process, of at most `budget` distinct tokens; an example that alone has more goes alone.

    Equal contexts stand side by side before the cut. The tokens of a micro-batch are those of its different contexts and of
    their different outputs: what a packed pass computes, but for outputs that begin alike, which share more.

    Args:
        examples: the token sequences that each example is made of.
        budget: tokens.
        processes: how many share the step.
    """
    pieces = [_pieces(sequences) for sequences in examples]
    order = sorted(range(len(examples)), key=lambda index: [sequence.context for sequence in examples[index]])
    batches: list[list[int]] = []
    held: Pieces = {}
    for index in order:
        together = held | pieces[index]
        if batches and sum(together.values()) <= budget:
            batches[-1].append(index)
            held = together
        else:
            batches.append([index])
            held = pieces[index]

    def tokens(batch: list[int]) -> int:
        union: Pieces = {}
        for index in batch:
            union |= pieces[index]
        return sum(union.values())

    while len(batches) % processes and (several := [batch for batch in batches if len(batch) > 1]):
        place = batches.index(max(several, key=tokens))
        middle = len(batches[place]) // 2
        batches[place : place + 1] = [batches[place][:middle], batches[place][middle:]]
    cut = [MicroBatch(tuple(batch), (True,) * len(batch)) for batch in batches]
    if missing := -len(cut) % processes:
        cheapest = min(range(len(examples)), key=lambda index: sum(pieces[index].values()))
        cut += [MicroBatch((cheapest,), (False,))] * missing
    return [cut[process::processes] for process in range(processes)]


def _pieces(sequences: Sequence[TokenSequence]) -> Pieces:
    """Lengths of the different contexts and of their different outputs."""
    outputs: Pieces = {(sequence.context, sequence.output): len(sequence.output) for sequence in sequences}
    return outputs | {(sequence.context, None): len(sequence.context) for sequence in sequences}
