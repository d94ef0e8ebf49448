"""An oracle of pairs as a reward: how often an output beats an opponent's, or the others of its group, and knock-outs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from collections.abc import Sequence as Rows
from itertools import combinations
from typing import Protocol, runtime_checkable

import torch

from plaudit.errors import RewardError
from plaudit.feedback.records import Context, Output
from plaudit.rewards.base import Reward, RewardSource


@runtime_checkable
class PreferenceOracle(Protocol):
    """Anything that says which of two outputs is better: a `PreferenceModel`, a simulated annotator, a judge of win rates."""

    def prefer(self, contexts: Rows[Context], a: Rows[Output], b: Rows[Output]) -> Rows[float | None]:
        """For each context the probability in [0, 1] that a beats b, or a label 1, 1/2 or 0; None: could not judge."""


class RewardOracle:
    """Bradley and Terry's oracle of a reward, ``P(a > b) = σ(r_a - r_b)``; None where either could not be judged."""

    def __init__(self, reward: RewardSource) -> None:
        self._reward = reward

    def prefer(self, contexts: Rows[Context], a: Rows[Output], b: Rows[Output]) -> Rows[float | None]:
        """For each context the probability that a beats b."""
        found = self._reward.reward([*contexts, *contexts], [*a, *b])
        first, second = found.value.double().chunk(2)
        known = torch.stack(found.judged.chunk(2)).all(0).tolist()
        chance = torch.sigmoid(first - second).tolist()
        return [value if good else None for value, good in zip(chance, known, strict=True)]


def oracle_of(source: RewardSource | PreferenceOracle) -> PreferenceOracle:
    """The source itself where it compares, else Bradley and Terry's oracle of its rewards."""
    return source if isinstance(source, PreferenceOracle) else RewardOracle(source)


class GroupContest:
    """The mean chance of an output to beat the others of its context; K outputs take K (K - 1) / 2 questions.

    Of two it is ``P(a > b)``. Unlike `GroupWinRate` it keeps probabilities and asks in one order only.
    """

    def __init__(self, oracle: PreferenceOracle) -> None:
        self._oracle = oracle

    def reward(self, contexts: Rows[Context], outputs: Rows[Output]) -> Reward:
        """Win rates of N outputs given their N contexts; those of equal contexts are a group."""
        pairs = [pair for group in _groups(contexts) for pair in combinations(group, 2)]
        won: list[list[float]] = [[] for _ in outputs]
        for (a, b), chance in zip(pairs, _asked(self._oracle, contexts, outputs, pairs), strict=True):
            if chance is not None:
                won[a].append(chance)
                won[b].append(1 - chance)
        return _reward(won)


class OpponentContest:
    """The mean chance of an output to beat outputs of an opponent, which are given beforehand."""

    def __init__(self, oracle: PreferenceOracle) -> None:
        self._oracle = oracle
        self.opponents: Mapping[str, Rows[Output]] = {}

    def reward(self, contexts: Rows[Context], outputs: Rows[Output]) -> Reward:
        """Win rates of N outputs given their N contexts against all that the opponent said to the same context.

        Raises:
            RewardError: the opponent has said nothing to a context.
        """
        asked: list[tuple[int, Output]] = []
        for place, context in enumerate(contexts):
            if not self.opponents.get(context.digest):
                raise RewardError(
                    f"opponents: expected outputs for every context, got none for {context.digest} ({context.text[:80]!r})"
                )
            asked.extend((place, other) for other in self.opponents[context.digest])
        said = self._oracle.prefer(
            [contexts[place] for place, _ in asked],
            [outputs[place] for place, _ in asked],
            [other for _, other in asked],
        )
        won: list[list[float]] = [[] for _ in outputs]
        for (place, _), chance in zip(asked, _checked(said, len(asked)), strict=True):
            if chance is not None:
                won[place].append(chance)
        return _reward(won)


class Tournament:
    """A knock-out among the outputs of a context: 1 for who wins it, 0 for who loses it, 1/2 for all others.

    Neighbours in the order of sampling meet, which is a random draw, since samples of one policy are exchangeable; an odd one
    out goes on without a match. Winners meet winners until one is left; the losers of the first round meet likewise, and who
    loses again goes on, until the worst is left. K outputs take at most ``3 K / 2 - 2`` questions (INPO: K = 8). Where the
    oracle cannot tell, or calls it even, who was sampled first goes on.
    """

    def __init__(self, oracle: PreferenceOracle) -> None:
        self._oracle = oracle

    def reward(self, contexts: Rows[Context], outputs: Rows[Output]) -> Reward:
        """Scores of N outputs given their N contexts."""
        groups = _groups(contexts)
        value = torch.full((len(outputs),), 0.5)
        winners, losers = self._round(contexts, outputs, groups)
        for best in self._last(contexts, outputs, winners, winner=True):
            value[best] = 1.0
        for worst in self._last(contexts, outputs, losers, winner=False):
            value[worst] = 0.0
        return Reward(value, torch.ones(len(outputs), dtype=torch.bool), components={"tournament": value})

    def _last(
        self, contexts: Rows[Context], outputs: Rows[Output], fields: list[list[int]], *, winner: bool
    ) -> list[int]:
        """The last of each field in which somebody is left; all fields play a round together."""
        while any(len(field) > 1 for field in fields):
            won, lost = self._round(contexts, outputs, fields)
            if winner:
                fields = won
            else:  # the odd one out has no match to lose, and goes on
                fields = [
                    [*out, *field[len(field) - len(field) % 2 :]] for out, field in zip(lost, fields, strict=True)
                ]
        return [field[0] for field in fields if field]

    def _round(
        self, contexts: Rows[Context], outputs: Rows[Output], fields: list[list[int]]
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Who won and who lost in each field; the odd one out stands among the winners."""
        matches = [[(field[i], field[i + 1]) for i in range(0, len(field) - 1, 2)] for field in fields]
        flat = [match for own in matches for match in own]
        said = iter(_asked(self._oracle, contexts, outputs, flat))
        won, lost = list[list[int]](), list[list[int]]()
        for field, own in zip(fields, matches, strict=True):
            ahead, behind = list[int](), list[int]()
            for first, second in own:
                chance = next(said)
                first_wins = chance is None or chance >= 0.5
                ahead.append(first if first_wins else second)
                behind.append(second if first_wins else first)
            won.append([*ahead, *field[2 * len(own) :]])
            lost.append(behind)
        return won, lost


def _groups(contexts: Rows[Context]) -> list[list[int]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for place, context in enumerate(contexts):
        groups[context.digest].append(place)
    return list(groups.values())


def _asked(
    oracle: PreferenceOracle, contexts: Rows[Context], outputs: Rows[Output], pairs: Rows[tuple[int, int]]
) -> Rows[float | None]:
    if not pairs:
        return []
    said = oracle.prefer(
        [contexts[a] for a, _ in pairs], [outputs[a] for a, _ in pairs], [outputs[b] for _, b in pairs]
    )
    return _checked(said, len(pairs))


def _checked(said: Rows[float | None], count: int) -> Rows[float | None]:
    if len(said) != count:
        raise RewardError(f"oracle: expected {count} preferences, one a pair, got {len(said)}")
    for place, chance in enumerate(said):
        if chance is not None and not 0 <= chance <= 1:
            raise RewardError(f"oracle: expected probabilities in [0, 1] or None, got {chance} at place {place}")
    return said


def _reward(won: Rows[Rows[float]]) -> Reward:
    value = torch.tensor([sum(row) / len(row) if row else math.nan for row in won], dtype=torch.float32)
    errors = tuple("the oracle could compare it with none" for row in won if not row)
    return Reward(value, ~value.isnan(), components={"win_rate": value}, errors=errors)
