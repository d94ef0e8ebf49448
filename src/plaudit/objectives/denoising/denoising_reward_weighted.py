"""Reward-weighted denoising regression: a model learns its own pictures again, the better ones more."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from plaudit.objectives.arguments import check_not_negative, check_positive, widened
from plaudit.objectives.catalogue import objective
from plaudit.objectives.denoising.denoising import denoising_regression


@objective(
    role="weight",
    paper="Fan et al. 2025, arXiv 2502.06061",
    feedback="rating",
    signal="reward",
    data="either",
    reference=False,
    modalities=("images",),
)
def exponential_reward_weight(reward: Float[Tensor, " B"], *, scale: float) -> Float[Tensor, " B"]:
    r"""ORW-CFM's weight of an image: ``w = exp(τ r)``.

    Rows stay apart, but nothing bounds it: standardise rewards first, or use `softmax_reward_weight`.

    Args:
        reward: r of each image; a constant, no gradient.
        scale: τ > 0; raising it sharpens the tilt towards high rewards.

    Returns:
        The weight of each row, > 0.

    Reference:
        Fan et al., "Online Reward-Weighted Fine-Tuning of Flow Matching with Wasserstein Regularization", arXiv 2502.06061
        (equation number not checked).

    Example:
        ``r = log 3`` at τ = 2: 9.
    """
    check_positive("scale", scale)
    return (scale * widened(reward.detach())).exp()


@objective(
    role="weight",
    paper="Fan et al. 2025, arXiv 2502.06061",
    feedback="rating",
    signal="reward",
    data="either",
    reference=False,
    modalities=("images",),
)
def softmax_reward_weight(reward: Float[Tensor, " B"], *, scale: float) -> Float[Tensor, " B"]:
    r"""`exponential_reward_weight` over its mean in the batch: ``w_i = B exp(τ r_i) / Σ_j exp(τ r_j)``, which cannot overflow.

    Args:
        reward: r of each image; a constant, no gradient.
        scale: τ > 0; raising it sharpens the tilt towards high rewards.

    Returns:
        The weight of each row, in [0, B], 1 on average. Rows of a batch depend on each other.

    Reference:
        Fan et al., arXiv 2502.06061; the batch-wise softmax as in flow_grpo's reward-weighted regression.

    Example:
        Rewards 0 and log 3 at τ = 1: 0.5 and 1.5.
    """
    check_positive("scale", scale)
    return reward.numel() * (scale * widened(reward.detach())).softmax(0)


@objective(
    paper="Fan et al. 2025, arXiv 2502.06061",
    feedback="rating",
    signal="reward",
    data="on-policy",
    reference=True,
    modalities=("images",),
)
def orw_cfm_w2(
    error: Float[Tensor, " B"],
    ref_distance: Float[Tensor, " B"],
    weight: Float[Tensor, " B"],
    *,
    beta: float,
) -> Float[Tensor, " B"]:
    r"""ORW-CFM-W2: reward-weighted regression on the model's own images, held near the reference in Wasserstein distance.

    ``L = w e + β |v - v_ref|²``. After N exact rounds without the second term the images' density is ``∝ w^N q_0``, which
    collapses to the highest reward. The second term bounds that: ``W_2²(p, p_ref) <= e^{2L} ∫ E|v - v_ref|² dt`` with L the
    velocity's Lipschitz constant. On DDPM the same with noise errors.

    Args:
        error: `denoising_error` on an image that the last round's model drew.
        ref_distance: `denoising_error` of the policy's prediction against the reference's.
        weight: w >= 0 of each image, `exponential_reward_weight` or `softmax_reward_weight`; a constant, no gradient.
        beta: >= 0, the paper's α, strength of the pull to the reference; with weights of mean 1, β = 1 draws the minimiser
            half-way to it. 0 is ORW-CFM, which collapses; the authors show 0.3 as balanced on MNIST.

    Returns:
        The loss of each row, >= 0.

    Reference:
        Fan et al., arXiv 2502.06061; the loss as on the authors' project page (jiajunfan.com/projects/orw-cfm-w2), the bound
        also by Grönwall's inequality.

    Example:
        Error 0.4, distance 0.5, weight 2, β = 0.3: ``0.8 + 0.15 = 0.95``.
    """
    check_not_negative("beta", beta)
    return denoising_regression(error, weight=weight) + beta * ref_distance


@objective(
    role="weight",
    paper="Fan et al. 2025, arXiv 2510.18072 (reconstruction)",
    feedback="rating",
    signal="advantage",
    data="on-policy",
    reference=False,
    modalities=("images",),
)
def exponential_critic_weight(
    score: Float[Tensor, " B"], *, scale: float = 1.0, max_weight: float = 5.0
) -> Float[Tensor, " B"]:
    r"""AC-Flow's weight: ``w = min(exp(τ S) / mean exp(τ S), w_max)``, a capped `softmax_reward_weight`.

    Args:
        score: S of each noised image: its shaped reward (as in ORW-CFM), its clipped advantage (the default), or its value; a
            constant, no gradient.
        scale: τ > 0; raising it sharpens the tilt.
        max_weight: w_max > 0, which keeps one image from carrying the batch.

    Returns:
        The weight of each row, in [0, w_max], at most 1 on average. Rows of a batch depend on each other.

    Raises:
        ValueError: scale or max_weight is not positive.

    Reference:
        Fan et al., arXiv 2510.18072, "generalized critic weighting"; the form is (not found; ours).

    Example:
        Scores 0 and log 3: 0.5 and 1.5.
    """
    check_positive("max_weight", max_weight)
    return softmax_reward_weight(score, scale=scale).clamp(max=max_weight)


@objective(
    role="weight",
    paper="(ours), for Fan et al. 2025, arXiv 2510.18072",
    feedback="rating",
    signal="advantage",
    data="on-policy",
    reference=False,
    modalities=("images",),
)
def softplus_critic_weight(
    score: Float[Tensor, " B"], *, scale: float = 1.0, max_weight: float = 5.0
) -> Float[Tensor, " B"]:
    r"""A gentler weight, linear for high scores: ``w = min(softplus(τ S) / mean softplus(τ S), w_max)``.

    Args:
        score: S, as in `exponential_critic_weight`; a constant, no gradient.
        scale: τ > 0.
        max_weight: w_max > 0.

    Returns:
        The weight of each row, in [0, w_max]. Rows of a batch depend on each other.

    Raises:
        ValueError: scale or max_weight is not positive.

    Reference:
        (ours), one of the alternatives to `exponential_critic_weight`.

    Example:
        Two equal scores: 1 and 1.
    """
    check_positive("scale", scale)
    return _relative(softplus(scale * widened(score.detach())), max_weight)


@objective(
    role="weight",
    paper="(ours), for Fan et al. 2025, arXiv 2510.18072",
    feedback="rating",
    signal="advantage",
    data="on-policy",
    reference=False,
    modalities=("images",),
)
def affine_critic_weight(
    score: Float[Tensor, " B"], *, scale: float = 1.0, max_weight: float = 5.0
) -> Float[Tensor, " B"]:
    r"""The policy gradient's weight, kept from pushing away: ``w = min(relu(1 + τ S) / mean relu(1 + τ S), w_max)``.

    Below 0 a regression would be pushed away from its image without bound; there it is 0.

    Args:
        score: S, as in `exponential_critic_weight`; a constant, no gradient.
        scale: τ > 0.
        max_weight: w_max > 0.

    Returns:
        The weight of each row, in [0, w_max]; 0 for all where all are below ``-1/τ``. Rows of a batch depend on each other.

    Raises:
        ValueError: scale or max_weight is not positive.

    Reference:
        (ours), one of the alternatives to `exponential_critic_weight`.

    Example:
        Scores 1 and -2 at τ = 1: 2 and 0.
    """
    check_positive("scale", scale)
    return _relative((1 + scale * widened(score.detach())).clamp(min=0), max_weight)


@objective(
    paper="Fan et al. 2025, arXiv 2510.18072 (reconstruction)",
    feedback="rating",
    signal="advantage",
    data="on-policy",
    reference=True,
    modalities=("images",),
)
def ac_flow(
    error: Float[Tensor, " B"],
    ref_distance: Float[Tensor, " B"],
    score: Float[Tensor, " B"],
    *,
    scale: float = 1.0,
    max_weight: float = 5.0,
    beta: float = 0.3,
) -> Float[Tensor, " B"]:
    r"""AC-Flow's actor: `orw_cfm_w2` whose weights come from a critic of the noised image.

    ``L = w e + β |u - u_ref|²`` with ``w = min(exp(τ S) / mean exp(τ S), w_max)``. With the shaped reward for S, no cap and raw
    weights it is ORW-CFM-W2.

    Args:
        error: `denoising_error` on a re-noised image that the last round's model drew.
        ref_distance: `denoising_error` of the policy's prediction against the reference's.
        score: S of that noised image, its clipped advantage ``r̃ - V(x_t)`` or another (see `exponential_critic_weight`).
        scale: τ > 0; raising it sharpens the tilt.
        max_weight: w_max > 0.
        beta: >= 0, strength of the pull to the reference; 0 collapses. 0.3 is what the authors show as balanced for ORW-CFM-W2.

    Returns:
        The loss of each row, >= 0. Rows of a batch depend on each other through the weights.

    Reference:
        Fan et al., "Fine-tuning Flow Matching Generative Models with Intermediate Feedback", arXiv 2510.18072; from its
        abstract and the authors' project page: critic weighting with ORW-CFM-W2 as a special case and Wasserstein
        regularisation.

    Example:
        Errors 0.4 and 0.4, distances 0.5 and 0, scores 0 and log 3, β = 0.3: ``0.5 · 0.4 + 0.15 = 0.35`` and
        ``1.5 · 0.4 = 0.6``.
    """
    weight = exponential_critic_weight(score, scale=scale, max_weight=max_weight)
    return orw_cfm_w2(error, ref_distance, weight, beta=beta)


def _relative(weight: Tensor, max_weight: float) -> Tensor:
    """Weights over their mean, capped; 0 where all are 0."""
    check_positive("max_weight", max_weight)
    if weight.numel() == 0:
        return weight
    mean = weight.mean()
    return (weight / torch.where(mean > 0, mean, 1)).clamp(max=max_weight)
