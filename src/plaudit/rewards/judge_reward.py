"""A judge of pairs as a reward: an output's share of wins over the others of its group, or over a fixed one."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Rows
from itertools import combinations
from typing import Protocol, runtime_checkable

import torch

from plaudit.errors import RewardError
from plaudit.feedback.records import Comparison, Context, Output
from plaudit.rewards.base import Reward
from plaudit.rewards.judges import Judged

_WON: Mapping[str, float] = {"a": 1.0, "tie": 0.5, "b": 0.0}
Keep = Callable[[tuple[Comparison, ...]], object]


@runtime_checkable
class PairJudge(Protocol):
    """A judge that is asked about pairs in both orders, such as an `EndpointJudge`."""

    def compare(self, contexts: Rows[Context], a: Rows[Output], b: Rows[Output]) -> Judged:
        """What it says of each pair; a verdict that changes with the order is a tie."""


class GroupWinRate:
    """The share of the other outputs of its context that an output beats, each pair asked in both orders.

    ``R_i = mean_j w_ij`` with w 1, 1/2 or 0 for won, tied or lost, over the j of the group with which the pair (i, j) could be
    judged; where there is none, neither could i. K outputs take K (K - 1) / 2 pairs. The mean of a group is 1/2 where all pairs
    were judged: the reward ranks within a group, and says nothing of one group against another.

    Args:
        judge: what is asked.
        keep: is given what it said, as feedback records: such as a store's `add`.
    """

    def __init__(self, judge: PairJudge, *, keep: Keep | None = None) -> None:
        self._judge, self._keep = judge, keep

    def reward(self, contexts: Rows[Context], outputs: Rows[Output]) -> Reward:
        """Rewards of N outputs given their N contexts; those of equal contexts are a group."""
        groups: dict[str, list[int]] = defaultdict(list)
        for place, context in enumerate(contexts):
            groups[context.digest].append(place)
        pairs = [pair for group in groups.values() for pair in combinations(group, 2)]
        said = _asked(
            self._judge,
            [contexts[a] for a, _ in pairs],
            [outputs[a] for a, _ in pairs],
            [outputs[b] for _, b in pairs],
            self._keep,
        )
        won: list[list[float]] = [[] for _ in outputs]
        for (a, b), share in zip(pairs, said, strict=True):
            if share is not None:
                won[a].append(share)
                won[b].append(1 - share)
        alone = "there is no other output of its context to compare with"
        errors = tuple(
            f"{alone if len(groups[context.digest]) == 1 else 'The judge could compare it with none'}: {output.text[:80]!r}"
            for context, output, shares in zip(contexts, outputs, won, strict=True)
            if not shares
        )
        return _reward("win_rate", [sum(shares) / len(shares) if shares else None for shares in won], errors)


class BaselineWins:
    """1 where an output beats the baseline's of its context, 1/2 for a tie, 0 where it loses; each pair asked in both orders.

    Args:
        judge: what is asked.
        baselines: the output to beat, by the context's digest.
        keep: is given what it said, as feedback records: such as a store's `add`.
    """

    def __init__(self, judge: PairJudge, baselines: Mapping[str, Output], *, keep: Keep | None = None) -> None:
        self._judge, self._baselines, self._keep = judge, baselines, keep

    def reward(self, contexts: Rows[Context], outputs: Rows[Output]) -> Reward:
        """Rewards of N outputs given their N contexts.

        Raises:
            RewardError: a context has no baseline.
        """
        for context in contexts:
            if context.digest not in self._baselines:
                raise RewardError(
                    f"baselines: expected an output for every context, got none for {context.digest} ({context.text[:80]!r})"
                )
        said = _asked(
            self._judge, contexts, outputs, [self._baselines[context.digest] for context in contexts], self._keep
        )
        errors = tuple(
            f"The judge could not compare it with the baseline: {output.text[:80]!r}"
            for output, share in zip(outputs, said, strict=True)
            if share is None
        )
        return _reward("beats_baseline", said, errors)


def _asked(
    judge: PairJudge, contexts: Rows[Context], a: Rows[Output], b: Rows[Output], keep: Keep | None
) -> list[float | None]:
    """How far a won each pair; None where that could not be judged."""
    records = judge.compare(contexts, a, b).records if contexts else ()
    if len(records) != len(contexts):
        raise RewardError(f"judge: expected {len(contexts)} records, one a pair, got {len(records)}")
    if keep is not None and records:
        keep(records)
    return [_WON.get(record.choice) for record in records]


def _reward(name: str, shares: Rows[float | None], errors: tuple[str, ...]) -> Reward:
    value = torch.tensor([math.nan if share is None else share for share in shares], dtype=torch.float32)
    return Reward(value, ~value.isnan(), components={name: value}, errors=errors)
