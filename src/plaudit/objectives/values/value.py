"""Values of states: returns of several steps, temporal-difference errors, and the losses of critics."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.objectives.aggregation import Aggregation, aggregate
from plaudit.objectives.arguments import check_not_negative, check_positive, check_share, widened
from plaudit.objectives.catalogue import objective


def following(values: Tensor, mask: Tensor, after: Tensor | None = None) -> Tensor:
    """The value at the next step that counts, [N, T]; `after` [N] (0 if None) where there is none. Holes are stepped over."""
    steps = values.shape[-1]
    end = values.new_zeros(values.shape[0]) if after is None else after.to(values.dtype)
    position = torch.where(mask, torch.arange(steps, device=values.device), steps)
    none = position.new_full((values.shape[0], 1), steps)
    nearest = torch.cat([position, none], -1).flip(-1).cummin(-1).values.flip(-1)[:, 1:]
    return torch.cat([torch.where(mask, values, 0), end[:, None]], -1).gather(-1, nearest)


def path_sum(
    reward: Tensor, value: Tensor, mask: Tensor, after: Tensor | None, *, discount: float, steps: int | None
) -> Tensor:
    """``Σ_{i<n} γ^i r_{t+i} + γ^n V(s_{t+n})`` for each step that counts; n = None goes to the end of the path."""
    reward = torch.where(mask, widened(reward), 0)
    if steps is not None:
        result = widened(value)
        for _ in range(min(steps, value.shape[-1])):
            result = reward + discount * following(result, mask, after)
        return torch.where(mask, result, 0)
    carry = reward.new_zeros(reward.shape[0]) if after is None else widened(after)
    sums = []
    for step in reversed(range(reward.shape[-1])):
        carry = torch.where(mask[:, step], reward[:, step] + discount * carry, carry)
        sums.append(carry)
    return torch.where(mask, torch.stack(sums[::-1], -1), 0) if sums else reward


@objective(
    role="value",
    paper="Sutton and Barto 2018, section 7.1",
    feedback="any",
    signal="reward",
    data="either",
    reference=False,
)
def n_step_return(
    reward: Float[Tensor, "N T"],
    value: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    bootstrap: Float[Tensor, " N"] | None = None,
    *,
    discount: float,
    steps: int | None,
) -> Float[Tensor, "N T"]:
    r"""The return of n steps, ``G_t = Σ_{i<n} γ^i r_{t+i} + γ^n V(s_{t+n})``, cut at the end of the episode.

    A target: no gradient flows through it. Steps that `mask` hides are taken out of the path, and take no discount.

    Args:
        reward: reward ``r_t`` of each step.
        value: ``V(s_t)`` of the state before the step; for Q-learning of several steps,
            ``Q_target(s_t, argmax_a Q(s_t, a))``.
        mask: True for the steps of the episode.
        bootstrap: value of the state after the last step, for an episode that was cut; None is 0, an episode that ended.
        discount: γ in [0, 1]; raising it looks further ahead.
        steps: n >= 1; raising it trades bias of `value` for variance of the rewards. None is the Monte-Carlo return.

    Returns:
        The return from each step on, 0 where `mask` is False.

    Raises:
        ValueError: `discount` or `steps` outside its range.

    Reference:
        Sutton and Barto, "Reinforcement Learning" (2018), equation 7.1; ReviBranch's relatives use n = 3 and γ = 0.99
        (retro_branching, arXiv 2205.14345).

    Example:
        Rewards (1, 1, 1), values (5, 6, 7), γ = 1/2: with n = 1 the returns are ``(1 + 6/2, 1 + 7/2, 1) = (4, 4.5, 1)``;
        with n = 2 ``(1 + 1/2 + 7/4, 1.5, 1)``.
    """
    check_share("discount", discount)
    if steps is not None:
        check_positive("steps", steps)
    after = None if bootstrap is None else bootstrap.detach()
    return path_sum(reward.detach(), value.detach(), mask, after, discount=discount, steps=steps)


@objective(
    role="value",
    paper="Sutton and Barto 2018, section 12.1",
    feedback="any",
    signal="reward",
    data="on-policy",
    reference=False,
)
def lambda_return(
    reward: Float[Tensor, "N T"],
    value: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    bootstrap: Float[Tensor, " N"] | None = None,
    *,
    discount: float,
    trace: float,
) -> Float[Tensor, "N T"]:
    r"""The λ-return ``G_t = r_t + γ ((1 - λ) V(s_{t+1}) + λ G_{t+1})``, a geometric mean over the returns of n steps.

    A target: no gradient flows through it. It is ``GAE + V``, so a critic that is fitted to it fits PPO's value target.

    Args:
        reward: reward of each step.
        value: ``V(s_t)`` of the state before each step.
        mask: True for the steps of the episode; hidden steps are taken out of the path.
        bootstrap: value of the state after the last step; None is 0.
        discount: γ in [0, 1].
        trace: λ in [0, 1]; 0 is the target of one step, 1 the Monte-Carlo return.

    Returns:
        The return from each step on, 0 where `mask` is False.

    Raises:
        ValueError: `discount` or `trace` is no share.

    Reference:
        Sutton and Barto, "Reinforcement Learning" (2018), equations 12.2 and 12.18; Schulman et al., arXiv 1506.02438.

    Example:
        Rewards (0, 1), values (2, 4), γ = 1, λ = 1/2: ``G_1 = 1`` and ``G_0 = 4/2 + 1/2 = 2.5``.
    """
    check_share("discount", discount)
    check_share("trace", trace)
    reward, value = torch.where(mask, widened(reward.detach()), 0), widened(value.detach())
    after = reward.new_zeros(reward.shape[0]) if bootstrap is None else widened(bootstrap.detach())
    next_value = following(value, mask, after)
    carry, returns = after, []
    for step in reversed(range(reward.shape[-1])):
        here = reward[:, step] + discount * ((1 - trace) * next_value[:, step] + trace * carry)
        carry = torch.where(mask[:, step], here, carry)
        returns.append(carry)
    return torch.where(mask, torch.stack(returns[::-1], -1), 0) if returns else reward


@objective(
    role="advantage",
    paper="Sutton 1988; Mnih et al. 2016, arXiv 1602.01783",
    feedback="any",
    signal="reward",
    data="on-policy",
    reference=False,
)
def td_error(
    reward: Float[Tensor, "N T"],
    value: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    bootstrap: Float[Tensor, " N"] | None = None,
    *,
    discount: float,
) -> Float[Tensor, "N T"]:
    r"""The temporal-difference error ``δ_t = r_t + γ V(s_{t+1}) - V(s_t)``: the actor-critic's advantage of one step.

    A constant for the policy's loss: no gradient flows through it. The critic's own loss is `a2c_value`.

    Args:
        reward: reward of each step.
        value: ``V(s_t)`` of the state before each step.
        mask: True for the steps of the episode; hidden steps are taken out of the path.
        bootstrap: value of the state after the last step; None is 0.
        discount: γ in [0, 1].

    Returns:
        The error of each step, 0 where `mask` is False.

    Raises:
        ValueError: `discount` is no share.

    Reference:
        Sutton, "Learning to predict by the methods of temporal differences", Machine Learning 3 (1988). It is GAE at λ = 0.

    Example:
        Rewards (0, 1), values (2, 4), γ = 1/2: ``(4/2 - 2, 1 - 4) = (0, -3)``.
    """
    target = n_step_return(reward, value, mask, bootstrap, discount=discount, steps=1)
    return torch.where(mask, target - torch.where(mask, value.detach(), 0), 0)


@objective(
    paper="Mnih et al. 2016, arXiv 1602.01783",
    feedback="any",
    signal="return",
    data="on-policy",
    reference=False,
)
def a2c_value(
    value: Float[Tensor, "N T"],
    returns: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    factor: float = 0.5,
    aggregation: Aggregation = "token-mean",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""The critic's regression to returns, ``L = c (V(s_t) - G_t)²``.

    Args:
        value: ``V(s_t)`` under the critic.
        returns: ``G_t``: `n_step_return` (A2C), `lambda_return` (PPO); a constant.
        mask: True for the steps that count.
        factor: c >= 0; A3C's paper weighs the critic by 1/2, Stable-Baselines3's A2C uses 1 and ``vf_coef=0.5``.
        aggregation: see `plaudit.objectives.aggregation.aggregate`.

    Returns:
        (value, weight) per sequence.

    Raises:
        ValueError: `factor` is negative.

    Reference:
        Mnih et al., "Asynchronous methods for deep reinforcement learning", arXiv 1602.01783, algorithm S3.

    Example:
        Values (1, 2) against returns (3, 2) lose ``(2 + 0) / 2 = 1`` a step.
    """
    check_not_negative("factor", factor)
    error = torch.where(mask, value, 0) - torch.where(mask, returns.detach(), 0)
    return aggregate(factor * error.square(), mask, aggregation)


@objective(
    paper="Schulman et al. 2017, arXiv 1707.06347",
    feedback="any",
    signal="return",
    data="on-policy",
    reference=False,
)
def ppo_value(
    value: Float[Tensor, "N T"],
    old_value: Float[Tensor, "N T"],
    returns: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    clip: float,
    factor: float = 0.5,
    aggregation: Aggregation = "token-mean",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""PPO's clipped value loss, ``L = c max((V - G)², (clip(V, V_old - ε, V_old + ε) - G)²)``.

    The critic gains nothing by moving further than ε from its old value towards the return; what moves away is punished in
    full.

    Args:
        value: ``V(s_t)`` under the critic.
        old_value: the critic's value when the batch was collected; a constant.
        returns: ``G_t``, mostly GAE plus the old value; a constant.
        mask: True for the steps that count.
        clip: ε > 0 in reward units; raising it allows larger moves, and far above the rewards' scale it is `a2c_value`.
        factor: c >= 0.
        aggregation: see `plaudit.objectives.aggregation.aggregate`.

    Returns:
        (value, weight) per sequence.

    Raises:
        ValueError: `clip` is not positive, or `factor` is negative.

    Reference:
        Not in the paper; OpenAI's baselines ``ppo2`` and InstructGPT-style code: verl and OpenRLHF have the factor 1/2 and
        token-mean; AlpacaFarm the same.

    Example:
        Value 2, old value 0, return 3, ε = 1/2: ``max(1, 2.5²) / 2 = 3.125``, and no gradient.
    """
    check_positive("clip", clip)
    check_not_negative("factor", factor)
    value = torch.where(mask, value, 0)
    old_value, returns = (torch.where(mask, constant.detach(), 0) for constant in (old_value, returns))
    near = old_value + (value - old_value).clamp(-clip, clip)
    loss = torch.maximum((value - returns).square(), (near - returns).square())
    return aggregate(factor * loss, mask, aggregation)
