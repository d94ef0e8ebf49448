"""SPPO (Wu et al., arXiv 2405.00675): self-play, each log-ratio to the last iteration is drawn to its own target."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from plaudit.feedback.records import Context
from plaudit.methods.entry import ANSWERS, Axes, Entry
from plaudit.methods.games import Board, Game, GameConfig, Rules, pair
from plaudit.objectives.preferences import sppo_hard
from plaudit.policies import CausalLM, Reference
from plaudit.rewards.contests import PreferenceOracle


@dataclass(frozen=True, kw_only=True)
class SPPOConfig(GameConfig):
    """Settings of SPPO. An asking is an iteration: its policy is π_t for all updates that are made with its outputs.

    Attributes:
        outputs_per_context: samples of which the best and the worst make the pair.
        updates_per_rollout: steps of one pass over an iteration's pairs.
        beta: the paper's 1/η, the pull to π_t; nothing pulls to the first policy.
    """

    contexts_per_rollout: int = 64
    outputs_per_context: int = 5
    updates_per_rollout: int = 8
    beta: float = 0.5


def sppo(
    policy: CausalLM, reference: Reference, oracle: PreferenceOracle, contexts: Rows[Context], config: SPPOConfig
) -> Game:
    """The method, with the hard wins 1 and 0 of the best and the worst, as TRL's ``sppo_hard``; the reference is only measured.

    Deviation: the authors choose the best and the worst by their mean win rate in the group; here a knock-out chooses them.
    """

    def objective(board: Board) -> Float[Tensor, " B"]:
        return sppo_hard(*pair(board.log_prob - board.old_log_prob), beta=config.beta)

    return Game(policy, reference, oracle, contexts, Rules("sppo", "tournament", objective), config)


ENTRIES = (
    Entry(
        "sppo", f"{ANSWERS}, or an oracle compares two", "preference, cycles too", "yes", "on-policy",
        "samples; log-probabilities of the reference", "as INPO, without a pull to the first policy",
        "Wu et al., arXiv 2405.00675", Axes("pairs", "outcome", "direct loss"),
    ),
)  # fmt: skip
