"""Objectives for recommenders that learn from clicks: a missing click may mean "disliked" or "never shown".

``s`` is a recommender's score (a logit), ``Y`` the click, ``O`` exposure, ``R`` relevance, with ``Y = O · R``,
``P(O = 1) = θ`` (the propensity) and ``P(R = 1) = γ``.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from plaudit.objectives.arguments import check_choice, check_not_negative, check_positive, check_share
from plaudit.objectives.catalogue import objective

LocalLoss = Literal["log", "squared", "least-squares"]


def _local_losses(score: Tensor, local_loss: LocalLoss) -> tuple[Tensor, Tensor]:
    """The losses of calling a pair relevant (δ1) and irrelevant (δ0)."""
    check_choice("local_loss", local_loss, ("log", "squared", "least-squares"))
    if local_loss == "log":
        return -logsigmoid(score), -logsigmoid(-score)
    if local_loss == "squared":
        return torch.sigmoid(-score).square(), torch.sigmoid(score).square()
    return (1 - score).square(), score.square()


def held_above(loss: Tensor, slack: float | None) -> Tensor:
    """The loss, where it would be below -slack held there without gradient; None is no bound."""
    if slack is None:
        return loss
    check_not_negative("slack", slack)
    return torch.where(loss >= -slack, loss, -slack)


@objective(
    paper="Rendle et al. 2009, arXiv 1205.2618",
    feedback="reaction",
    signal="click",
    data="off-policy",
    reference=False,
    modalities=("rankings",),
)
def bpr(score_clicked: Float[Tensor, " B"], score_other: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    r"""Bayesian personalised ranking: ``L = -log σ(s_i - s_j)``; a clicked item i above one without a click, j.

    Args:
        score_clicked: score ``s_i`` of an item that the user clicked.
        score_other: score ``s_j`` of an item that the user did not click, as a rule drawn uniformly.

    Returns:
        The loss of each pair, >= 0; ``log 2`` at equal scores.

    Reference:
        Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", arXiv 1205.2618, section 4.1 (BPR-Opt);
        its regulariser is the optimiser's weight decay here. It is `dpo` at β = 1 with scores as log-ratios.

    Example:
        Scores 2 and 1 give ``log(1 + e^-1) = 0.3133``.
    """
    return -logsigmoid(score_clicked - score_other)


@objective(
    paper="Saito et al. 2020, arXiv 1909.03601",
    feedback="rating",
    signal="label",
    data="off-policy",
    reference=False,
    modalities=("rankings",),
)
def ideal_pointwise(
    score: Float[Tensor, " B"], relevance: Float[Tensor, " B"], *, local_loss: LocalLoss = "log"
) -> Float[Tensor, " B"]:
    r"""The pointwise loss one would minimise if relevance were known: ``L = γ δ1(s) + (1 - γ) δ0(s)``.

    Args:
        score: ``s``, the recommender's logit of "relevant".
        relevance: γ in [0, 1], or a 0/1 label; no gradient flows to it.
        local_loss: ``"log"``: δ1 = -log σ(s), δ0 = -log σ(-s). ``"squared"``: δ1 = (1 - σ(s))², δ0 = σ(s)², as in the
            official real-data code. ``"least-squares"``: δ1 = (1 - s)², δ0 = s², on raw scores, as in classical matrix
            factorisation.

    Returns:
        The loss of each pair, >= 0.

    Raises:
        ValueError: an unknown `local_loss`.

    Reference:
        Saito et al., "Unbiased Recommender Learning from Missing-Not-At-Random Implicit Feedback", arXiv 1909.03601: the
        ideal loss, read in a third party's restatement; equation number not found.

    Example:
        ``s = 0``: log loss ``log 2`` and squared loss ``1/4``, whatever γ.
    """
    relevant, irrelevant = _local_losses(score, local_loss)
    gamma = relevance.detach()
    return gamma * relevant + (1 - gamma) * irrelevant


@objective(
    paper="Yu and Qin 2020, arXiv 2007.07204",
    feedback="reaction",
    signal="click",
    data="off-policy",
    reference=False,
    modalities=("rankings",),
)
def bpo(score: Float[Tensor, " B"], voted: Bool[Tensor, " B"]) -> Float[Tensor, " B"]:
    r"""Bayesian pointwise optimisation: ``-log σ(s)`` for a voted item, ``-log σ(-s)`` for a sampled unvoted one.

    Args:
        score: ``s``, the recommender's logit.
        voted: True where the user clicked, bought or voted; False where nothing is known.

    Returns:
        The loss of each pair, >= 0.

    Reference:
        Yu and Qin, "Sampler Design for Implicit Feedback Data by Noisy-label Robust Learning", arXiv 2007.07204, official
        ``_BPO.py``. It is the logistic loss of logistic matrix factorisation, and `nbpo_likelihood` without flips.

    Example:
        ``s = 0`` costs ``log 2``, voted or not.
    """
    return -logsigmoid(torch.where(voted, score, -score))


@objective(
    paper="Hu et al. 2008, ICDM",
    feedback="reaction",
    signal="click",
    data="off-policy",
    reference=False,
    modalities=("rankings",),
)
def wmf(
    score: Float[Tensor, " B"],
    clicked: Bool[Tensor, " B"],
    *,
    unclicked_weight: float,
    local_loss: LocalLoss = "least-squares",
) -> Float[Tensor, " B"]:
    r"""Weighted matrix factorisation: ``L = Y δ1(s) + w (1 - Y) δ0(s)``; a missing click counts less than a click.

    Args:
        score: ``s``, the recommender's score.
        clicked: ``Y``.
        unclicked_weight: ``w`` in [0, 1], the confidence that a missing click means "irrelevant"; raising it lowers the scores
            of what was not clicked.
        local_loss: as in `ideal_pointwise`; the default is Hu et al.'s, the official Rel-MF code has ``"squared"``.

    Returns:
        The loss of each pair, >= 0.

    Raises:
        ValueError: `unclicked_weight` outside [0, 1], or an unknown `local_loss`.

    Reference:
        Hu, Koren and Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008, equation 3, whose
        confidences are 1 for no click and 1 + α for a click: ``w = 1 / (1 + α)`` up to a factor. The baseline in Rel-MF's code
        divides the batch's sum by ``Σ (Y + w (1 - Y))``.

    Example:
        ``s = 0.5`` and ``w = 0.4``: 0.25 for a click, 0.1 for none.
    """
    check_share("unclicked_weight", unclicked_weight)
    relevant, irrelevant = _local_losses(score, local_loss)
    return torch.where(clicked, relevant, unclicked_weight * irrelevant)


@objective(
    paper="Liang et al. 2016, arXiv 1510.07025",
    feedback="reaction",
    signal="click",
    data="off-policy",
    reference=False,
    modalities=("rankings",),
)
def expomf(
    score: Float[Tensor, " B"], clicked: Bool[Tensor, " B"], exposure: Float[Tensor, " B"], *, precision: float = 1.0
) -> Float[Tensor, " B"]:
    r"""Exposure matrix factorisation's M-step: ``L = p (λ_y / 2) (Y - s)²``, with p the posterior of exposure.

    Args:
        score: ``s``, the product of the user's and the item's factors.
        clicked: ``Y``.
        exposure: p in [0, 1], from `expomf_exposure`; 1 for a click. No gradient flows to it.
        precision: λ_y > 0, inverse variance of a click around the score; raising it fits clicks more tightly against the
            prior on the factors (the optimiser's weight decay).

    Returns:
        The loss of each pair, >= 0.

    Raises:
        ValueError: `precision` is not positive.

    Reference:
        Liang et al., "Modeling User Exposure in Recommendation", arXiv 1510.07025 (expected complete-data
        log-likelihood); the official code solves it in closed form, we take its gradient.

    Example:
        ``s = 0.5``, no click, p = 0.2, λ_y = 1: ``0.2 · 0.25 / 2 = 0.025``.
    """
    check_positive("precision", precision)
    return exposure.detach() * (precision / 2) * (clicked.to(score.dtype) - score).square()


@objective(
    paper="Saito et al. 2020, arXiv 1909.03601",
    feedback="exposure",
    signal="click",
    data="off-policy",
    reference=False,
    modalities=("rankings",),
)
def rel_mf(
    score: Float[Tensor, " B"],
    clicked: Bool[Tensor, " B"],
    propensity: Float[Tensor, " B"],
    *,
    clip: float = 0.0,
    slack: float | None = None,
    local_loss: LocalLoss = "log",
) -> Float[Tensor, " B"]:
    r"""Rel-MF: the ideal loss, estimated from clicks without bias: ``L = (Y/θ) δ1(s) + (1 - Y/θ) δ0(s)``.

    ``E[Y/θ] = γ``, so the expected loss is `ideal_pointwise`. A click with θ < 1 has a negative weight on δ0: that is meant.
    With ``d = δ1 - δ0`` a pair's variance is ``γ (1/θ - γ) d²``; clipping at M (θ becomes ``max(θ, M)``) lowers it and costs
    the bias ``γ (θ/M - 1) d`` where θ < M. The log loss is unbounded below at a click with θ < 1; its slope in s is
    ``σ(s) - Y/θ``.

    Args:
        score: ``s``, the recommender's logit of "relevant".
        clicked: ``Y``; every pair without a click counts, also those that nobody was shown.
        propensity: θ in (0, 1], probability that the user saw the item; read where there is a click only, and constant.
        clip: M in [0, 1]; 0 is the unbiased estimator, 1 the naive one, which takes clicks for relevance.
        slack: None, or >= 0: a pair's loss is held at ``-slack``, where its gradient stops. 0 is non-negative.
        local_loss: as in `ideal_pointwise`.

    Returns:
        The loss of each pair; negative where a click's propensity makes it so.

    Raises:
        ValueError: `clip` or `slack` outside its range, or an unknown `local_loss`.

    Reference:
        Saito et al., arXiv 1909.03601, "Eq. (9)" in the comments of the official code, whose semi-synthetic part has the log
        loss and whose real-data part the squared loss and M. The floor is the first author's follow-up's ("Unbiased Pairwise
        Learning from Biased Implicit Feedback", ICTIR 2020) for pairs, applied to points (ours). BISER's code has M = 0.1.

    Example:
        A click with θ = 1/2 at ``s = 0``: ``2 log 2 - log 2 = log 2``; its slope is ``1/2 - 2 = -1.5``.
    """
    check_share("clip", clip)
    relevant, irrelevant = _local_losses(score, local_loss)
    theta = torch.where(clicked, propensity.detach(), 1).clamp(min=clip)
    weight = clicked / theta
    return held_above(weight * relevant + (1 - weight) * irrelevant, slack)


@objective(
    paper="Lee et al. 2021, SIGIR",
    feedback="exposure",
    signal="click",
    data="off-policy",
    reference=False,
    modalities=("rankings",),
)
def dual_unbiased(
    score: Float[Tensor, " B"],
    clicked: Bool[Tensor, " B"],
    propensity: Float[Tensor, " B"],
    unclicked_propensity: Float[Tensor, " B"],
    *,
    clip: float = 0.0,
    local_loss: LocalLoss = "log",
) -> Float[Tensor, " B"]:
    r"""MF-DU: clicks and missing clicks each have a propensity: ``L = (Y/θ) δ1(s) + ((1 - Y)/θ⁻) δ0(s)``.

    No weight is negative. The expected loss is the ideal one exactly where ``θ⁻ = P(Y = 0) / P(R = 0)``, which is
    ``(1 - θγ) / (1 - γ) >= 1`` under ``Y = O · R``; θ⁻ of popularity alone, as published, is a model of its own.

    Args:
        score: ``s``, the recommender's logit of "relevant".
        clicked: ``Y``.
        propensity: θ > 0, read where there is a click only; constant.
        unclicked_propensity: θ⁻ > 0, read where there is no click only; constant.
        clip: both propensities are held at or above it; 0 is off.
        local_loss: as in `ideal_pointwise`.

    Returns:
        The loss of each pair, >= 0.

    Raises:
        ValueError: `clip` outside [0, 1], or an unknown `local_loss`.

    Reference:
        Lee, Park and Lee, "Dual Unbiased Recommender Learning for Implicit Feedback", SIGIR 2021; the paper was not read. The
        formula is that of github renyi533/unbiased-pairwise-rec, with ``θ = p^η``, ``θ⁻ = (1 - p)^η`` (plus 1e-6) for the
        popularity p relative to the most popular item.

    Example:
        θ = 1/2 and θ⁻ = 3/4 at ``s = 0``: a click costs ``2 log 2``, a missing one ``(4/3) log 2``.
    """
    check_share("clip", clip)
    relevant, irrelevant = _local_losses(score, local_loss)
    theta = torch.where(clicked, propensity.detach(), unclicked_propensity.detach()).clamp(min=clip)
    return torch.where(clicked, relevant, irrelevant) / theta
