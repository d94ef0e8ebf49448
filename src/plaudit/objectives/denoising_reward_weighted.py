"""Reward-weighted denoising regression: a model learns its own pictures again, the better ones more."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from plaudit.objectives.arguments import check_not_negative, check_positive
from plaudit.objectives.catalogue import objective
from plaudit.objectives.denoising import denoising_regression
from plaudit.objectives.denoising_transitions import wide


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
    return (scale * wide(reward.detach())).exp()


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
    return reward.numel() * (scale * wide(reward.detach())).softmax(0)


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
