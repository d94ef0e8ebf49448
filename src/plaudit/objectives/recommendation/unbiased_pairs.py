"""Pairwise objectives for recommenders, corrected for who was shown what.

``s`` is a score, ``Y`` a click, ``θ`` the probability of exposure and ``γ`` of relevance, with ``P(Y = 1) = θ γ``.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from plaudit.objectives.catalogue import objective
from plaudit.objectives.recommendation.recommendation import held_above


@objective(
    paper="Saito 2020, ICTIR",
    feedback="rating",
    signal="label",
    data="off-policy",
    reference=False,
    modalities=("rankings",),
)
def ideal_pairwise(
    score_i: Float[Tensor, " B"],
    score_j: Float[Tensor, " B"],
    relevance_i: Float[Tensor, " B"],
    relevance_j: Float[Tensor, " B"],
) -> Float[Tensor, " B"]:
    r"""The pairwise loss one would minimise if relevance were known: ``L = -γ_i (1 - γ_j) log σ(s_i - s_j)``.

    Args:
        score_i: score of an item.
        score_j: score of another item of the same user.
        relevance_i: γ_i in [0, 1]; no gradient flows to it.
        relevance_j: γ_j in [0, 1]; no gradient flows to it.

    Returns:
        The loss of each ordered pair, >= 0.

    Reference:
        Saito, "Unbiased Pairwise Learning from Biased Implicit Feedback", ICTIR 2020; formula of the official code
        (``ideal_loss``), which divides the batch's sum by ``Σ γ_i (1 - γ_j)``.

    Example:
        γ_i = 1, γ_j = 0 is `bpr`; γ_i = γ_j = 1/2 at equal scores gives ``(log 2) / 4``.
    """
    return -relevance_i.detach() * (1 - relevance_j.detach()) * logsigmoid(score_i - score_j)


@objective(
    paper="Saito 2020, ICTIR",
    feedback="exposure",
    signal="click",
    data="off-policy",
    reference=False,
    modalities=("rankings",),
)
def ubpr(
    score_clicked: Float[Tensor, " B"],
    score_other: Float[Tensor, " B"],
    clicked_other: Bool[Tensor, " B"],
    propensity_clicked: Float[Tensor, " B"],
    propensity_other: Float[Tensor, " B"],
    *,
    slack: float | None = 0.0,
) -> Float[Tensor, " B"]:
    r"""Unbiased BPR: ``L = -(1/θ_i) (1 - Y_j/θ_j) log σ(s_i - s_j)`` for a clicked i and any other item j.

    Over all pairs (zero where i has no click) its expectation is `ideal_pairwise`. A clicked j weighs negatively.

    Args:
        score_clicked: score ``s_i`` of a clicked item.
        score_other: score ``s_j`` of any other item, clicked or not.
        clicked_other: ``Y_j``.
        propensity_clicked: θ_i in (0, 1]; constant.
        propensity_other: θ_j in (0, 1]; read where j is clicked only, and constant.
        slack: None is the unbiased estimator. A number >= 0 holds a pair's loss at ``-slack``, where its gradient stops, so
            that terms of negative weight are dropped and not reversed; 0, the official default, is non-negative and biased.

    Returns:
        The loss of each pair, >= -slack.

    Raises:
        ValueError: `slack` is negative.

    Reference:
        Saito, "Unbiased Pairwise Learning from Biased Implicit Feedback", ICTIR 2020; formula and slack (``beta``) of the
        official code, which also caps a pair's loss at 1e6.

    Example:
        θ_i = 1/2 and no click on j at equal scores: ``2 log 2``; with a click and θ_j = 1/2 it is ``-2 log 2``, held at 0.
    """
    theta_j = torch.where(clicked_other, propensity_other.detach(), 1)
    weight = (1 - clicked_other / theta_j) / propensity_clicked.detach()
    return held_above(-weight * logsigmoid(score_clicked - score_other), slack)


@objective(
    paper="Ren et al. 2023, arXiv 2304.05066",
    feedback="exposure",
    signal="click",
    data="off-policy",
    reference=False,
    modalities=("rankings",),
)
def upl(
    score_clicked: Float[Tensor, " B"],
    score_other: Float[Tensor, " B"],
    clicked_other: Bool[Tensor, " B"],
    propensity_clicked: Float[Tensor, " B"],
    propensity_other: Float[Tensor, " B"],
    relevance_other: Float[Tensor, " B"],
) -> Float[Tensor, " B"]:
    r"""UPL: unbiased pairs without negative weights: ``L = -(1/θ_i) (1 - Y_j) (1 - γ_j)/(1 - θ_j γ_j) log σ(s_i - s_j)``.

    The last factor is ``P(R_j = 0 | Y_j = 0)``, so that the expectation over all pairs is `ideal_pairwise` where the estimate
    of γ_j is right. Only items without a click stand on the other side.

    Args:
        score_clicked: score ``s_i`` of a clicked item.
        score_other: score ``s_j`` of another item.
        clicked_other: ``Y_j``; such a pair has loss 0.
        propensity_clicked: θ_i in (0, 1]; constant.
        propensity_other: θ_j in [0, 1]; constant.
        relevance_other: an estimate of γ_j in [0, 1), as of a model trained with `rel_mf`; constant.

    Returns:
        The loss of each pair, >= 0.

    Reference:
        Ren et al., "Unbiased Pairwise Learning from Implicit Feedback for Recommender Systems without Biased Variance
        Control", arXiv 2304.05066; formula of the official code (github renyi533/unbiased-pairwise-rec), which adds 1e-5 to
        ``1 - θ_j γ_j`` and trains the pointwise model beside it.

    Example:
        θ_i = θ_j = γ_j = 1/2, no click on j, equal scores: ``2 · (1/2)/(3/4) · log 2 = (4/3) log 2``.
    """
    gamma, theta_j = relevance_other.detach(), propensity_other.detach()
    disliked = torch.where(clicked_other, 0, (1 - gamma) / (1 - theta_j * gamma))
    return -disliked / propensity_clicked.detach() * logsigmoid(score_clicked - score_other)
