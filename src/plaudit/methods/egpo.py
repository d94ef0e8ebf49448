"""EGPO (Zhou et al., arXiv 2503.08942): an extragradient around an online IPO loss."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from plaudit.feedback.records import Context
from plaudit.methods.entry import ANSWERS, Axes, Entry
from plaudit.methods.extragradient import Extragradient, ExtragradientConfig
from plaudit.methods.games import Board, Rules, pair
from plaudit.objectives.preferences import egpo as egpo_objective
from plaudit.policies import CausalLM, Reference
from plaudit.rewards.contests import PreferenceOracle
from plaudit.training.config import check


@dataclass(frozen=True, kw_only=True)
class EGPOConfig(ExtragradientConfig):
    """Settings of EGPO: a half step is one gradient, taken at the centre.

    The pairs are samples of the centre, where the theory has a fixed sampler with full support. Squared log-ratios are large
    early, with targets of up to 1/beta: warm up, and clip gradients.
    """

    def __post_init__(self) -> None:
        ExtragradientConfig.__post_init__(self)
        check(self, "outputs_per_context", self.outputs_per_context == 2, "2: the loss is one of pairs")
        check(self, "steps_per_half", self.steps_per_half == 1, "1: both gradients are taken at the centre")


def egpo(
    policy: CausalLM, reference: Reference, oracle: PreferenceOracle, contexts: Rows[Context], config: EGPOConfig
) -> Extragradient:
    """The method. Log-ratios of both halves are evaluated at θ_t, as in the official tabular code."""

    def objective(board: Board) -> Float[Tensor, " B"]:
        return egpo_objective(*pair(board.log_ratio), *pair(board.win_rate), beta=config.beta)

    return Extragradient(policy, reference, oracle, contexts, Rules("egpo", "opponent", objective), config)


ENTRIES = (
    Entry(
        "egpo", f"{ANSWERS}, or an oracle compares two", "preference, cycles too", "yes", "on-policy",
        "samples, also of opponents; two copies of the adapters", "a last iterate that converges, by gradient steps only",
        "Zhou et al., arXiv 2503.08942", Axes("pairs", "outcome", "direct loss"),
    ),
)  # fmt: skip
