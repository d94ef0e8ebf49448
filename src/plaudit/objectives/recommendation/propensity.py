"""Propensities of logged feedback, and estimates that they correct: inverse propensity, self-normalised, doubly robust.

A row is one estimate: a user's list of items, or a log of decisions. Its K entries each have a value (a reward, a loss, a gain)
and a weight, 1 over the probability that the entry was seen, or how much likelier the new policy makes it.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.objectives.arguments import check_not_negative, check_positive, check_share, masked_mean
from plaudit.objectives.catalogue import objective


@objective(
    role="weight",
    paper="Saito et al. 2020, arXiv 1909.03601",
    feedback="exposure",
    signal="click",
    data="off-policy",
    reference=False,
    modalities=("rankings", "retrieval"),
)
def popularity_propensity(
    clicks: Float[Tensor, " I"], *, exponent: float = 0.5, floor: float = 1e-6
) -> Float[Tensor, " I"]:
    r"""Propensity of each item from its popularity: ``θ_i = max((n_i / max_k n_k)^η, floor)``.

    It attributes all popularity to exposure, and is known up to a factor only: if it is c times the truth, Rel-MF's loss is
    biased by ``(1/c - 1) E[γ d]``. Compare rankings, not losses.

    Args:
        clicks: ``n_i >= 0``, an entry for each item of the catalogue, also for those that nobody clicked
            (``bincount(items, minlength=...)``).
        exponent: η >= 0; 0 gives every clicked item 1, 1 is proportional to clicks.
        floor: in (0, 1]; what an item without clicks gets, and the least propensity.

    Returns:
        θ of each item in [floor, 1]; constant.

    Raises:
        ValueError: `exponent` is negative or `floor` outside (0, 1].

    Reference:
        Saito et al., arXiv 1909.03601 (relative item popularity, η = 1/2); BISER's code is the same. The official code has no
        floor and builds the vector with ``np.unique``, which shifts it past the first item without clicks.

    Example:
        Clicks (4, 1, 0) give (1, 1/2, 1e-6).
    """
    check_not_negative("exponent", exponent)
    check_positive("floor", floor)
    check_share("floor", floor)
    share = clicks / clicks.amax().clamp(min=torch.finfo(clicks.dtype).tiny)
    return torch.where(clicks > 0, share.pow(exponent), floor).clamp(min=floor).detach()


@objective(
    role="weight",
    paper="Saito 2020, ICTIR",
    feedback="exposure",
    signal="click",
    data="off-policy",
    reference=False,
    modalities=("rankings", "retrieval"),
)
def click_rate_propensity(
    clicks: Float[Tensor, " I"], shown: Float[Tensor, " I"], *, exponent: float = 0.5, floor: float = 1e-6
) -> Float[Tensor, " I"]:
    r"""Propensity of each item from its click rate: ``θ_i = min(max((n_i / N_i)^η, floor), 1)``.

    Args:
        clicks: ``n_i >= 0``.
        shown: ``N_i``, how often the item could have been clicked, as a rule the number of users; 0 gives the floor.
        exponent: η >= 0; raising it spreads the propensities.
        floor: in (0, 1], the least propensity.

    Returns:
        θ of each item in [floor, 1]; constant.

    Raises:
        ValueError: `exponent` is negative or `floor` outside (0, 1].

    Reference:
        The recipe for Coat in the official code of Saito, "Unbiased Pairwise Learning from Biased Implicit Feedback",
        ICTIR 2020.

    Example:
        1 click of 4 gives 1/2.
    """
    check_not_negative("exponent", exponent)
    check_positive("floor", floor)
    check_share("floor", floor)
    rate = torch.where(shown > 0, clicks / torch.where(shown > 0, shown, 1), 0)
    return torch.where(rate > 0, rate.pow(exponent), floor).clamp(min=floor, max=1).detach()


@objective(
    role="weight",
    paper="Liang et al. 2016, arXiv 1510.07025",
    feedback="reaction",
    signal="click",
    data="off-policy",
    reference=False,
    modalities=("rankings",),
)
def expomf_exposure(
    score: Float[Tensor, " B"], clicked: Bool[Tensor, " B"], prior: Float[Tensor, " B"], *, precision: float = 1.0
) -> Float[Tensor, " B"]:
    r"""Exposure matrix factorisation's E-step: ``p = μ N(0 | s, 1/λ_y) / (μ N(0 | s, 1/λ_y) + 1 - μ)``, 1 for a click.

    A high score without a click speaks against exposure.

    Args:
        score: ``s``, the product of the user's and the item's factors.
        clicked: ``Y``.
        prior: μ in (0, 1), the item's share of users that see it, from `exposure_prior`.
        precision: λ_y > 0; raising it lets a score say more.

    Returns:
        The posterior of exposure of each pair, in [0, 1]; constant.

    Raises:
        ValueError: `precision` is not positive.

    Reference:
        Liang et al., "Modeling User Exposure in Recommendation", arXiv 1510.07025, expectation step. The official code writes
        the normal density's factor as ``sqrt(λ_y / 2 * π)``, π times the true ``sqrt(λ_y / (2π))``, which raises p; the true
        density stands here.

    Example:
        ``s = 0``, μ = 1/2, λ_y = 2π: the density is 1 and p = 1/2.
    """
    check_positive("precision", precision)
    dtype = torch.promote_types(score.dtype, torch.float32)
    log_density = 0.5 * math.log(precision / (2 * math.pi)) - precision / 2 * score.to(dtype).square()
    posterior = torch.sigmoid(torch.logit(prior.to(dtype)) + log_density)
    return torch.where(clicked, 1, posterior).detach()


@objective(
    role="statistic",
    paper="Liang et al. 2016, arXiv 1510.07025",
    feedback="reaction",
    signal="click",
    data="off-policy",
    reference=False,
    modalities=("rankings",),
)
def exposure_prior(
    exposure: Float[Tensor, "I K"],
    mask: Bool[Tensor, "I K"] | None = None,
    *,
    prior_exposed: float = 1.0,
    prior_hidden: float = 1.0,
) -> Float[Tensor, " I"]:
    r"""Exposure matrix factorisation's update of an item's prior: ``μ_i = (a + Σ_u p_ui - 1) / (a + b + U - 2)``.

    Args:
        exposure: p of each item (row) and user (column), from `expomf_exposure`.
        mask: True for the users that count; None counts all.
        prior_exposed: a >= 1 of the prior Beta(a, b); raising it draws μ to 1.
        prior_hidden: b >= 1; raising it draws μ to 0.

    Returns:
        The mode of μ of each item, in [0, 1]; 0 for an item without users under the flat prior.

    Raises:
        ValueError: a or b below 1.

    Reference:
        Liang et al., arXiv 1510.07025, the per-item μ with a beta prior; the official code's a and b are 1, too.

    Example:
        p = (1, 1/2) under the flat prior gives 3/4.
    """
    check_not_negative("prior_exposed", prior_exposed - 1)
    check_not_negative("prior_hidden", prior_hidden - 1)
    dtype = torch.promote_types(exposure.dtype, torch.float32)
    visible = torch.ones_like(exposure, dtype=torch.bool) if mask is None else mask
    total = torch.where(visible, exposure, 0).sum(-1, dtype=dtype) + (prior_exposed - 1)
    users = visible.sum(-1).to(dtype) + (prior_exposed + prior_hidden - 2)
    return torch.where(users > 0, total / users.clamp(min=torch.finfo(dtype).tiny), 0)


@objective(
    role="weight",
    paper="Horvitz and Thompson 1952; Schnabel et al. 2016, arXiv 1602.05352",
    feedback="exposure",
    signal="none",
    data="off-policy",
    reference=False,
)
def inverse_propensity_weight(
    observed: Bool[Tensor, "B K"], propensity: Float[Tensor, "B K"], *, clip: float = 0.0
) -> Float[Tensor, "B K"]:
    r"""Inverse propensity weight of what was observed: ``w = O / max(θ, M)``.

    Args:
        observed: ``O``, True where the value is known (seen, rated, clicked).
        propensity: θ in (0, 1], the probability of that; read where O is True only; constant.
        clip: M in [0, 1]; raising it bounds the weights by 1/M and biases what they estimate. 0 is off.

    Returns:
        The weight of each entry, >= 0; 0 where nothing was observed.

    Raises:
        ValueError: `clip` outside [0, 1].

    Reference:
        Schnabel et al., "Recommendations as Treatments", arXiv 1602.05352; M as in the clipped estimator of Saito et
        al., arXiv 1909.03601. Rel-MF's evaluation floors θ at 0.01, its follow-up's at 0.001.

    Example:
        θ = 1/4 gives 4, and 2 with M = 1/2; without an observation it is 0.
    """
    check_share("clip", clip)
    return observed / torch.where(observed, propensity.detach(), 1).clamp(min=clip)


@objective(
    role="weight",
    paper="Ionides 2008; Bottou et al. 2013, arXiv 1209.2355",
    feedback="exposure",
    signal="none",
    data="off-policy",
    reference=False,
)
def off_policy_weight(
    log_prob: Float[Tensor, "B K"], old_log_prob: Float[Tensor, "B K"], *, cap: float
) -> Float[Tensor, "B K"]:
    r"""Importance weight of a logged decision: ``w = min(π(a|x) / π_old(a|x), cap)``.

    Args:
        log_prob: log-probability of the logged decision under the policy to evaluate.
        old_log_prob: the same under the policy that took it, with the temperature and truncation it was drawn with; constant.
        cap: > 0, the largest weight; raising it lowers the bias and raises the variance.

    Returns:
        The weight of each decision, in [0, cap]. Where the cap holds, the gradient is 0.

    Raises:
        ValueError: `cap` is not positive.

    Reference:
        Ionides, "Truncated importance sampling", 2008; Bottou et al., "Counterfactual Reasoning and Learning Systems",
        arXiv 1209.2355.

    Example:
        Probabilities 1/2 now and 1/8 then give 4, or 3 with the cap 3.
    """
    check_positive("cap", cap)
    dtype = torch.promote_types(log_prob.dtype, torch.float32)
    log_ratio = log_prob.to(dtype) - old_log_prob.detach().to(dtype)
    return log_ratio.clamp(max=math.log(cap)).exp()


def _weighted(value: Tensor, weight: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weights without what the mask hides, and values without what a weight of 0 leaves unread; in float32 at least."""
    dtype = torch.promote_types(value.dtype, torch.float32)
    kept = weight if mask is None else torch.where(mask, weight, 0)
    return torch.where(kept != 0, value, 0).to(dtype), kept.to(dtype)


@objective(
    role="statistic",
    paper="Horvitz and Thompson 1952; Schnabel et al. 2016, arXiv 1602.05352",
    feedback="exposure",
    signal="reward",
    data="off-policy",
    reference=False,
)
def ips(
    value: Float[Tensor, "B K"], weight: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None
) -> Float[Tensor, " B"]:
    r"""Inverse propensity score estimate of a mean: ``(1/K) Σ_k w_k v_k``.

    Unbiased where the propensities are right, however wrong a model of the values would be.

    Args:
        value: ``v_k``; not read where the weight is 0.
        weight: ``w_k >= 0``, from `inverse_propensity_weight` or `off_policy_weight`. For the latter the estimate is an
            objective, too: its gradient is the policy gradient.
        mask: True for the entries that exist; None counts all.

    Returns:
        The estimate of each row; 0 for a row without entries.

    Reference:
        Schnabel et al., "Recommendations as Treatments", arXiv 1602.05352, the IPS estimator.

    Example:
        Values (1, 3), weights (2, 0): ``2/2 = 1``.
    """
    value, weight = _weighted(value, weight, mask)
    return masked_mean(value * weight, mask)


@objective(
    role="statistic",
    paper="Swaminathan and Joachims 2015, NeurIPS",
    feedback="exposure",
    signal="reward",
    data="off-policy",
    reference=False,
)
def snips(
    value: Float[Tensor, "B K"], weight: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None
) -> Float[Tensor, " B"]:
    r"""Self-normalised inverse propensity score estimate: ``Σ_k w_k v_k / Σ_k w_k``.

    A factor in all weights cancels (propensities known up to scale), a constant in all values is kept, and the estimate stays
    within the values; it is consistent, and biased in small samples.

    Args:
        value: ``v_k``; not read where the weight is 0. With ``v = c(rank)`` of each clicked item and the clicks' weights it
            is Rel-MF's SNIPS version of DCG, recall or precision.
        weight: ``w_k >= 0``.
        mask: True for the entries that exist; None counts all.

    Returns:
        The estimate of each row; 0, with no gradient, where all weights are 0.

    Reference:
        Swaminathan and Joachims, "The Self-Normalized Estimator for Counterfactual Learning", NeurIPS 2015; Saito et al.,
        arXiv 1909.03601, official ``metrics.py``.

    Example:
        Values (1, 3), weights (2, 2): 2.
    """
    value, weight = _weighted(value, weight, mask)
    total = weight.sum(-1)
    return (value * weight).sum(-1) / torch.where(total > 0, total, 1)


@objective(
    role="statistic",
    paper="Dudík et al. 2011, arXiv 1103.4601; Wang et al. 2019, ICML",
    feedback="exposure",
    signal="reward",
    data="off-policy",
    reference=False,
)
def doubly_robust(
    value: Float[Tensor, "B K"],
    weight: Float[Tensor, "B K"],
    predicted: Float[Tensor, "B K"],
    predicted_target: Float[Tensor, "B K"],
    mask: Bool[Tensor, "B K"] | None = None,
) -> Float[Tensor, " B"]:
    r"""Doubly robust estimate of a mean: ``(1/K) Σ_k [m_k + w_k (v_k - v̂_k)]``; right if the weights or the model are.

    Args:
        value: ``v_k``; not read where the weight is 0.
        weight: ``w_k >= 0``; 0 where nothing was observed.
        predicted: ``v̂_k``, a model's guess of the value that was logged.
        predicted_target: ``m_k``, the model's guess of the value in question: of the new policy, ``Σ_a π(a|x) v̂(x, a)``; for
            values missing in a grid of pairs it is ``v̂_k`` again.
        mask: True for the entries that exist; None counts all.

    Returns:
        The estimate of each row; 0 for a row without entries. Gradients flow through every argument: detach the model's
        guesses where they are fitted elsewhere.

    Reference:
        Dudík, Langford and Li, "Doubly Robust Policy Evaluation and Learning", arXiv 1103.4601; for missing
        ratings Wang et al., "Doubly Robust Joint Learning for Recommendation on Data Missing Not at Random", ICML 2019.

    Example:
        v = 1, w = 2, v̂ = m = 0.4: ``0.4 + 2 · 0.6 = 1.6``; unobserved it is 0.4.
    """
    value, weight = _weighted(value, weight, mask)
    dtype = value.dtype
    kept = torch.where(weight != 0, predicted, 0).to(dtype)
    return masked_mean(predicted_target.to(dtype) + weight * (value - kept), mask)
