"""Two half steps from one centre: an extragradient around any objective of a game, in the common training loop.

An iteration is 2 n optimiser steps. The first n move the policy from the centre π_k to π_{k+1/2}, against π_k. Then the
weights of the centre are put back, and n steps, against π_{k+1/2}, move from π_k to π_{k+1}. The loop knows nothing of it:
weights are put back when the examples of a step are collected.

The optimiser does not go back. With SGD without momentum each half is a plain gradient step from the centre; AdamW's moments
go through both halves, so that the second is also pushed by the first's gradient, as if momentum were larger. Weights alone
decide what is sampled and where the gradient is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass, replace
from typing import Any

import torch

from plaudit.feedback.records import Context, Output
from plaudit.methods.games import Game, GameConfig, Opposed, Played, Rules, sampler
from plaudit.policies import CausalLM, Reference
from plaudit.policies.snapshots import Weights, as_text, being, from_text, put, weights_of
from plaudit.rewards.contests import PreferenceOracle
from plaudit.training import Step
from plaudit.training.config import check, whole


@dataclass(frozen=True, kw_only=True)
class ExtragradientConfig(GameConfig):
    """Settings of methods with two half steps.

    Attributes:
        steps_per_half: gradient steps of a half step.
    """

    steps_per_half: int = 1

    def __post_init__(self) -> None:
        GameConfig.__post_init__(self)
        check(self, "steps_per_half", whole(self.steps_per_half, 1), "a whole number >= 1")
        for name in ("updates_per_rollout", "epochs_per_rollout"):
            check(self, name, getattr(self, name) == 1, "1: every gradient step has fresh samples")

    @property
    def steps_per_rollout(self) -> int:
        """Optimiser steps of an asking: its contexts are seen in both halves."""
        return 2


class Extragradient(Game):
    """A game whose steps come in halves.

    The contexts and random numbers of a half's samples are those of the other half: with one step a half, and the same
    weights put back, both are the same outputs, judged against another opponent. The opponent's random numbers differ.
    """

    config: ExtragradientConfig

    def __init__(
        self,
        policy: CausalLM,
        reference: Reference,
        oracle: PreferenceOracle,
        contexts: Rows[Context],
        rules: Rules,
        config: ExtragradientConfig,
    ) -> None:
        super().__init__(policy, reference, oracle, contexts, rules, config)
        self._centre: Weights = {}
        self._opponent: Weights = {}

    def collect(self, step: Step) -> list[Played]:
        """The step's groups, judged against the half's opponent; at the beginning of a half the policy is the centre."""
        self._reference.forget()
        count = self.config.steps_per_half
        iteration, place = divmod(step.index, 2 * count)
        if place == 0:
            self._centre = self._opponent = weights_of(self.trainable)
        elif place == count:
            self._opponent = weights_of(self.trainable)
            put(self.trainable, self._centre)
        assert isinstance(self._asking, Opposed)
        self._asking.opponent = self._frozen
        played = self._played(self._asking.ask(replace(step, index=iteration * count + place % count), step))
        return self._with_centre(played) if place % count else played

    def state(self) -> Mapping[str, Any]:
        """The centre and the opponent, too."""
        copies = {"centre": self._centre, "opponent": self._opponent}
        return {**super().state(), **{name: as_text(copy) for name, copy in copies.items() if copy}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, also between two halves."""
        super().restore(state)
        self._centre, self._opponent = (
            from_text(state[name]) if name in state else {} for name in ("centre", "opponent")
        )

    def _frozen(self, contexts: Rows[Context], generator: torch.Generator) -> list[list[Output]]:
        with being(self.trainable, self._opponent):
            return sampler(self.trainable, self.config)(contexts, generator)

    def _with_centre(self, played: list[Played]) -> list[Played]:
        """The log-probabilities under the centre, which the samples of a later step of the half were not drawn from."""
        flat = [sequence for group in played for sequence in group.sequences]
        with being(self.trainable, self._centre):
            values = iter(self.trainable.sums_of_log_prob(flat, batch_size=self._reference.batch_size).tolist())
        return [replace(group, old=tuple(next(values) for _ in group.sequences)) for group in played]
