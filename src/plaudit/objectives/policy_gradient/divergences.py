"""Divergences between a policy and its reference, estimated from sampled tokens, and where they enter: reward or loss.

The estimates k1, k2, k3 take tokens sampled from π. Their means and their gradients differ; with ``u = log π - log π_ref``:

===================  ==============  ====================  ==========================================
estimate             formula         mean over π           gradient of that mean as a loss, on policy
===================  ==============  ====================  ==========================================
`kl_k1`              u               KL(π ‖ ref)           0
`kl_k2`              u² / 2          near KL for small u   that of KL(π ‖ ref)
`kl_k3`              e^-u + u - 1    KL(π ‖ ref)           that of KL(ref ‖ π)
`kl_k3_reweighted`   ρ (k3)          KL(π ‖ ref)           that of KL(π ‖ ref)
===================  ==============  ====================  ==========================================

Inside the reward (`kl_shaped_rewards`) no gradient flows through the estimate, and k1 is the right one.
The reference is a constant; `plaudit.objectives.policy_gradient.exact_divergences` takes whole distributions.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.objectives.arguments import check_not_negative, check_positive
from plaudit.objectives.catalogue import objective
from plaudit.objectives.policy_gradient.importance import LOG_RATIO_BOUND, bounded_exp, token_log_ratio


@objective(
    role="divergence",
    paper="Schulman 2020",
    feedback="any",
    signal="none",
    data="on-policy",
    reference=True,
)
def kl_k1(
    token_log_prob: Float[Tensor, "N T"],
    ref_token_log_prob: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    minimum: float | None = None,
    maximum: float | None = None,
) -> Float[Tensor, "N T"]:
    r"""The log-ratio as an estimate of the KL per token: ``k1 = u = log π - log π_ref``. Unbiased, may be negative.

    Args:
        token_log_prob: log-probability of each sampled token under the policy.
        ref_token_log_prob: the same under the reference. A constant.
        mask: True for the tokens that count.
        minimum: lower bound of the estimate; a bounded entry has no gradient. AlpacaFarm has 0, which makes it biased upwards.
        maximum: upper bound.

    Returns:
        The estimate per token, 0 where masked.

    Reference:
        Schulman, "Approximating KL Divergence" (2020, joschu.net/blog/kl-approx.html). OpenRLHF bounds it by ±10.

    Example:
        Probability 1/2 against the reference's 1/4: ``log 2``.
    """
    estimate = token_log_ratio(token_log_prob, ref_token_log_prob, mask)
    return _bounded(estimate, mask, minimum, maximum)


@objective(
    role="divergence",
    paper="Schulman 2020",
    feedback="any",
    signal="none",
    data="on-policy",
    reference=True,
)
def kl_k2(
    token_log_prob: Float[Tensor, "N T"],
    ref_token_log_prob: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    maximum: float | None = None,
) -> Float[Tensor, "N T"]:
    r"""Half the squared log-ratio: ``k2 = u² / 2``. As a loss on policy it has the gradient of ``KL(π ‖ π_ref)``.

    Args:
        token_log_prob: as in `kl_k1`.
        ref_token_log_prob: as in `kl_k1`.
        mask: True for the tokens that count.
        maximum: upper bound of the estimate; a bounded entry has no gradient. OpenRLHF has 10.

    Returns:
        The estimate per token, >= 0; 0 where masked. Its mean is not the KL, but near it for small log-ratios.

    Reference:
        Schulman (2020), as in `kl_k1`. verl's ``k3+`` has k3's value with this gradient.

    Example:
        Probability 1/2 against the reference's 1/4: ``(log 2)² / 2``.
    """
    estimate = token_log_ratio(token_log_prob, ref_token_log_prob, mask).square() / 2
    return _bounded(estimate, mask, None, maximum)


@objective(
    role="divergence",
    paper="Schulman 2020; Shao et al. 2024, arXiv 2402.03300",
    feedback="any",
    signal="none",
    data="on-policy",
    reference=True,
)
def kl_k3(
    token_log_prob: Float[Tensor, "N T"],
    ref_token_log_prob: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    maximum: float | None = None,
) -> Float[Tensor, "N T"]:
    r"""GRPO's estimate: ``k3 = e^{-u} + u - 1``. Unbiased, never negative, of low variance near the reference.

    As a loss on policy its gradient is that of ``KL(π_ref ‖ π)``.

    Args:
        token_log_prob: as in `kl_k1`.
        ref_token_log_prob: as in `kl_k1`.
        mask: True for the tokens that count.
        maximum: upper bound of the estimate; a bounded entry has no gradient. verl and OpenRLHF have 10, TRL none.

    Returns:
        The estimate per token, >= 0; 0 where masked. u is held above -20: e^20 is the greatest value.

    Reference:
        Schulman (2020), as in `kl_k1`; Shao et al., "DeepSeekMath", arXiv 2402.03300, equation 4.

    Example:
        Probability 1/2 against the reference's 1/4: ``1/2 + log 2 - 1 = 0.193``.
    """
    return _bounded(_k3(token_log_ratio(token_log_prob, ref_token_log_prob, mask)), mask, None, maximum)


@objective(
    role="divergence",
    paper="DeepSeek-AI 2025, arXiv 2512.02556",
    feedback="any",
    signal="none",
    data="on-policy",
    reference=True,
)
def kl_k3_reweighted(
    token_log_prob: Float[Tensor, "N T"],
    old_token_log_prob: Float[Tensor, "N T"],
    ref_token_log_prob: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
) -> Float[Tensor, "N T"]:
    r"""k3 times the importance ratio: ``ρ (e^{-u} + u - 1)``, unbiased for tokens of the old policy, in value and in gradient.

    The gradient flows through the ratio, too; that makes it the gradient of ``KL(π ‖ π_ref)``.

    Args:
        token_log_prob: as in `kl_k1`.
        old_token_log_prob: log-probability under the policy that sampled the tokens. A constant.
        ref_token_log_prob: as in `kl_k1`.
        mask: True for the tokens that count.

    Returns:
        The estimate per token, >= 0; 0 where masked.

    Reference:
        DeepSeek-AI, "DeepSeek-V3.2", arXiv 2512.02556 (unbiased KL estimate). TRL: ``use_bias_correction_kl``.

    Example:
        Probability 1/2, old 1/4, reference 1/4: ``2 (1/2 + log 2 - 1) = 0.386``.
    """
    ratio = bounded_exp(token_log_ratio(token_log_prob, old_token_log_prob, mask))
    return ratio * _k3(token_log_ratio(token_log_prob, ref_token_log_prob, mask))


@objective(
    role="reward",
    paper="Ziegler et al. 2019, arXiv 1909.08593; Stiennon et al. 2020, arXiv 2009.01325",
    feedback="any",
    signal="reward",
    data="on-policy",
    reference=True,
)
def kl_shaped_rewards(
    reward: Float[Tensor, " N"], token_kl: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"], *, beta: float
) -> Float[Tensor, "N T"]:
    r"""The pull to the reference inside the reward: ``r_t = -β kl_t``, plus the output's reward at its last token.

    Args:
        reward: reward of each output.
        token_kl: an estimate of the KL per token: `kl_k1` in PPO, RLOO and REINFORCE++; with ``minimum=0`` AlpacaFarm's.
        mask: True for the tokens that count; the last of them gets the reward, and an output without tokens none.
        beta: >= 0, strength of the pull to the reference; raising it keeps the policy nearer to the reference.

    Returns:
        The reward of each token, a constant; 0 where masked. With k1 a row adds up to ``R - β log(π/π_ref)``.

    Raises:
        ValueError: a negative beta.

    Reference:
        Ziegler et al., arXiv 1909.08593, equation 2; Stiennon et al., arXiv 2009.01325, section 3.4. TRL's RLOOTrainer
        subtracts the sum from the output's reward, which is this row's sum.

    Example:
        Reward 1, KL (0.5, 0.25), β = 2: (-1, 0.5).
    """
    check_not_negative("beta", beta)
    dtype = torch.promote_types(token_kl.dtype, torch.float32)
    penalty = -beta * torch.where(mask, token_kl.detach(), 0).to(dtype)
    last = mask & (mask.flip(-1).cumsum(-1).flip(-1) == 1)
    return penalty + torch.where(last, reward.detach().to(dtype)[:, None], 0)


def adaptive_kl_coefficient(
    coefficient: float, kl: float, *, target: float, gain: float = 0.1, limit: float = 0.2
) -> float:
    r"""The next strength of the pull to the reference: ``β ← β (1 + k clip(KL / target - 1, -l, l))``.

    Args:
        coefficient: β > 0, the present strength.
        kl: the KL of the last batch, in the units of `target` (the paper's: summed over an output).
        target: > 0, the KL to hold.
        gain: ``k >= 0``; raising it reacts faster. The paper has 0.1; TRL and verl write it as outputs per batch / horizon.
        limit: ``l > 0``, the greatest relative error that counts; ``k l < 1`` keeps β positive.

    Returns:
        The next β; unchanged where the KL is on target.

    Raises:
        ValueError: a setting outside its range, or a KL that is no number.

    Reference:
        Ziegler et al., "Fine-Tuning Language Models from Human Preferences", arXiv 1909.08593, section 2.2.

    Example:
        β = 1, KL 9 for a target of 6: the error 0.5 counts as 0.2, and β becomes 1.02.
    """
    check_positive("coefficient", coefficient)
    check_positive("target", target)
    check_not_negative("gain", gain)
    check_positive("limit", limit)
    if not gain * limit < 1:
        raise ValueError(f"gain: expected a number < 1 / limit = {1 / limit:g}, got {gain}")
    if math.isnan(kl):
        raise ValueError(f"kl: expected a number, got {kl}")
    return coefficient * (1 + gain * min(max(kl / target - 1, -limit), limit))


def _bounded(estimate: Tensor, mask: Tensor, minimum: float | None, maximum: float | None) -> Tensor:
    if minimum is None and maximum is None:
        return estimate
    return torch.where(mask, estimate.clamp(minimum, maximum), 0)


def _k3(log_ratio: Tensor) -> Tensor:
    u = log_ratio.clamp(min=-LOG_RATIO_BOUND)
    return torch.expm1(-u) + u  # expm1 keeps the digits near u = 0, where k3 is about u² / 2
