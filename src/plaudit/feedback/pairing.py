"""Pairs of a chosen and a rejected output, from what one source said about the outputs of one context."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import Literal

from plaudit.errors import ConfigError
from plaudit.feedback.examples import Pair
from plaudit.feedback.grading import GradedOutputs
from plaudit.feedback.records import Comparison, Context, Edit, Output

Ties = Literal["drop", "keep"]


def check_settings(ties: str, rating_margin: float, max_pairs_per_ranking: int | None) -> None:
    """Refuse settings of the view of pairs that are out of range.

    Raises:
        ConfigError: one of them is.
    """
    if ties not in {"drop", "keep"}:
        raise ConfigError(f"ties: expected 'drop' or 'keep', got {ties!r}")
    if not 0.0 <= rating_margin < 1.0:
        raise ConfigError(f"rating_margin: expected a number from 0 to less than 1, got {rating_margin}")
    if max_pairs_per_ranking is not None and max_pairs_per_ranking < 1:
        raise ConfigError(f"max_pairs_per_ranking: expected 1 or more, or None for all, got {max_pairs_per_ranking}")


def pairs_of_comparison(record: Comparison, ties: Ties, dropped: Counter[str]) -> list[Pair]:
    """The comparison's pair with its strength as the margin; none where nothing was preferred."""
    a, b = record.outputs
    if a.content == b.content:
        dropped["identical outputs"] += 1
        return []
    match record.choice:
        case "cannot_judge":
            dropped["cannot_judge"] += 1
            return []
        case "tie" if ties == "drop":
            dropped["tie"] += 1
            return []
        case "tie":
            return [_tied(record.context, a, b, record.source.name, (record.id,))]
        case "a":
            chosen, rejected = a, b
        case "b":
            chosen, rejected = b, a
    return [Pair(record.context, chosen, rejected, record.source.name, (record.id,), record.strength)]


def pairs_of_edit(record: Edit, dropped: Counter[str]) -> list[Pair]:
    """The edited output, preferred to the one it was made from."""
    if record.edited == record.outputs[0].content:
        dropped["identical outputs"] += 1
        return []
    return [Pair(record.context, edited_output(record), record.outputs[0], record.source.name, (record.id,))]


def edited_output(record: Edit) -> Output:
    """What the source made of the output; nobody but the source produced it."""
    return Output(content=record.edited)


def pairs_of_graded(
    group: GradedOutputs,
    dropped: Counter[str],
    *,
    ties: Ties | None,
    indifference: float = 0.0,
    margin_unit: float | None = None,
) -> list[Pair]:
    """Every pair of the group's outputs with a difference in grade of more than `indifference`.

    The margin is the difference over `margin_unit`. Smaller differences are ties, unless `ties` is None: then nobody
    has called them equal.
    """
    found = []
    for x, y in combinations(group.graded, 2):
        better, worse = (x, y) if x.grade >= y.grade else (y, x)
        difference = better.grade - worse.grade
        record_ids = tuple(dict.fromkeys((*better.record_ids, *worse.record_ids)))
        if x.output.content == y.output.content:
            dropped["identical outputs"] += 1
        elif difference > indifference:
            margin = difference / margin_unit if margin_unit else None
            found.append(Pair(group.context, better.output, worse.output, group.source, record_ids, margin))
        elif ties == "keep":
            found.append(_tied(group.context, x.output, y.output, group.source, tuple(sorted(record_ids))))
        elif ties == "drop":
            dropped["tie"] += 1
    dropped["no partner"] += len(set(group.record_ids).difference(*(pair.record_ids for pair in found)))
    return found


def _tied(context: Context, x: Output, y: Output, source: str, record_ids: tuple[str, ...]) -> Pair:
    """A tie, with the outputs in the order of their addresses, so that exchanging them gives the same pair."""
    first, second = sorted((x, y), key=lambda output: output.digest)
    return Pair(context, first, second, source, record_ids, tie=True)


def spread(found: list[Pair], limit: int | None, dropped: Counter[str]) -> list[Pair]:
    """At most `limit` pairs, evenly from the largest margin to the smallest."""
    if limit is None or len(found) <= limit:
        return found
    dropped["over max_pairs_per_ranking"] += len(found) - limit
    ordered = sorted(found, key=lambda pair: (-(pair.margin or 0.0), pair.chosen.digest, pair.rejected.digest))
    return [ordered[number * len(ordered) // limit] for number in range(limit)]
