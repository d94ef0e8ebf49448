"""Nash-MD and Nash-EMA (Munos et al., arXiv 2312.00886): policy gradient against a mixture, or a slow self."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from plaudit.feedback.records import Context, Output
from plaudit.methods.entry import ANSWERS, Axes, Entry
from plaudit.methods.games import Board, Game, GameConfig, Opposed, Played, Rules, sampler
from plaudit.objectives.preferences import nash_md as nash_md_objective
from plaudit.policies import CausalLM, Reference
from plaudit.policies.mixtures import GeometricMixture
from plaudit.policies.snapshots import Weights, as_text, averaged, being, from_text, weights_of
from plaudit.rewards.contests import PreferenceOracle
from plaudit.training import Step
from plaudit.training.config import check


@dataclass(frozen=True, kw_only=True)
class NashMDConfig(GameConfig):
    """Settings of Nash-MD.

    Attributes:
        opponent: the geometric mixture of policy and reference (Nash-MD), or a moving average of weights (Nash-EMA).
        mixture: the reference's share of the mixture, at each token; 0 is self-play, 1 plays against the reference.
        decay: how much of the average stays at each asking.
    """

    opponent: Literal["mixture", "average"] = "mixture"
    mixture: float = 0.25
    decay: float = 0.95

    def __post_init__(self) -> None:
        GameConfig.__post_init__(self)
        check(self, "opponent", self.opponent in {"mixture", "average"}, "mixture or average")
        check(self, "mixture", 0 <= self.mixture <= 1, "a number from 0 to 1")
        check(self, "decay", 0 <= self.decay < 1, "a number from 0 to below 1")
        check(
            self,
            "epochs_per_rollout",
            self.steps_per_rollout == 1,
            "1, as updates_per_rollout: it learns from fresh samples",
        )


class NashMD(Game):
    """The method: every sample wins or loses against the opponent's, and is pulled to the reference."""

    config: NashMDConfig

    def __init__(
        self,
        policy: CausalLM,
        reference: Reference,
        oracle: PreferenceOracle,
        contexts: Rows[Context],
        config: NashMDConfig,
    ) -> None:
        super().__init__(policy, reference, oracle, contexts, Rules("nash-md", "opponent", _objective(config)), config)
        self._average: Weights | None = None

    def collect(self, step: Step) -> list[Played]:
        """The step's groups; the average moves first, where it is the opponent."""
        self._reference.forget()
        assert isinstance(self._asking, Opposed)
        self._asking.opponent = self._mixture() if self.config.opponent == "mixture" else self._slow()
        return self._played(self._asking.ask(step, step))

    def state(self) -> Mapping[str, Any]:
        """The average, too, where it is the opponent."""
        average = {} if self._average is None else {"average": as_text(self._average)}
        return {**super().state(), **average}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        super().restore(state)
        self._average = from_text(state["average"]) if "average" in state else None

    def _mixture(self) -> Callable[[Rows[Context], torch.Generator], list[list[Output]]]:
        mixed = GeometricMixture(self.trainable, self.config.mixture)
        return sampler(self.trainable, self.config, processors=(mixed,) if self.config.mixture else ())

    def _slow(self) -> Callable[[Rows[Context], torch.Generator], list[list[Output]]]:
        recent = weights_of(self.trainable)
        old = recent if self._average is None else self._average
        average = self._average = averaged(old, recent, decay=self.config.decay)

        def outputs(contexts: Rows[Context], generator: torch.Generator) -> list[list[Output]]:
            with being(self.trainable, average):
                return sampler(self.trainable, self.config)(contexts, generator)

        return outputs


def _objective(config: NashMDConfig) -> Callable[[Board], Float[Tensor, " B"]]:
    def objective(board: Board) -> Float[Tensor, " B"]:
        """The mean over a group's outputs; with summed log-probabilities an output is one token of the objective."""
        value = nash_md_objective(
            board.log_prob.reshape(-1, 1), board.ref_log_prob.reshape(-1, 1), board.win_rate.reshape(-1),
            board.mask.reshape(-1, 1), beta=config.beta,
        )  # fmt: skip
        return value.reshape(board.mask.shape).sum(-1) / board.mask.sum(-1)

    return objective


ENTRIES = (
    Entry(
        "nash-md", f"{ANSWERS}, or an oracle compares two", "preference, cycles too", "yes", "on-policy",
        "samples, also of the mixture; with an average a copy of the adapters", "a policy gradient, cycles, short outputs",
        "Munos et al., arXiv 2312.00886", Axes("pairs", "outcome", "policy gradient"),
    ),
)  # fmt: skip
