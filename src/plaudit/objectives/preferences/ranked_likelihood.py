"""Objectives on ranked lists without a reference: mean log-probabilities in the order of the rewards, and the best imitated."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import relu

from plaudit.objectives.arguments import check_choice, check_group, check_not_negative, visible
from plaudit.objectives.catalogue import objective
from plaudit.objectives.preferences.listwise import Scaling, better, differences


def _best(reward: Tensor, mask: Tensor | None) -> Tensor:
    """[B, K], shares that add up to 1 over the outputs of the highest reward; 0 for an empty list."""
    counts = torch.ones_like(reward, dtype=torch.bool) if mask is None else mask
    highest = torch.where(counts, reward, -torch.inf).amax(-1, keepdim=True)
    best = (counts & (reward == highest)).to(torch.promote_types(reward.dtype, torch.float32))
    return best / best.sum(-1, keepdim=True).clamp(min=1)


@objective(
    paper="Yuan et al. 2023, arXiv 2304.05302",
    feedback="ranking",
    signal="reward",
    data="off-policy",
    reference=False,
)
def rrhf(
    log_prob: Float[Tensor, "B K"],
    length: Int[Tensor, "B K"],
    reward: Float[Tensor, "B K"],
    mask: Bool[Tensor, "B K"] | None = None,
    *,
    ranking_weight: float = 1.0,
    likelihood: Scaling = "sum",
) -> Float[Tensor, " B"]:
    r"""RRHF: mean log-probabilities in the order of the rewards, and likelihood of the best output.

    ``L = w Σ_{r_i < r_j} max(0, p_i - p_j) - log π(y_best|x)`` with ``p_i = log π(y_i|x) / length_i``.

    Args:
        log_prob: ``log π(y_i|x)``, summed over steps.
        length: number of steps of each output; 0 counts as 1.
        reward: r_i, from people or a reward model; only its order counts. Equal rewards contribute no pair; equal best outputs
            share the likelihood term.
        mask: True for the outputs that count.
        ranking_weight: w >= 0, the weight of the ranking term; the paper's loss has 1, the authors' code 100 by default.
        likelihood: ``"sum"`` over the best output's steps, as in the paper, or the ``"mean"``, as in the authors' code.

    Returns:
        The loss of each list; 0 for an empty one.

    Raises:
        ValueError: `ranking_weight` is negative, or `likelihood` neither of the two.

    Reference:
        Yuan et al., "RRHF: Rank Responses to Align Language Models with Human Feedback without tears", arXiv 2304.05302,
        section 3. The authors' code (GanjinZero/RRHF) sums over the lists of a batch, and its mean runs over the padded
        width; its best output is the first of equals.

    Example:
        log π = (-4, -2) with lengths (2, 2) and rewards (1, 0): p = (-2, -1), ``L = max(0, -1 + 2) + 4 = 5``.
    """
    check_not_negative("ranking_weight", ranking_weight)
    check_choice("likelihood", likelihood, ("sum", "mean"))
    check_group("log_prob", log_prob, at_least=1)
    whole = visible(log_prob, mask)
    p = whole / length.clamp(min=1)
    ranking = torch.where(better(reward, mask), relu(-differences(p)), 0).sum((1, 2))
    imitated = whole if likelihood == "sum" else p
    return ranking_weight * ranking - (_best(reward, mask) * imitated).sum(-1)


@objective(
    paper="Song et al. 2023, arXiv 2306.17492",
    feedback="ranking",
    signal="reward",
    data="off-policy",
    reference=False,
)
def pro(
    log_prob: Float[Tensor, "B K"],
    length: Int[Tensor, "B K"],
    reward: Float[Tensor, "B K"],
    mask: Bool[Tensor, "B K"] | None = None,
    *,
    likelihood_weight: float = 0.05,
) -> Float[Tensor, " B"]:
    r"""Preference ranking optimisation: each output against all lower ones, sharper where the rewards are far apart.

    ``L = -Σ_k log [e^{p_k/T_k} / (e^{p_k/T_k} + Σ_{r_i < r_k} e^{p_i/T_ki})] - w (n - 1)² log π(y_best|x)`` over the outputs
    k that have a lower one, with ``p_i = log π(y_i|x) / length_i``, ``1/T_ki = r_k - r_i`` and ``1/T_k = max_i (r_k - r_i)``.

    Args:
        log_prob: ``log π(y_i|x)``, summed over steps.
        length: number of steps of each output; 0 counts as 1.
        reward: r_i; differences set the temperatures, so that doubling all rewards sharpens every term.
            Equal rewards contribute no term between them; equal best outputs share the likelihood term.
        mask: True for the n outputs that count.
        likelihood_weight: w >= 0, of the likelihood term, which the authors' code multiplies by (n - 1)²; the default is from
            memory of the paper.

    Returns:
        The loss of each list; 0 for an empty one.

    Raises:
        ValueError: `likelihood_weight` is negative.

    Reference:
        Song et al., "Preference Ranking Optimization for Human Alignment", arXiv 2306.17492, the loss with
        dynamic temperatures. In the authors'
        code (AlibabaResearch/DAMO-ConvAI) a later output of equal reward still adds ``e^0`` to the denominator, which makes the
        loss depend on the order of equals, and 1e-10 is added inside the logarithm; otherwise the same. It does not
        subtract the maximum and overflows where rewards are large and negative log-probabilities small.

    Example:
        log π = (-1, -1), lengths 1, rewards (1, 0), w = 0: both temperatures are 1 and ``L = log 2``.
    """
    check_not_negative("likelihood_weight", likelihood_weight)
    check_group("log_prob", log_prob, at_least=1)
    whole, r = visible(log_prob, mask), visible(reward, mask).detach()
    p = whole / length.clamp(min=1)
    lower = better(reward, mask)
    sharpness = torch.where(lower, differences(r), 0)
    positive = p * sharpness.amax(-1)
    negatives = torch.where(lower, p[:, None, :] * sharpness, -torch.inf)
    denominator = torch.cat([positive[:, :, None], negatives], dim=-1).logsumexp(-1)
    ranking = torch.where(lower.any(-1), denominator - positive, 0).sum(-1)
    n = torch.full_like(ranking, p.shape[1]) if mask is None else mask.sum(-1)
    return ranking - likelihood_weight * (n - 1) ** 2 * (_best(reward, mask) * whole).sum(-1)
