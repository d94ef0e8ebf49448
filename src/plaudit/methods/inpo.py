"""INPO (Zhang et al., arXiv 2407.00617): mirror descent against oneself, by a squared loss on pairs."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from plaudit.feedback.records import Context
from plaudit.methods.entry import ANSWERS, Axes, Entry
from plaudit.methods.games import Board, Game, GameConfig, Rules, pair
from plaudit.objectives.preferences import inpo as inpo_objective
from plaudit.policies import CausalLM, Reference
from plaudit.rewards.contests import PreferenceOracle
from plaudit.training.config import check


@dataclass(frozen=True, kw_only=True)
class INPOConfig(GameConfig):
    """Settings of INPO. An asking is an iteration: its policy is π_t for all updates that are made with its outputs.

    Attributes:
        outputs_per_context: K of the knock-out, whose best and worst make the pair; 8 is the paper's. Their win rates lie
            farther apart than those of two samples, which the loss's theory asks for: with K = 2 it is exact.
        updates_per_rollout: steps of one pass over an iteration's pairs.
        beta: τ, on the scale of sums over tokens.
        eta: η >= τ, the pull to π_t; the spec's τ/η is about 1/3.
    """

    contexts_per_rollout: int = 64
    outputs_per_context: int = 8
    updates_per_rollout: int = 8
    beta: float = 0.1
    eta: float = 0.3

    def __post_init__(self) -> None:
        GameConfig.__post_init__(self)
        check(self, "eta", self.beta <= self.eta < float("inf"), f"a number >= beta, {self.beta:g}")


def inpo(
    policy: CausalLM, reference: Reference, oracle: PreferenceOracle, contexts: Rows[Context], config: INPOConfig
) -> Game:
    """The method. ``log π_t`` is that under which each output was drawn, stored when it was sampled."""

    def objective(board: Board) -> Float[Tensor, " B"]:
        sides = (side for values in (board.log_prob, board.ref_log_prob, board.old_log_prob) for side in pair(values))
        return inpo_objective(*sides, beta=config.beta, eta=config.eta)

    return Game(policy, reference, oracle, contexts, Rules("inpo", "tournament", objective), config)


ENTRIES = (
    Entry(
        "inpo", f"{ANSWERS}, or an oracle compares two", "preference, cycles too", "yes", "on-policy",
        "samples; log-probabilities of the reference", "preferences that no reward explains; a simple loss on pairs",
        "Zhang et al., arXiv 2407.00617", Axes("pairs", "outcome", "direct loss"),
    ),
)  # fmt: skip
