"""A judge of two outputs as a reward: how often an output beats the others of its context."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from itertools import permutations
from typing import Protocol, runtime_checkable

import torch

from plaudit.feedback.records import Context, Output
from plaudit.rewards.base import Reward


@runtime_checkable
class Preference(Protocol):
    """Anything that compares two outputs: a judge model, a preference model, a person's stand-in."""

    def prefer(self, contexts: Rows[Context], a: Rows[Output], b: Rows[Output]) -> Rows[float | None]:
        """The probability that a is better than b, for each context; None where it could not judge."""


class WinRate:
    """The mean probability of beating another output of the same context, asked in both orders.

    An output of which no comparison was judged could not be judged. The reward of two outputs is p and 1 - p.

    Args:
        preference: what compares.
    """

    def __init__(self, preference: Preference) -> None:
        self._preference = preference

    def reward(self, contexts: Rows[Context], outputs: Rows[Output]) -> Reward:
        """Rewards of N outputs given their N contexts; those of one context are compared with each other."""
        groups: dict[str, list[int]] = {}
        for place, context in enumerate(contexts):
            groups.setdefault(context.digest, []).append(place)
        duels = [duel for places in groups.values() for duel in permutations(places, 2)]
        first, second = [outputs[one] for one, _ in duels], [outputs[other] for _, other in duels]
        said = self._preference.prefer([contexts[one] for one, _ in duels], first, second) if duels else []
        won, fought = torch.zeros(len(outputs)), torch.zeros(len(outputs))
        for (one, other), probability in zip(duels, said, strict=True):
            if probability is not None:
                won[one] += probability
                won[other] += 1 - probability
                fought[one] += 1
                fought[other] += 1
        value = won / fought
        return Reward(value, fought > 0, components={"win_rate": value})
