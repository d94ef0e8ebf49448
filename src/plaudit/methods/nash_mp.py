"""Nash-MP (Tiapkin et al., arXiv 2505.19731): mirror prox, two proximal half steps from one centre, by policy gradient."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from plaudit.feedback.records import Context
from plaudit.methods.entry import ANSWERS, Axes, Entry
from plaudit.methods.extragradient import Extragradient, ExtragradientConfig
from plaudit.methods.games import Board, Rules
from plaudit.objectives.preferences import nash_mp as nash_mp_objective
from plaudit.policies import CausalLM, Reference
from plaudit.rewards.contests import PreferenceOracle
from plaudit.training.config import check


@dataclass(frozen=True, kw_only=True)
class NashMPConfig(ExtragradientConfig):
    """Settings of Nash-MP.

    Attributes:
        outputs_per_context: samples whose mean is each other's baseline.
        steps_per_half: gradient steps towards each proximal point.
        eta: at most 2 for payoffs in [0, 1]; raising it loosens the tie to the centre.
    """

    outputs_per_context: int = 4
    steps_per_half: int = 2
    eta: float = 1.0

    def __post_init__(self) -> None:
        ExtragradientConfig.__post_init__(self)
        check(self, "eta", 0 < self.eta <= 2, "a number above 0 and at most 2: beyond, the steps need not contract")


def nash_mp(
    policy: CausalLM, reference: Reference, oracle: PreferenceOracle, contexts: Rows[Context], config: NashMPConfig
) -> Extragradient:
    """The method in the form of the theory: the centre is π_k itself.

    The authors' practical form, in which the centre is a moving average of the online policy, is not here.
    """

    def objective(board: Board) -> Float[Tensor, " B"]:
        return nash_mp_objective(
            board.log_prob, board.ref_log_prob, board.old_log_prob, board.win_rate, board.mask,
            beta=config.beta, eta=config.eta,
        )  # fmt: skip

    return Extragradient(policy, reference, oracle, contexts, Rules("nash-mp", "opponent", objective), config)


ENTRIES = (
    Entry(
        "nash-mp", f"{ANSWERS}, or an oracle compares two", "preference, cycles too", "yes", "on-policy",
        "samples, also of opponents; two copies of the adapters", "a last iterate that converges, by policy gradient",
        "Tiapkin et al., arXiv 2505.19731", Axes("pairs", "outcome", "policy gradient"),
    ),
)  # fmt: skip
