"""Importance ratios between two policies, and weights that correct or drop what another policy sampled.

Every policy loss here is positively homogeneous in the advantage: a weight per token or output multiplies `advantage`.

Ratios are taken in float32 at least, and log-ratios are held within ±20 before `exp`, as in verl and OpenRLHF (TRL has no
bound): beyond e^20 a ratio stays finite and has no gradient.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.objectives.arguments import check_not_negative, masked_mean
from plaudit.objectives.catalogue import objective

LOG_RATIO_BOUND = 20.0


def masked_advantage(advantage: Tensor, mask: Tensor) -> Tensor:
    """The advantage of every token as a constant in float32 at least, 0 where masked."""
    return torch.where(mask, advantage.detach(), 0).to(torch.promote_types(advantage.dtype, torch.float32))


def token_log_ratio(token_log_prob: Tensor, base_token_log_prob: Tensor, mask: Tensor) -> Tensor:
    """``log π - log π_base`` per token in float32 at least, 0 where masked; the base is a constant."""
    dtype = torch.promote_types(token_log_prob.dtype, torch.float32)
    current = torch.where(mask, token_log_prob, 0).to(dtype)
    return current - torch.where(mask, base_token_log_prob.detach(), 0).to(dtype)


def bounded_exp(log_ratio: Tensor) -> Tensor:
    """The ratio of a log-ratio, which is held within ±20."""
    return log_ratio.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()


@objective(
    role="weight",
    paper="Yao et al. 2025; Munos et al. 2016, arXiv 1606.02647",
    feedback="any",
    signal="none",
    data="off-policy",
    reference=False,
    modalities=("text",),
)
def truncated_importance_weight(
    old_token_log_prob: Float[Tensor, "N T"],
    sampler_token_log_prob: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    minimum: float = 0.0,
    maximum: float = 2.0,
) -> Float[Tensor, "N T"]:
    r"""Truncated importance sampling for a sampler that differs from the trainer: ``w_t = clip(π_old / π_sampler, c, C)``.

    An inference engine rounds differently from the trainer, so that data called on-policy are not. Both log-probabilities are
    of the same weights; multiply the advantage by ``w_t``.

    Args:
        old_token_log_prob: of the sampled tokens under the trainer, before the update.
        sampler_token_log_prob: of the same tokens under the engine that sampled them.
        mask: True for the tokens that count.
        minimum: ``c >= 0``.
        maximum: ``C > c``; raising it trades bias for variance.

    Returns:
        The weights, constants; 0 where masked.

    Raises:
        ValueError: minimum negative, or maximum not above it.

    Reference:
        Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training" (2025, fengyao.notion.site), after
        Retrace (Munos et al., arXiv 1606.02647). TRL: ``vllm_importance_sampling_mode="token_truncate"``; OpenRLHF: ``tis``.

    Example:
        Probabilities (1/2, 1/2) under the trainer and (1/4, 1/16) under the sampler, C = 3: weights (2, 3).
    """
    _check_range(minimum, maximum)
    ratio = bounded_exp(token_log_ratio(old_token_log_prob, sampler_token_log_prob, mask).detach())
    return torch.where(mask, ratio.clamp(minimum, maximum), 0)


@objective(
    role="weight",
    paper="Ling Team 2025, arXiv 2510.18855",
    feedback="any",
    signal="none",
    data="off-policy",
    reference=False,
    modalities=("text",),
)
def masked_importance_weight(
    old_token_log_prob: Float[Tensor, "N T"],
    sampler_token_log_prob: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    minimum: float = 0.5,
    maximum: float = 5.0,
) -> Float[Tensor, "N T"]:
    r"""IcePop: the ratio of trainer to sampler where it lies within bounds, 0 elsewhere.

    `truncated_importance_weight` keeps tokens on which the two disagree; this drops them.

    Args:
        old_token_log_prob: as in `truncated_importance_weight`.
        sampler_token_log_prob: as there.
        mask: True for the tokens that count.
        minimum: ``>= 0``; below it a token is dropped.
        maximum: above it a token is dropped.

    Returns:
        The weights, constants; 0 where masked. A dropped token still counts in the mean over tokens.

    Raises:
        ValueError: minimum negative, or maximum not above it.

    Reference:
        Ling Team, "Every Step Evolves", arXiv 2510.18855 (the default bounds from memory, not found). OpenRLHF: ``icepop``;
        TRL: ``token_mask``, where the lower bound is off by default and the upper one 3.

    Example:
        Ratios (2, 8) with bounds 0.5 and 5: weights (2, 0).
    """
    _check_range(minimum, maximum)
    ratio = bounded_exp(token_log_ratio(old_token_log_prob, sampler_token_log_prob, mask).detach())
    return torch.where(mask & (ratio >= minimum) & (ratio <= maximum), ratio, 0)


@objective(
    role="weight",
    paper="Liu et al. 2025",
    feedback="any",
    signal="none",
    data="off-policy",
    reference=False,
    modalities=("text",),
)
def sequence_truncated_importance_weight(
    old_token_log_prob: Float[Tensor, "N T"],
    sampler_token_log_prob: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    minimum: float = 0.0,
    maximum: float = 2.0,
) -> Float[Tensor, " N"]:
    r"""One truncated ratio for a whole output: ``w = clip(Π_t π_old / π_sampler, c, C)``.

    Without truncation the unbiased correction of an autoregressive policy; the ratio per token is biased, with less variance.

    Args:
        old_token_log_prob: as in `truncated_importance_weight`.
        sampler_token_log_prob: as there.
        mask: True for the tokens that count.
        minimum: ``c >= 0``.
        maximum: ``C > c``.

    Returns:
        The weight of each output, a constant; an output without tokens has ratio 1, truncated like any other.

    Raises:
        ValueError: minimum negative, or maximum not above it.

    Reference:
        Liu et al., "When Speed Kills Stability" (2025, yingru.notion.site). TRL: ``sequence_truncate``.

    Example:
        Ratios (2, 1/4): ``w = 1/2``.
    """
    _check_range(minimum, maximum)
    log_ratio = token_log_ratio(old_token_log_prob, sampler_token_log_prob, mask).detach().sum(-1)
    return bounded_exp(log_ratio).clamp(minimum, maximum)


@objective(
    role="weight",
    paper="Liu et al. 2025",
    feedback="any",
    signal="none",
    data="off-policy",
    reference=False,
    modalities=("text",),
)
def sequence_masked_importance_weight(
    old_token_log_prob: Float[Tensor, "N T"],
    sampler_token_log_prob: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    minimum: float = 0.0,
    maximum: float = 3.0,
) -> Float[Tensor, " N"]:
    r"""The ratio of a whole output where it lies within bounds, 0 elsewhere.

    Args:
        old_token_log_prob: as in `truncated_importance_weight`.
        sampler_token_log_prob: as there.
        mask: True for the tokens that count.
        minimum: ``>= 0``; below it an output is dropped.
        maximum: above it an output is dropped.

    Returns:
        The weight of each output, a constant.

    Raises:
        ValueError: minimum negative, or maximum not above it.

    Reference:
        Liu et al., "When Speed Kills Stability" (2025, yingru.notion.site). TRL: ``sequence_mask``, its default, with C = 3.

    Example:
        Ratios (2, 1/4) have the product 1/2, which is the weight; (2, 2) have 4 > 3: weight 0.
    """
    _check_range(minimum, maximum)
    ratio = bounded_exp(token_log_ratio(old_token_log_prob, sampler_token_log_prob, mask).detach().sum(-1))
    return torch.where((ratio >= minimum) & (ratio <= maximum), ratio, 0)


@objective(
    role="weight",
    paper="DeepSeek-AI 2025, arXiv 2512.02556",
    feedback="any",
    signal="advantage",
    data="off-policy",
    reference=False,
    modalities=("text",),
)
def off_policy_sequence_weight(
    token_log_prob: Float[Tensor, "N T"],
    old_token_log_prob: Float[Tensor, "N T"],
    advantage: Float[Tensor, " N #T"],
    mask: Bool[Tensor, "N T"],
    *,
    threshold: float,
) -> Float[Tensor, "N T"]:
    r"""Drop bad outputs that the policy has moved away from: 0 where ``A < 0`` and ``1/|y| Σ_t log π_old/π > δ``, else 1.

    Args:
        token_log_prob: under the policy being trained.
        old_token_log_prob: under what sampled the tokens; the sampler's own log-probabilities also catch its mismatch.
        advantage: per token, or [N, 1] for a whole output.
        mask: True for the tokens that count.
        threshold: ``δ >= 0`` in nats per token; raising it drops less. The paper gives none; TRL suggests 0.5.

    Returns:
        The weights, constants; 0 where masked. Multiply the advantage by them: a dropped token still counts in the mean.

    Raises:
        ValueError: a negative threshold.

    Reference:
        DeepSeek-AI, "DeepSeek-V3.2", arXiv 2512.02556 (off-policy sequence masking). TRL: ``off_policy_mask_threshold``.

    Example:
        Two tokens half as likely as before: ``log 2 = 0.69 > 0.5``; dropped if the advantage is negative, kept otherwise.
    """
    check_not_negative("threshold", threshold)
    divergence = masked_mean(-token_log_ratio(token_log_prob, old_token_log_prob, mask).detach(), mask, keepdim=True)
    known = masked_advantage(advantage, mask)
    return (mask & ((known >= 0) | (divergence <= threshold))).to(known.dtype)


def _check_range(minimum: float, maximum: float) -> None:
    check_not_negative("minimum", minimum)
    if not maximum > minimum:
        raise ValueError(f"maximum: expected a number > {minimum}, got {maximum}")
