"""Policy gradients on the denoising chain: each step of the sampler is an action, the reward comes with the image.

A trajectory is a row, a denoising step a column: ``token_log_prob`` is a step's `transition_log_prob`. Advantages of groups
of images for one prompt are those of language models; here is only what image models do differently.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plaudit.objectives.aggregation import Aggregation, aggregate
from plaudit.objectives.arguments import check_not_negative, check_positive, widened
from plaudit.objectives.catalogue import objective


@objective(
    paper="Black et al. 2023, arXiv 2305.13301",
    feedback="rating",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("images",),
)
def ddpo_sf(
    token_log_prob: Float[Tensor, "N T"],
    advantage: Float[Tensor, " N"],
    mask: Bool[Tensor, "N T"],
    *,
    aggregation: Aggregation = "sequence-sum",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""DDPO with the score function (REINFORCE): ``L = -A Σ_k log p(x_{k+1} | x_k, c)``.

    Args:
        token_log_prob: log-probability of each denoising step under the policy that took it.
        advantage: A of each image, its reward or `per_prompt_advantage`; a constant, no gradient.
        mask: True where a step counts.
        aggregation: over steps; the paper's is the sum, ddpo-pytorch takes the mean over steps and batch.

    Returns:
        Value and weight of each trajectory, as `aggregate` gives them. The gradient is the policy gradient only for the first
        update on a batch; after it, use `ddpo_is`.

    Reference:
        Black et al., "Training Diffusion Models with Reinforcement Learning", arXiv 2305.13301, equation for ``DDPO_SF`` in
        section 4.3.

    Example:
        Two steps with log-probabilities -1 and -2, A = 0.5: ``-0.5 (-3) = 1.5``.
    """
    log_prob = torch.where(mask, token_log_prob, 0)
    return aggregate(-advantage.detach().unsqueeze(-1) * log_prob, mask, aggregation)


@objective(
    paper="Black et al. 2023, arXiv 2305.13301",
    feedback="rating",
    signal="advantage",
    data="on-policy",
    reference=False,
    modalities=("images",),
)
def ddpo_is(
    token_log_prob: Float[Tensor, "N T"],
    old_token_log_prob: Float[Tensor, "N T"],
    advantage: Float[Tensor, " N"],
    mask: Bool[Tensor, "N T"],
    *,
    clip_range: float = 1e-4,
    aggregation: Aggregation = "sequence-mean",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""DDPO with importance sampling: PPO's clipped loss on each denoising step.

    ``L = mean_k max(-A ρ_k, -A clip(ρ_k, 1 - c, 1 + c))`` with ``ρ_k = p(x_{k+1}|x_k) / p_old(x_{k+1}|x_k)``.

    Args:
        token_log_prob: log-probability of each denoising step under the policy.
        old_token_log_prob: under the policy that took the step; a constant, no gradient.
        advantage: A of each image; a constant, no gradient. Clip it to ±5 first, as both codes do (`per_prompt_advantage`).
        mask: True where a step counts (Flow-GRPO leaves the last step out).
        clip_range: c > 0. The default belongs to log-probabilities that are means over dimensions; sums over D
            dimensions move about D times as much.
        aggregation: over steps; both codes take the mean over steps and batch.

    Returns:
        Value and weight of each trajectory. Unbounded where A < 0 and the step became much likelier, as in the paper.

    Reference:
        Black et al., arXiv 2305.13301, ``DDPO_IS`` in section 4.3; the clipping as in kvablack/ddpo-pytorch
        ``scripts/train.py``.

    Example:
        One step at ρ = 1.1, A = 2, c = 0.05: ``max(-2.2, -2.1) = -2.1``.
    """
    return aggregate(
        _clipped_surrogate(token_log_prob, old_token_log_prob, advantage, mask, clip_range), mask, aggregation
    )


@objective(
    paper="Liu et al. 2025, arXiv 2505.05470",
    feedback="rating",
    signal="advantage",
    data="on-policy",
    reference=True,
    modalities=("images",),
)
def flow_grpo(
    token_log_prob: Float[Tensor, "N T"],
    old_token_log_prob: Float[Tensor, "N T"],
    token_kl: Float[Tensor, "N T"],
    advantage: Float[Tensor, " N"],
    mask: Bool[Tensor, "N T"],
    *,
    beta: float,
    clip_range: float = 1e-4,
    aggregation: Aggregation = "sequence-mean",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""Flow-GRPO: `ddpo_is` on steps of `flow_sde_step` with advantages of a group, and a divergence from the reference.

    ``L = mean_k [ max(-A ρ_k, -A clip(ρ_k, 1 - c, 1 + c)) + β KL_k ]``.

    Args:
        token_log_prob: log-probability of each denoising step under the policy.
        old_token_log_prob: under the policy that took the step; a constant, no gradient.
        token_kl: `transition_kl` of each step, with gradient; or `flow_grpo_code_kl` for the published β.
        advantage: A of each image; a constant, no gradient. The code's is ``(r - mean of the prompt's group) / (sd + 1e-4)``
            with the deviation over the whole batch, clipped to ±5; images of groups with equal rewards are dropped.
        mask: True where a step counts; the code leaves the last step out.
        beta: >= 0, strength of the pull to the reference: with the code's divergence 0.04 for GenEval and OCR, 0.01 for
            PickScore.
        clip_range: c > 0; the default belongs to log-probabilities that are means over dimensions.
        aggregation: over steps; the paper and the code take the mean.

    Returns:
        Value and weight of each trajectory.

    Raises:
        ValueError: beta or clip_range out of range.

    Reference:
        Liu et al., "Flow-GRPO: Training Flow Matching Models via Online RL", arXiv 2505.05470, section 4.1; checked against
        yifan123/flow_grpo ``scripts/train_sd3.py``.

    Example:
        One step at ρ = 1.1, A = 2, c = 0.05, KL = 0.5, β = 0.04: ``-2.1 + 0.02 = -2.08``.
    """
    check_not_negative("beta", beta)
    surrogate = _clipped_surrogate(token_log_prob, old_token_log_prob, advantage, mask, clip_range)
    return aggregate(surrogate + beta * torch.where(mask, token_kl, 0), mask, aggregation)


@objective(
    paper="Fan et al. 2023, arXiv 2305.16381",
    feedback="rating",
    signal="reward",
    data="on-policy",
    reference=True,
    modalities=("images",),
)
def dpok(
    token_log_prob: Float[Tensor, "N T"],
    token_kl: Float[Tensor, "N T"],
    reward: Float[Tensor, " N"],
    mask: Bool[Tensor, "N T"],
    *,
    value: Float[Tensor, "N T"] | None = None,
    reward_weight: float = 10.0,
    beta: float = 0.01,
    aggregation: Aggregation = "sequence-sum",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""DPOK: policy gradient with the divergence from the reference as a loss of each step.

    ``L = Σ_k [ -α (r - V_k) log p(x_{k+1} | x_k, c) + β KL(p(·|x_k, c) ‖ p_ref(·|x_k, c)) ]``.

    Args:
        token_log_prob: log-probability of each denoising step under the policy that took it.
        token_kl: `transition_kl` of each step, with gradient.
        reward: r of each image; a constant, no gradient.
        mask: True where a step counts.
        value: ``V_k``, a critic's expectation of the reward at the state before each step; a constant, no gradient. None is 0.
        reward_weight: α > 0, the reward's weight; raising it is lowering β and raising the learning rate.
        beta: >= 0, strength of the pull to the reference.
        aggregation: over steps; the paper's is the sum, the code takes the mean.

    Returns:
        Value and weight of each trajectory.

    Raises:
        ValueError: reward_weight or beta out of range.

    Reference:
        Fan et al., "DPOK: Reinforcement Learning for Fine-tuning Text-to-Image Diffusion Models", arXiv 2305.16381, section
        4.2 and algorithm 1 (defaults after our specification). The code (google-research ``dpok/train_online_pg.py``) has
        `dpok_importance`'s policy term, α = 100, and for the divergence the mean squared difference of the noise predictions.

    Example:
        One step with log-probability -1 and KL 0.5, r = 0.2: ``-10 · 0.2 · (-1) + 0.01 · 0.5 = 2.005``.
    """
    check_positive("reward_weight", reward_weight)
    check_not_negative("beta", beta)
    log_prob, kl = torch.where(mask, token_log_prob, 0), torch.where(mask, token_kl, 0)
    per_step = -reward_weight * _step_advantage(reward, value, mask) * log_prob + beta * kl
    return aggregate(per_step, mask, aggregation)


@objective(
    paper="Fan et al. 2023, arXiv 2305.16381 (code)",
    feedback="rating",
    signal="reward",
    data="on-policy",
    reference=True,
    modalities=("images",),
)
def dpok_importance(
    token_log_prob: Float[Tensor, "N T"],
    old_token_log_prob: Float[Tensor, "N T"],
    token_kl: Float[Tensor, "N T"],
    reward: Float[Tensor, " N"],
    mask: Bool[Tensor, "N T"],
    *,
    value: Float[Tensor, "N T"] | None = None,
    reward_weight: float = 100.0,
    beta: float = 0.01,
    clip_range: float = 1e-4,
    aggregation: Aggregation = "sequence-mean",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""DPOK for several updates on one batch: ``L = mean_k [ -α (r - V_k) clip(ρ_k, 1 - c, 1 + c) + β KL_k ]``.

    Unlike PPO's loss this has no maximum with the unclipped term: a ratio outside the range has no gradient at all, whatever
    the sign of the advantage.

    Args:
        token_log_prob: log-probability of each denoising step under the policy.
        old_token_log_prob: under the policy that took the step; a constant, no gradient.
        token_kl: `transition_kl` of each step, with gradient.
        reward: r of each image; a constant, no gradient.
        mask: True where a step counts.
        value: ``V_k``, a critic's expectation of the reward at the state before each step; a constant, no gradient. None is 0.
        reward_weight: α > 0, the reward's weight.
        beta: >= 0, strength of the pull to the reference.
        clip_range: c > 0; the default belongs to log-probabilities that are means over dimensions.
        aggregation: over steps; the code takes the mean over states of many trajectories.

    Returns:
        Value and weight of each trajectory.

    Raises:
        ValueError: reward_weight, beta or clip_range out of range.

    Reference:
        google-research ``dpok/train_online_pg.py``, ``_train_policy_func`` (its defaults); Fan et al., arXiv 2305.16381,
        section 4.2 on importance sampling.

    Example:
        One step at ρ = 1.1, r = 2, α = 1, c = 0.05, KL = 0.5, β = 0.01: ``-2.1 + 0.005 = -2.095``, with no gradient through ρ.
    """
    check_positive("reward_weight", reward_weight)
    check_not_negative("beta", beta)
    check_positive("clip_range", clip_range)
    log_ratio = torch.where(mask, widened(token_log_prob) - widened(old_token_log_prob.detach()), 0)
    beyond = 1 + math.log1p(clip_range)  # from here on the clipped ratio is 1 + c, and exp must not overflow
    ratio = log_ratio.clamp(max=beyond).exp().clamp(1 - clip_range, 1 + clip_range)
    per_step = -reward_weight * _step_advantage(reward, value, mask) * ratio + beta * torch.where(mask, token_kl, 0)
    return aggregate(per_step, mask, aggregation)


@objective(
    role="advantage",
    paper="Black et al. 2023, arXiv 2305.13301",
    feedback="rating",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("images",),
)
def per_prompt_advantage(
    reward: Float[Tensor, " B"],
    prompt_mean: Float[Tensor, " B"],
    prompt_sd: Float[Tensor, " B"],
    prompt_count: Int[Tensor, " B"],
    *,
    at_least: int = 16,
    clip: float = 5.0,
    epsilon: float = 1e-6,
) -> Float[Tensor, " B"]:
    r"""DDPO's advantage: the reward standardised by the prompt's own recent rewards, or by the batch where these are too few.

    ``A = clip((r - μ_c) / (σ_c + ε), ±clip)``; for prompts with fewer than `at_least` stored rewards μ and σ are the batch's.

    Args:
        reward: r of each image.
        prompt_mean: mean of the rewards that are stored for the image's prompt, this batch's included; not read where too few.
        prompt_sd: their standard deviation, without Bessel's correction as in the code; not read where too few.
        prompt_count: how many they are. The code stores the last 16.
        at_least: from how many stored rewards on the prompt's own statistics are used.
        clip: > 0, bound of the advantage's size.
        epsilon: >= 0, added to the deviation; the code's 1e-6.

    Returns:
        The advantage of each image, in ±clip, without gradient. Rows of a batch depend on each other through the fall-back;
        a batch of equal rewards gets 0.

    Raises:
        ValueError: clip or epsilon out of range.

    Reference:
        Black et al., arXiv 2305.13301, appendix on per-prompt normalisation; checked against kvablack/ddpo-pytorch
        ``stat_tracking.py`` and, for the clip, ``config/base.py``.

    Example:
        ``r = 3`` with mean 1 and deviation 0.5 of 16 rewards: 4; of 10 rewards in a batch (3, 1): ``(3 - 2) / 1 = 1``.
    """
    check_positive("clip", clip)
    check_not_negative("epsilon", epsilon)
    reward = widened(reward.detach())
    enough = prompt_count >= at_least
    if reward.numel() == 0:
        return reward
    mean = torch.where(enough, widened(prompt_mean.detach()), reward.mean())
    sd = torch.where(enough, widened(prompt_sd.detach()), reward.std(correction=0)) + epsilon
    return torch.where(reward == mean, 0, (reward - mean) / sd).clamp(-clip, clip)


def _clipped_surrogate(
    token_log_prob: Tensor, old_token_log_prob: Tensor, advantage: Tensor, mask: Tensor, clip_range: float
) -> Tensor:
    """PPO's loss of each step. Where A >= 0 a ratio beyond the range changes nothing, and is kept from overflowing."""
    check_positive("clip_range", clip_range)
    a = advantage.detach().unsqueeze(-1)
    log_ratio = torch.where(mask, widened(token_log_prob) - widened(old_token_log_prob.detach()), 0)
    beyond = 1 + math.log1p(clip_range)
    log_ratio = torch.where((a >= 0) & (log_ratio > beyond), beyond, log_ratio)
    ratio = log_ratio.exp()
    return torch.maximum(-a * ratio, -a * ratio.clamp(1 - clip_range, 1 + clip_range))


def _step_advantage(reward: Tensor, value: Tensor | None, mask: Tensor) -> Tensor:
    """``r - V_k`` of each step, or ``r`` of each row."""
    column = reward.detach().unsqueeze(-1)
    return column if value is None else column - torch.where(mask, value.detach(), 0)
