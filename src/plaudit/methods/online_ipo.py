"""Online IPO (Calandriello et al., arXiv 2403.08635): IPO on two fresh samples, with the oracle's probability for a label."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from plaudit.feedback.records import Context
from plaudit.methods.entry import ANSWERS, Axes, Entry
from plaudit.methods.games import Board, Game, GameConfig, Rules, pair
from plaudit.objectives.preferences import online_ipo as online_ipo_objective
from plaudit.policies import CausalLM, Reference
from plaudit.rewards.contests import PreferenceOracle
from plaudit.training.config import check


@dataclass(frozen=True, kw_only=True)
class OnlineIPOConfig(GameConfig):
    """Settings of online IPO; two outputs of each context, compared with each other, and no opponent beside them."""

    def __post_init__(self) -> None:
        GameConfig.__post_init__(self)
        check(self, "outputs_per_context", self.outputs_per_context == 2, "2: a pair is compared")


def online_ipo(
    policy: CausalLM, reference: Reference, oracle: PreferenceOracle, contexts: Rows[Context], config: OnlineIPOConfig
) -> Game:
    """The method."""

    def objective(board: Board) -> Float[Tensor, " B"]:
        return online_ipo_objective(*pair(board.log_ratio), board.win_rate[:, 0], beta=config.beta)

    return Game(policy, reference, oracle, contexts, Rules("online-ipo", "each other", objective), config)


ENTRIES = (
    Entry(
        "online-ipo", f"{ANSWERS}, or an oracle compares two", "preference, cycles too", "yes", "on-policy",
        "samples; log-probabilities of the reference", "a judge that compares; probabilities, not only winners",
        "Calandriello et al., arXiv 2403.08635", Axes("pairs", "outcome", "direct loss"),
    ),
)  # fmt: skip
