"""Consistency of a policy with a value along paths: at the optimum of a KL-regularised return both agree at every step."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.objectives.aggregation import Aggregation, aggregate
from plaudit.objectives.arguments import check_positive, check_share, widened
from plaudit.objectives.catalogue import objective
from plaudit.objectives.values.value import following, path_sum


@objective(
    paper="Nachum et al. 2017, arXiv 1702.08892",
    feedback="any",
    signal="reward",
    data="either",
    reference=True,
)
def pcl(
    value: Float[Tensor, "N T"],
    token_log_ratio: Float[Tensor, "N T"],
    reward: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    bootstrap: Float[Tensor, " N"] | None = None,
    *,
    beta: float,
    discount: float = 1.0,
    steps: int | None = None,
    aggregation: Aggregation = "sequence-mean",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""Path consistency learning: ``L_t = C_t² / 2`` of the soft consistency error over d steps,

    ``C_t = -V(s_t) + γ^d V(s_{t+d}) + Σ_{i<d} γ^i (r_{t+i} - β log-ratio_{t+i})``.

    C is zero on every path, whoever took it, if and only if policy and value are the optimum of the return with a penalty
    of β KL. The gradient flows through the policy and through both values (no target network, as in the paper).

    Args:
        value: ``V(s_t)`` of the state before each step.
        token_log_ratio: ``log π(a_t|s_t) - log π_ref(a_t|s_t)``. Plain log-probabilities give the paper's entropy bonus (a
            uniform reference); Trust-PCL adds both.
        reward: reward of each step; a constant.
        mask: True for the steps of the path; hidden steps are taken out of it.
        bootstrap: value of the state after the last step; None is 0, a path that ended.
        beta: β > 0, the pull to the reference (the paper's τ).
        discount: γ in [0, 1].
        steps: d >= 1, the length of the sub-paths, cut at the end; None goes to the end.
        aggregation: see `plaudit.objectives.aggregation.aggregate`.

    Returns:
        (value, weight) per path.

    Raises:
        ValueError: a setting outside its range.

    Reference:
        Nachum et al., "Bridging the gap between value and policy based reinforcement learning", arXiv
        1702.08892. The paper weighs the value's gradient apart by learning rates; give the critic its own optimiser.

    Example:
        One step, ``V = 1``, log-ratio log 2, reward 2, β = 1: ``(-1 + 2 - log 2)² / 2 = 0.0471``.
    """
    check_positive("beta", beta)
    check_share("discount", discount)
    if steps is not None:
        check_positive("steps", steps)
    value, token_log_ratio, reward = (torch.where(mask, widened(x), 0) for x in (value, token_log_ratio, reward))
    soft_reward = reward.detach() - beta * token_log_ratio
    error = path_sum(soft_reward, value, mask, bootstrap, discount=discount, steps=steps) - value
    return aggregate(0.5 * error.square(), mask, aggregation)


def soft_path_error(value: Tensor, token_log_ratio: Tensor, reward: Tensor, mask: Tensor, beta: float) -> Tensor:
    """``V(s_t) - R_t + β Σ_{i>=t} log-ratio_i``, from the step to the end of the path; the inputs are masked already."""
    soft_reward = reward - beta * token_log_ratio
    return value - path_sum(soft_reward, value, mask, None, discount=1.0, steps=None)


@objective(
    paper="Wang et al. 2024, arXiv 2412.16145",
    feedback="verdict",
    signal="reward",
    data="off-policy",
    reference=True,
)
def oreo_value(
    value: Float[Tensor, "N T"],
    token_log_ratio: Float[Tensor, "N T"],
    reward: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    beta: float,
    aggregation: Aggregation = "sequence-mean",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""OREO's loss of the value: ``L_t = (V(s_t) - R_t + β Σ_{i>=t} log-ratio_i)²``, the policy a constant.

    Args:
        value: ``V(s_t)`` of the state before each step.
        token_log_ratio: ``log π(a_t|s_t) - log π_ref(a_t|s_t)``; a constant here. For step-level OREO give the sums of whole
            reasoning steps, and values at their beginnings.
        reward: reward of each step; ``R_t`` is its sum from t on.
        mask: True for the steps that the policy took.
        beta: β > 0, the pull to the reference; the official scripts use 0.03.
        aggregation: the paper's is the default, a mean over each path.

    Returns:
        (value, weight) per path.

    Raises:
        ValueError: `beta` is not positive.

    Reference:
        Wang et al., "Offline reinforcement learning for LLM multi-step reasoning", arXiv 2412.16145, equation 8, and its
        official code, where the outcome's reward stands for every ``R_t``.

    Example:
        One step, ``V = 1``, log-ratio log 2, reward 2, β = 1: ``(1 - 2 + log 2)² = 0.0942``.
    """
    check_positive("beta", beta)
    value, token_log_ratio, reward = (torch.where(mask, widened(x), 0) for x in (value, token_log_ratio, reward))
    error = soft_path_error(value, token_log_ratio.detach(), reward.detach(), mask, beta)
    return aggregate(error.square(), mask, aggregation)


@objective(
    paper="Wang et al. 2024, arXiv 2412.16145",
    feedback="verdict",
    signal="reward",
    data="off-policy",
    reference=True,
)
def oreo_policy(
    value: Float[Tensor, "N T"],
    token_log_ratio: Float[Tensor, "N T"],
    reward: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    beta: float,
    aggregation: Aggregation = "sequence-mean",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""OREO's loss of the policy: ``L_t = (V(s_t) - R_t + β log-ratio_t + sg[β Σ_{i>t} log-ratio_i])²``.

    The value is `oreo_value`'s, but only the step's own log-ratio gets a gradient, ``2 β (V(s_t) - R_t + β Σ_{i>=t} ...)``, so
    that late steps do not count once for each step before them. Add the paper's ``α KL(π || π_ref)`` per step beside it.

    Args:
        value: ``V(s_t)`` of the state before each step; a constant here.
        token_log_ratio: ``log π(a_t|s_t) - log π_ref(a_t|s_t)``.
        reward: reward of each step.
        mask: True for the steps that the policy took.
        beta: β > 0, the pull to the reference.
        aggregation: the paper's is the default, a mean over each path.

    Returns:
        (value, weight) per path.

    Raises:
        ValueError: `beta` is not positive.

    Reference:
        Wang et al., arXiv 2412.16145, equation 9 without its regulariser; ``dro_loss`` in the official code.

    Example:
        One step, ``V = 1``, log-ratio log 2, reward 2, β = 1: ``(1 - 2 + log 2)² = 0.0942``.
    """
    check_positive("beta", beta)
    value, token_log_ratio, reward = (torch.where(mask, widened(x), 0) for x in (value, token_log_ratio, reward))
    constant = token_log_ratio.detach()
    error = soft_path_error(value.detach(), constant, reward.detach(), mask, beta) + beta * (token_log_ratio - constant)
    return aggregate(error.square(), mask, aggregation)


@objective(
    paper="Wang et al. 2024, arXiv 2412.16145",
    feedback="verdict",
    signal="reward",
    data="off-policy",
    reference=True,
)
def oreo_response_policy(
    value: Float[Tensor, " N"], log_ratio: Float[Tensor, " N"], total_reward: Float[Tensor, " N"], *, beta: float
) -> Float[Tensor, " N"]:
    r"""Response-level OREO: consistency at the first state only, ``L = (V(s_0) - R_0 + β log-ratio)²``.

    Args:
        value: ``V(s_0)`` of the context; a constant here.
        log_ratio: ``log π(y|x) - log π_ref(y|x)``, summed over the steps.
        total_reward: ``R_0``, the reward of the whole output.
        beta: β > 0, the pull to the reference.

    Returns:
        The loss of each output, >= 0. Between two outputs of one context the value cancels, which leads to DPO.

    Raises:
        ValueError: `beta` is not positive.

    Reference:
        Wang et al., arXiv 2412.16145, equation 10 without its regulariser. DRO-V is half of it, and trains
        the value by it too.

    Example:
        ``V = 1``, log-ratio 2, reward 2, β = 1: ``(1 - 2 + 2)² = 1``.
    """
    check_positive("beta", beta)
    return (value.detach() - total_reward.detach() + beta * log_ratio).square()


@objective(
    role="value",
    paper="Wang et al. 2024, arXiv 2412.16145; Nachum et al. 2017, arXiv 1702.08892",
    feedback="any",
    signal="reward",
    data="either",
    reference=True,
)
def soft_bellman_error(
    value: Float[Tensor, "N T"],
    token_log_ratio: Float[Tensor, "N T"],
    reward: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    bootstrap: Float[Tensor, " N"] | None = None,
    *,
    beta: float,
    discount: float = 1.0,
) -> Float[Tensor, "N T"]:
    r"""The soft Bellman equation's error of one step, ``r_t + γ V(s_{t+1}) - V(s_t) - β log-ratio_t``.

    Zero at every step if and only if policy and value are optimal (the paper's theorems 1 and 2); with γ = 1 the errors from t
    on add up to minus OREO's residual at t, so they show where on a path policy and value disagree. Differentiable.

    Args:
        value: ``V(s_t)`` of the state before each step.
        token_log_ratio: ``log π(a_t|s_t) - log π_ref(a_t|s_t)``.
        reward: reward of each step.
        mask: True for the steps of the path.
        bootstrap: value of the state after the last step; None is 0.
        beta: β > 0, the pull to the reference.
        discount: γ in [0, 1].

    Returns:
        The error of each step, 0 where `mask` is False.

    Raises:
        ValueError: a setting outside its range.

    Reference:
        Wang et al., arXiv 2412.16145, equation 3; Nachum et al., arXiv 1702.08892, with entropy for KL.

    Example:
        Values (1, 3), log-ratios (1, 0), rewards (0, 3), β = 2: ``(0 + 3 - 1 - 2, 3 - 3) = (0, 0)``.
    """
    check_positive("beta", beta)
    check_share("discount", discount)
    value, token_log_ratio, reward = (torch.where(mask, widened(x), 0) for x in (value, token_log_ratio, reward))
    error = reward + discount * following(value, mask, bootstrap) - value - beta * token_log_ratio
    return torch.where(mask, error, 0)
