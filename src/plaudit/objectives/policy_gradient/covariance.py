"""Policy-gradient losses that keep the entropy up: they hold back the few tokens that lower it most.

A token lowers the entropy in proportion to its share of the covariance of log-probability and advantage over the batch's
tokens: ``cov_t = (A_t - Ā)(log π_t - mean log π)``. Pass the whole batch. Which tokens are
chosen is a constant to the gradient.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.objectives.aggregation import Aggregation, aggregate
from plaudit.objectives.arguments import check_not_negative, check_share, masked_mean
from plaudit.objectives.catalogue import objective
from plaudit.objectives.policy_gradient.clipped_ratio import clipped
from plaudit.objectives.policy_gradient.importance import bounded_exp, masked_advantage, token_log_ratio


@objective(
    paper="Cui et al. 2025, arXiv 2505.22617",
    feedback="any",
    signal="advantage",
    data="on-policy",
    reference=False,
    modalities=("text",),
)
def clip_cov(
    token_log_prob: Float[Tensor, "N T"],
    old_token_log_prob: Float[Tensor, "N T"],
    advantage: Float[Tensor, " N #T"],
    mask: Bool[Tensor, "N T"],
    *,
    generator: torch.Generator,
    share: float = 2e-4,
    lowest: float = 1.0,
    highest: float = 5.0,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    aggregation: Aggregation = "token-mean",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""Clip-Cov: PPO's clipped surrogate, with the loss of some randomly chosen tokens of high covariance set to 0.

    The tokens to choose from are those that PPO's clip leaves alone and whose covariance lies between two bounds.

    Args:
        token_log_prob: as in `ppo_clip`.
        old_token_log_prob: as in `ppo_clip`.
        advantage: as in `ppo_clip`.
        mask: True for the tokens that count.
        generator: draws the tokens; on the CPU.
        share: in [0, 1], share of the batch's tokens to set to 0, at least one; raising it keeps the entropy higher.
        lowest: lower bound of the covariance (the mean is far below it).
        highest: upper bound, above `lowest`.
        clip_low: as in `ppo_clip`.
        clip_high: as in `ppo_clip`.
        aggregation: see `aggregate`; a token set to 0 still counts in the mean.

    Returns:
        (value, weight) per output.

    Raises:
        ValueError: share or clip_low is no share, clip_high is negative, or highest is not above lowest.

    Reference:
        Cui et al., "The Entropy Mechanism of RL for Reasoning Language Models", arXiv 2505.22617, section 4; the defaults and
        the order of the steps are the official code's, which verl's ``clip_cov`` follows.

    Example:
        Advantages (2, -2) on policy, probabilities (1/2, 1/32): covariances ``2 · 2 log 2`` each, within (1, 5); ``share = 1``
        sets both to 0.
    """
    check_share("share", share)
    if not highest > lowest:
        raise ValueError(f"highest: expected a number > lowest = {lowest:g}, got {highest}")
    ratio = bounded_exp(token_log_ratio(token_log_prob, old_token_log_prob, mask))
    known = masked_advantage(advantage, mask)
    per_token = clipped(ratio, known, clip_low, clip_high)
    covariance = _covariance(token_log_prob, known, mask)
    inside = mask & (covariance > lowest) & (covariance < highest) & (per_token <= -known * ratio)
    candidates = inside.flatten().nonzero().squeeze(-1)
    order = torch.randperm(len(candidates), generator=generator).to(candidates.device)
    chosen = candidates[order[: _count(share, mask)]]
    kept = torch.ones_like(mask).flatten().index_fill(0, chosen, False).view_as(mask)
    return aggregate(torch.where(kept, per_token, 0), mask, aggregation)


@objective(
    paper="Cui et al. 2025, arXiv 2505.22617",
    feedback="any",
    signal="advantage",
    data="on-policy",
    reference=False,
    modalities=("text",),
)
def kl_cov(
    token_log_prob: Float[Tensor, "N T"],
    old_token_log_prob: Float[Tensor, "N T"],
    advantage: Float[Tensor, " N #T"],
    mask: Bool[Tensor, "N T"],
    *,
    coefficient: float = 1.0,
    share: float = 2e-4,
    aggregation: Aggregation = "token-mean",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""KL-Cov: the unclipped surrogate ``-A ρ``, plus ``c |log ρ|`` on the tokens of the highest covariance.

    Args:
        token_log_prob: as in `ppo_clip`.
        old_token_log_prob: as in `ppo_clip`.
        advantage: as in `ppo_clip`.
        mask: True for the tokens that count.
        coefficient: ``c >= 0``; raising it holds the chosen tokens nearer to the old policy.
        share: in [0, 1], share of the batch's tokens to hold, at least one; raising it keeps the entropy higher.
        aggregation: see `aggregate`.

    Returns:
        (value, weight) per output.

    Raises:
        ValueError: share is no share, or coefficient is negative.

    Reference:
        Cui et al., arXiv 2505.22617, section 4. The paper writes the KL of the old policy from the new one; ``|log ρ|`` is
        the official code's, which verl's ``kl_cov`` follows.

    Example:
        Advantages (1, -1), probabilities (1/2, 1/8), ratios (2, 1): both covariances are ``log 2``; ``share = 1`` gives
        ``(-2 + log 2 + 1) / 2``.
    """
    check_not_negative("coefficient", coefficient)
    check_share("share", share)
    log_ratio = token_log_ratio(token_log_prob, old_token_log_prob, mask)
    known = masked_advantage(advantage, mask)
    covariance = torch.where(mask, _covariance(token_log_prob, known, mask), -torch.inf).flatten()
    chosen = covariance.topk(min(_count(share, mask), covariance.numel())).indices
    held = torch.zeros_like(mask).flatten().index_fill(0, chosen, True).view_as(mask)
    penalty = torch.where(held, coefficient * log_ratio.abs(), 0)
    return aggregate(penalty - known * bounded_exp(log_ratio), mask, aggregation)


def _covariance(token_log_prob: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    """Each token's share of the covariance of advantage and log-probability over the batch's tokens."""
    log_prob = torch.where(mask, token_log_prob.detach(), 0).to(
        torch.promote_types(token_log_prob.dtype, torch.float32)
    )
    from_mean = log_prob - masked_mean(log_prob, mask, dim=(0, 1))
    return (advantage - masked_mean(advantage, mask, dim=(0, 1))) * from_mean


def _count(share: float, mask: Tensor) -> int:
    return max(int(share * int(mask.sum())), 1)
