"""Objectives that fit a reward to preferences."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from plaudit.objectives.arguments import check_positive
from plaudit.objectives.catalogue import objective


@objective(
    paper="Bradley and Terry 1952; Stiennon et al. 2020, arXiv 2009.01325",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=False,
)
def bradley_terry(
    reward_chosen: Float[Tensor, " B"],
    reward_rejected: Float[Tensor, " B"],
    *,
    margin: Float[Tensor, " B"] | None = None,
) -> Float[Tensor, " B"]:
    r"""Negative log-likelihood of a preference under Bradley and Terry: ``L = -log σ(r_w - r_l - m)``.

    Args:
        reward_chosen: reward ``r_w`` of the preferred output.
        reward_rejected: reward ``r_l`` of the other output.
        margin: ``m >= 0``, by how much the preferred output should at least be ahead; None is 0. Raising it asks for a
            larger gap where people were clear.

    Returns:
        The loss of each pair, >= 0.

    Reference:
        Bradley and Terry, Biometrika 39 (1952); Stiennon et al., arXiv 2009.01325, section 3.4, equation 1. The margin is
        Llama 2's, arXiv 2307.09288, equation 2; TRL's RewardTrainer reads it from a column ``margin``.

    Example:
        Rewards 2 and 1 give ``log(1 + e^-1) = 0.3133``; with margin 1, ``log 2``.
    """
    difference = reward_chosen - reward_rejected
    return -logsigmoid(difference if margin is None else difference - margin)


@objective(
    paper="Rao and Kupper 1967",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=False,
)
def rao_kupper(
    reward_a: Float[Tensor, " B"],
    reward_b: Float[Tensor, " B"],
    tie: Bool[Tensor, " B"],
    *,
    tie_width: float,
    margin: Float[Tensor, " B"] | None = None,
) -> Float[Tensor, " B"]:
    r"""Bradley-Terry with ties: negative log-likelihood of "a is better" or of "a tie" under Rao and Kupper.

    With ``d = r_a - r_b`` and the tie width ``α > 0`` (the paper's ``log θ``)::

        P(a better) = σ(d - α)      P(b better) = σ(-d - α)
        P(tie)      = (e^{2α} - 1) σ(d - α) σ(-d - α)

    The three add up to 1, and α → 0 without ties is `bradley_terry`. A tie pulls the two rewards together; a decision asks
    for a gap beyond α.

    Args:
        reward_a: reward of the preferred output; of either one where `tie`.
        reward_b: reward of the other output.
        tie: True where the source called the outputs equally good.
        tie_width: α > 0 in reward units; raising it makes ties likelier at a given difference.
        margin: as in `bradley_terry`, for the decided pairs.

    Returns:
        The loss of each pair, >= 0.

    Raises:
        ValueError: `tie_width` is not positive; ties would have probability 0.

    Reference:
        Rao and Kupper, "Ties in paired-comparison experiments", JASA 62 (1967), equations 2.3 to 2.5.

    Example:
        ``d = 0`` and ``e^α = 2``: each win has probability 1/3, and so has the tie; all three losses are ``log 3``.
    """
    check_positive("tie_width", tie_width)
    difference = reward_a - reward_b
    log_wins_a = logsigmoid(difference - tie_width)
    log_scale = 2 * tie_width + math.log(-math.expm1(-2 * tie_width))  # log(e^{2α} - 1) without overflow
    log_tie = log_scale + log_wins_a + logsigmoid(-difference - tie_width)
    decided = log_wins_a if margin is None else logsigmoid(difference - torch.where(tie, 0, margin) - tie_width)
    return -torch.where(tie, log_tie, decided)
