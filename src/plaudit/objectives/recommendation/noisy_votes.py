"""NBPO: preference and the chance that a like was never voted, learned together from votes.

``R`` is an item's score and ``g`` the logit of its flip probability ``γ = σ(g)``: a user votes for what they like unless the
vote is lost, and never for what they dislike, so ``P(y = 1) = σ(R) σ(-g)`` and ``P(y = 0) = σ(-R) + σ(g) σ(R)``. Exchanging R
and -g leaves both unchanged: only initialisation and decay tell preference from exposure.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from plaudit.objectives.catalogue import objective


@objective(
    paper="Yu and Qin 2020, arXiv 2007.07204",
    feedback="reaction",
    signal="click",
    data="off-policy",
    reference=False,
    modalities=("rankings",),
)
def nbpo_likelihood(
    score: Float[Tensor, " B"], flip_logit: Float[Tensor, " B"], voted: Bool[Tensor, " B"]
) -> Float[Tensor, " B"]:
    r"""NBPO's exact negative log-likelihood of votes whose absence may be an error: ``-log P(y)``.

    ``-log P(1) = -log σ(R) - log σ(-g)`` and ``-log P(0) = -log(σ(-R) + σ(g) σ(R))``. An unvoted item is never pushed up: its
    slope in R is ``σ(R) - P(like | unvoted) >= 0``, see `hidden_positive_probability`.

    Args:
        score: ``R``, the preference's logit; rank by it.
        flip_logit: ``g``, the logit of the probability that a like stays without a vote; ``-inf`` (none) is `bpo`.
        voted: True for a vote, False for a sampled item without one.

    Returns:
        The loss of each pair, >= 0.

    Reference:
        Yu and Qin, "Sampler Design for Implicit Feedback Data by Noisy-label Robust Learning", arXiv 2007.07204; likelihood
        reconstructed from the gradients in the official ``_NBPOo.py``. It sums over a batch and evaluates σ as 0 or 1 beyond
        ``|x| > 10``, which is not done here.

    Example:
        ``R = g = 0``: a vote has probability 1/4 and costs ``2 log 2``, no vote costs ``log(4/3)``.
    """
    log_vote = logsigmoid(score) + logsigmoid(-flip_logit)
    log_no_vote = torch.logaddexp(logsigmoid(-score), logsigmoid(flip_logit) + logsigmoid(score))
    return -torch.where(voted, log_vote, log_no_vote)


@objective(
    paper="Yu and Qin 2020, arXiv 2007.07204",
    feedback="reaction",
    signal="click",
    data="off-policy",
    reference=False,
    modalities=("rankings",),
)
def nbpo_probability(
    score: Float[Tensor, " B"], flip_logit: Float[Tensor, " B"], voted: Bool[Tensor, " B"]
) -> Float[Tensor, " B"]:
    r"""NBPO's surrogate likelihood: ``-P(y)``, a sum of probabilities in place of the sum of their logarithms.

    Its gradient carries a factor ``σ(R) σ(-R)`` that vanishes where a score is far off; `nbpo` repairs that.

    Args:
        score: ``R``, the preference's logit.
        flip_logit: ``g``, the logit of the flip probability.
        voted: True for a vote, False for a sampled item without one.

    Returns:
        Minus the probability of what was observed, in [-1, 0].

    Reference:
        Yu and Qin, arXiv 2007.07204, the ablation in the official ``_NBPOs.py`` (reconstructed from its gradients).

    Example:
        ``R = g = 0``: -1/4 for a vote, -3/4 for none.
    """
    like, lost = torch.sigmoid(score), torch.sigmoid(flip_logit)
    return -torch.where(voted, like * torch.sigmoid(-flip_logit), torch.sigmoid(-score) + lost * like)


def _sigmoid_with_log_slope(x: Tensor) -> Tensor:
    """σ(x), whose gradient is that of log σ(x), which is σ(-x), and does not vanish for very negative x."""
    log = logsigmoid(x)
    return torch.sigmoid(x).detach() + (log - log.detach())


@objective(
    paper="Yu and Qin 2020, arXiv 2007.07204",
    feedback="reaction",
    signal="click",
    data="off-policy",
    reference=False,
    modalities=("rankings",),
)
def nbpo(score: Float[Tensor, " B"], flip_logit: Float[Tensor, " B"], voted: Bool[Tensor, " B"]) -> Float[Tensor, " B"]:
    r"""NBPO: the surrogate likelihood with the surrogate gradient, in which ``σ(-x)`` stands for every ``σ'(x)``.

    ===========  ======================  =================
    descent in   R                       g
    ===========  ======================  =================
    a vote       ``σ(-g) σ(-R)``         ``-σ(g) σ(R)``
    no vote      ``σ(g) σ(-R) - σ(R)``   ``σ(-g) σ(R)``
    ===========  ======================  =================

    These steps are the gradient of no function of (R, g): the value is `nbpo_probability`'s, and its slope is not what training
    follows. At a given γ an unvoted item comes to rest at ``R = log γ``. Without flips the steps are `bpo`'s.

    Args:
        score: ``R``, the preference's logit; rank by it.
        flip_logit: ``g``, the logit of the flip probability. Heavy decay of its tables drives every γ to 1/2; watch its spread.
        voted: True for a vote, False for a sampled item without one.

    Returns:
        Minus the probability of what was observed, in [-1, 0]; only its gradient is NBPO's.

    Reference:
        Yu and Qin, arXiv 2007.07204, the steps of the official ``_NBPO.py``, summed there over a batch with both items of a
        draw; ours are per pair.

    Example:
        ``R = g = 0``: a vote's descent step is (1/4, -1/4), no vote's (-1/4, 1/4).
    """
    like, lost = _sigmoid_with_log_slope(score), _sigmoid_with_log_slope(flip_logit)
    vote = like * _sigmoid_with_log_slope(-flip_logit)
    return -torch.where(voted, vote, _sigmoid_with_log_slope(-score) + lost * like)


@objective(
    role="weight",
    paper="Yu and Qin 2020, arXiv 2007.07204",
    feedback="reaction",
    signal="click",
    data="off-policy",
    reference=False,
    modalities=("rankings",),
)
def hidden_positive_probability(score: Float[Tensor, " B"], flip_logit: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    r"""Probability that an unvoted item is liked all the same: ``P(z = 1 | y = 0) = σ(g) σ(R) / (σ(-R) + σ(g) σ(R))``.

    The soft label that NBPO gives to a uniformly drawn item, in place of a sampler: as a constant label in the logistic loss it
    gives `nbpo_likelihood`'s gradient (expectation-maximisation); ``1 - P`` weighs the item as a negative example.

    Args:
        score: ``R``, the preference's logit.
        flip_logit: ``g``, the logit of the flip probability.

    Returns:
        The probability of each pair, in [0, 1]; it carries no gradient.

    Reference:
        Bayes' rule on the likelihood of Yu and Qin, arXiv 2007.07204 (ours).

    Example:
        ``R = g = 0``: ``(1/4) / (1/2 + 1/4) = 1/3``.
    """
    return torch.sigmoid(score + logsigmoid(flip_logit)).detach()
