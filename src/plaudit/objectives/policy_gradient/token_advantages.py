"""Advantages of single steps, from rewards [N, T]: reward-to-go, generalised advantage estimation, whitening.

What `mask` hides is deleted: the step before a hole looks at the step after it, be it a tool's answer or padding.
An advantage is a constant: no gradient flows through it. Masked steps get 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from plaudit.objectives.arguments import check_positive, check_share, masked_mean
from plaudit.objectives.catalogue import objective


class AdvantageAndReturn(NamedTuple):
    """Advantages, and the returns ``A_t + V_t`` that a value function is fitted to."""

    advantage: Float[Tensor, "N T"]
    value_target: Float[Tensor, "N T"]


@objective(
    role="advantage",
    paper="Schulman et al. 2016, arXiv 1506.02438",
    feedback="any",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("text", "control"),
)
def gae(
    token_reward: Float[Tensor, "N T"],
    value: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    discount: float,
    trace: float,
    value_after: Float[Tensor, " N"] | None = None,
) -> AdvantageAndReturn:
    r"""Generalised advantage estimation: ``A_t = Σ_l (γλ)^l δ_{t+l}`` with ``δ_t = r_t + γ V_{t+1} - V_t``.

    Args:
        token_reward: reward ``r_t`` of each step.
        value: the value function's estimate ``V_t`` before each step.
        mask: True for the steps that count.
        discount: γ in [0, 1]; lowering it makes far rewards count less. 1 for language models.
        trace: λ in [0, 1]: at 0 the one-step error, of low variance and biased by the value function; at 1 the return minus
            the value, unbiased. PPO for language models has 0.95 (Stiennon et al.) or 1 (AlpacaFarm).
        value_after: estimate of what follows the last step, for outputs that were cut off; None is 0, the end.

    Returns:
        (advantage, value_target), both 0 where masked.

    Raises:
        ValueError: discount or trace outside [0, 1].

    Reference:
        Schulman et al., "High-Dimensional Continuous Control Using GAE", arXiv 1506.02438, equation 16. verl's
        ``compute_gae_advantage_return`` also skips masked steps, and whitens the result (`whiten`); TRL's PPO does not
        expect holes.

    Example:
        Rewards (0, 1), values (0.5, 0.25), γ = 1: ``δ = (-0.25, 0.75)``; λ = 0.5 gives advantages (0.125, 0.75).
    """
    check_share("discount", discount)
    check_share("trace", trace)
    dtype = torch.promote_types(value.dtype, torch.float32)
    present = torch.where(mask, value.detach(), 0).to(dtype)
    reward = torch.where(mask, token_reward.detach(), 0).to(dtype)
    last = present.new_zeros(len(present)) if value_after is None else value_after.detach().to(dtype)
    following = torch.cat([present, last[:, None]], -1).gather(-1, _next_step(mask))
    error = torch.where(mask, reward + discount * following - present, 0)
    advantage = torch.where(mask, _discounted_sum(error, mask, discount * trace), 0)
    return AdvantageAndReturn(advantage, advantage + present)


@objective(
    role="advantage",
    paper="Sutton et al. 1999",
    feedback="any",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("text", "control"),
)
def reward_to_go(
    token_reward: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"], *, discount: float = 1.0
) -> Float[Tensor, "N T"]:
    r"""Discounted sum of the rewards from each step on: ``G_t = r_t + γ G_{t+1}``.

    A step is not credited with what came before it, which lowers the variance and leaves the gradient's mean as it is.

    Args:
        token_reward: reward ``r_t`` of each step.
        mask: True for the steps that count.
        discount: γ in [0, 1]; lowering it makes far rewards count less.

    Returns:
        The reward-to-go, 0 where masked.

    Raises:
        ValueError: discount outside [0, 1].

    Reference:
        Sutton et al., "Policy Gradient Methods for RL with Function Approximation" (1999). verl sets the sum back to 0 at a
        hole in the mask, so that a tool's answer cuts the credit; ours carries it across.

    Example:
        Rewards (1, 0, 4) with γ = 0.5: (2, 2, 4).
    """
    check_share("discount", discount)
    reward = torch.where(mask, token_reward.detach(), 0).to(torch.promote_types(token_reward.dtype, torch.float32))
    return torch.where(mask, _discounted_sum(reward, mask, discount), 0)


@objective(
    role="advantage",
    paper="Ziegler et al. 2019, arXiv 1909.08593",
    feedback="any",
    signal="reward",
    data="on-policy",
    reference=False,
)
def whiten(
    values: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    shift_mean: bool = True,
    ddof: int = 1,
    epsilon: float = 1e-8,
) -> Float[Tensor, "N T"]:
    r"""Standardise over all steps of the batch: ``(x - x̄) / √(s² + ε)``, plus x̄ again where the mean shall stay.

    Args:
        values: advantages or rewards per step; pass the whole batch, not a micro-batch.
        mask: True for the steps that count.
        shift_mean: False keeps the mean; so are rewards whitened before PPO, for a shift would change what an end is worth.
        ddof: 1 divides the sum of squares by one less than the number of steps, 0 by their number.
        epsilon: ε > 0 added to the variance.

    Returns:
        The whitened values, 0 where masked; a single step becomes 0.

    Raises:
        ValueError: a ddof other than 0 and 1, or an epsilon that is not positive.

    Reference:
        Ziegler et al., "Fine-Tuning Language Models from Human Preferences", arXiv 1909.08593 (code); listed in "The N+
        Implementation Details", arXiv 2403.17031. AlpacaFarm and verl have ddof 1 and 1e-8 (AlpacaFarm without a mask).

    Example:
        Values (1, 2, 3): mean 2, ``s² = 1``, whitened (-1, 0, 1); with the mean kept (1, 2, 3).
    """
    check_positive("epsilon", epsilon)
    if ddof not in (0, 1):
        raise ValueError(f"ddof: expected 0 or 1, got {ddof}")
    present = torch.where(mask, values.detach(), 0).to(torch.promote_types(values.dtype, torch.float32))
    mean = masked_mean(present, mask, dim=(0, 1))
    from_mean = torch.where(mask, present - mean, 0)
    variance = from_mean.square().sum() / (mask.sum() - ddof).clamp(min=1)
    whitened = from_mean * torch.rsqrt(variance + epsilon)
    return whitened if shift_mean else torch.where(mask, whitened + mean, 0)


@objective(
    role="advantage",
    paper="Li et al. 2023, arXiv 2310.10505",
    feedback="any",
    signal="reward",
    data="on-policy",
    reference=False,
)
def remax_advantage(
    token_reward: Float[Tensor, "N T"], greedy_reward: Float[Tensor, " N"], mask: Bool[Tensor, "N T"]
) -> Float[Tensor, "N T"]:
    r"""ReMax: reward-to-go minus the reward of the greedy output for the same context: ``A_t = Σ_{k≥t} r_k - R(x, ŷ)``.

    The greedy output does not depend on the sampled one, so that the gradient stays unbiased.

    Args:
        token_reward: reward of each step; a reward for the whole output stands at its last step.
        greedy_reward: reward ``R(x, ŷ)`` of the output that takes the likeliest step each time.
        mask: True for the steps that count.

    Returns:
        The advantages, 0 where masked.

    Reference:
        Li et al., "ReMax", arXiv 2310.10505, algorithm 1; verl's ``remax`` is the same.

    Example:
        Rewards (0, 0, 3) and a greedy reward of 1: (2, 2, 2).
    """
    reward = torch.where(mask, token_reward.detach(), 0).to(torch.promote_types(token_reward.dtype, torch.float32))
    return torch.where(mask, _discounted_sum(reward, mask, 1.0) - greedy_reward.detach()[:, None], 0)


@objective(
    role="advantage",
    paper="Hu et al. 2025, arXiv 2501.03262",
    feedback="any",
    signal="reward",
    data="on-policy",
    reference=False,
)
def reinforce_plus_plus_advantage(
    token_reward: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    discount: float = 1.0,
    ddof: int = 1,
    epsilon: float = 1e-8,
) -> Float[Tensor, "N T"]:
    r"""REINFORCE++: discounted reward-to-go, whitened over all steps of the batch.

    Args:
        token_reward: reward of each step, the pull to the reference inside it (`kl_shaped_rewards`); pass the whole batch.
        mask: True for the steps that count.
        discount: γ in [0, 1], as in `reward_to_go`.
        ddof: as in `whiten`.
        epsilon: as in `whiten`.

    Returns:
        The advantages, 0 where masked.

    Raises:
        ValueError: discount outside [0, 1], a ddof other than 0 and 1, or an epsilon that is not positive.

    Reference:
        Hu et al., "REINFORCE++", arXiv 2501.03262 v9, section 3; the form of the whitening is verl's. OpenRLHF has ddof 0.

    Example:
        Two outputs of one token with rewards 1 and 3: mean 2, ``s² = 2``, advantages ∓1/√2.
    """
    returns = reward_to_go(token_reward, mask, discount=discount)
    return whiten(returns, mask, ddof=ddof, epsilon=epsilon)


def _next_step(mask: Tensor) -> Tensor:
    """For each step the position of the next one that counts, T where there is none."""
    steps = torch.arange(mask.shape[-1], device=mask.device).expand_as(mask)
    nearest = torch.where(mask, steps, mask.shape[-1]).flip(-1).cummin(-1).values.flip(-1)
    return pad(nearest[:, 1:], (0, 1), value=mask.shape[-1])[:, : mask.shape[-1]]


def _discounted_sum(values: Tensor, mask: Tensor, discount: float) -> Tensor:
    """``S_t = x_t + discount S_{t+1}`` over the steps that count; log2(T) rounds, each of which doubles the span summed."""
    total, factor, span = values, torch.where(mask, values.new_tensor(discount), 1), 1
    while span < values.shape[-1]:
        total = total + factor * pad(total[:, span:], (0, span))
        factor = factor * pad(factor[:, span:], (0, span))
        span *= 2
    return total
