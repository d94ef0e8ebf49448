"""Costs that must stay below a threshold: models of them, and their place beside a reward. J counts constraints."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from plaudit.objectives.arguments import check_group, check_not_negative, check_positive
from plaudit.objectives.catalogue import objective


@objective(
    paper="Dai et al. 2023, arXiv 2310.12773",
    feedback="comparison",
    signal="cost",
    data="off-policy",
    reference=False,
)
def cost_bradley_terry(
    cost_worse: Float[Tensor, " B"],
    cost_better: Float[Tensor, " B"],
    worse_is_harmful: Bool[Tensor, " B"],
    better_is_harmful: Bool[Tensor, " B"],
    *,
    sign_weight: float = 1.0,
) -> Float[Tensor, " B"]:
    r"""Safe-RLHF's cost model: which output does more harm, and whether each does harm at all.

    ``L = -log σ(c_w - c_b) - v log σ(s_w c_w) - v log σ(s_b c_b)`` with s = +1 for a harmful output and -1 for a harmless one.

    The sign terms give the cost a zero: above it is harm. Without them only differences of costs mean anything, and so does
    a threshold only if it is set from data.

    Args:
        cost_worse: ``c_w``, cost of the output that does more harm.
        cost_better: ``c_b``, cost of the other.
        worse_is_harmful: whether the worse one is harmful by itself.
        better_is_harmful: whether the better one is.
        sign_weight: v >= 0; raising it minds the zero more than the order. 1 is Safe-RLHF; 0 is HC-RLHF's
            ``sequence-wise-bt``, which is `bradley_terry` on costs.

    Returns:
        The loss of each pair, >= 0. The codes add `reward_magnitude` with 0.001.

    Raises:
        ValueError: `sign_weight` is negative.

    Reference:
        Dai et al., "Safe RLHF", arXiv 2310.12773, section 3.2; the official trainer's sign is +1 for safe, and it turns it
        round before use. Chittepu et al., "HC-RLHF", arXiv 2506.08266, as in its code.

    Example:
        Costs ``log 3`` (harmful) and 0 (harmless): ``log(4/3) + log(4/3) + log 2``.
    """
    check_not_negative("sign_weight", sign_weight)
    signed_worse = torch.where(worse_is_harmful, cost_worse, -cost_worse)
    signed_better = torch.where(better_is_harmful, cost_better, -cost_better)
    order = -logsigmoid(cost_worse - cost_better)
    return order - sign_weight * (logsigmoid(signed_worse) + logsigmoid(signed_better))


def pessimism_coefficient(
    samples: int, safety_samples: int, *, delta: float, candidate_factor: float, safety_factor: float
) -> float:
    r"""By how many standard deviations HC-RLHF holds the mean cost below its threshold while it trains.

    ``k = c1 t_{1-δ, n-1} / sqrt n + c2 t_{1-δ, m-1} / sqrt m``: room for the error of the training estimate from n costs,
    and for the width of the safety test to come on m.

    Args:
        samples: n >= 2, the costs that the estimate is made from.
        safety_samples: m >= 2, the size of the safety set.
        delta: δ in (0, 1), the chance of releasing a policy that is not safe.
        candidate_factor: c1 >= 0; the sweep of the code has 4. Raising it is more cautious.
        safety_factor: c2 >= 0; the sweep has 2, Seldonian practice too. Raising it is more cautious.

    Returns:
        k, the `pessimism` of `inflated_cost`, `dual_loss` and `dual_step`.

    Raises:
        ValueError: a setting out of range.

    Reference:
        Chittepu et al., "HC-RLHF", arXiv 2506.08266, in its official code: n is the length of the cost buffer for the
        multiplier and the size of the batch for the policy.

    Example:
        n = 32, m = 100, δ = 0.1, c1 = 4, c2 = 2 give 1.18 standard deviations.
    """
    from scipy.stats import t  # type: ignore[import-untyped]  # slow to import

    if not 0 < delta < 1:
        raise ValueError(f"delta: expected a share in (0, 1), got {delta}")
    check_not_negative("candidate_factor", candidate_factor)
    check_not_negative("safety_factor", safety_factor)
    width = 0.0
    for name, count, factor in (
        ("samples", samples, candidate_factor),
        ("safety_samples", safety_samples, safety_factor),
    ):
        if count < 2:
            raise ValueError(f"{name}: expected at least 2, got {count}")
        width += factor * float(t.ppf(1 - delta, count - 1)) / math.sqrt(count)
    return width


@objective(
    role="reward",
    paper="Chittepu et al. 2025, arXiv 2506.08266",
    feedback="any",
    signal="cost",
    data="on-policy",
    reference=False,
)
def inflated_cost(
    cost: Float[Tensor, " N"], buffer_cost: Float[Tensor, " M"], *, pessimism: float, ddof: int = 1
) -> Float[Tensor, " N"]:
    r"""The cost whose policy gradient is that of the mean plus k standard deviations: ``c + k (c^2 - 2 c μ) / (2 s)``.

    ``∇ sd = ( ∇E[c^2] - 2 μ ∇E[c] ) / (2 sd)``, so ``E[ c̃ ∇log π ] = ∇( μ + k sd )`` where μ and s are those of the policy
    itself. Minimising it lowers the spread of the costs with their mean.

    Args:
        cost: c of each output.
        buffer_cost: recent costs that μ and s are taken from, constants. An old buffer makes the gradient biased.
        pessimism: k >= 0 (`pessimism_coefficient`); 0 is the cost itself.
        ddof: 1 divides the squares by M - 1, as the code; 0 by M.

    Returns:
        A cost per output for a policy gradient (`lagrangian_return`), in float32 at least; not a cost to report. The cost
        itself where all of the buffer's costs are the same.

    Raises:
        ValueError: `pessimism` is negative, or the buffer has no more than `ddof` costs.

    Reference:
        Chittepu et al., "HC-RLHF", arXiv 2506.08266; ``rl_step`` of its official code. The tests prove the identity by
        enumeration.

    Example:
        μ = 0, s = 1, k = 2: a cost of 3 becomes ``3 + 2 (9 / 2) = 12``.
    """
    check_not_negative("pessimism", pessimism)
    check_group("buffer_cost", buffer_cost, at_least=ddof + 1)
    dtype = torch.promote_types(cost.dtype, torch.float32)
    cost, buffer = cost.to(dtype), buffer_cost.detach().to(dtype)
    mean, sd = buffer.mean(), buffer.std(correction=ddof)
    inflation = (cost.square() - 2 * cost * mean) / (2 * torch.where(sd > 0, sd, 1))
    return cost + pessimism * torch.where(sd > 0, inflation, 0)


@objective(
    role="reward",
    paper="Dai et al. 2023, arXiv 2310.12773",
    feedback="any",
    signal="cost",
    data="on-policy",
    reference=False,
)
def lagrangian_return(
    reward: Float[Tensor, " N"],
    cost: Float[Tensor, "N J"],
    multiplier: Float[Tensor, " J"],
    *,
    rescale: bool = False,
) -> Float[Tensor, " N"]:
    r"""What a constrained policy is trained on: ``G = R - sum_j λ_j c_j``.

    Args:
        reward: R of each output, with its penalty for leaving the reference where there is one.
        cost: the costs of each output, one column per constraint (`inflated_cost` in HC-RLHF).
        multiplier: ``λ_j >= 0`` of each constraint, a constant here; `dual_step` moves it.
        rescale: divide by ``1 + sum_j λ_j``, as Safe-RLHF does, so that the size of the step does not grow with the
            multipliers. HC-RLHF does not.

    Returns:
        The return of each output, in float32 at least.

    Reference:
        Dai et al., "Safe RLHF", arXiv 2310.12773, section 3.3; Chittepu et al., "HC-RLHF", arXiv 2506.08266, as in its code.

    Example:
        R = 2, c = 1, λ = 0.5: 1.5; rescaled, 1.
    """
    dtype = torch.promote_types(reward.dtype, torch.float32)
    weight = multiplier.detach().to(dtype)
    value = reward - (cost * weight).sum(-1)
    return value / (1 + weight.sum()) if rescale else value


@objective(
    paper="Dai et al. 2023, arXiv 2310.12773",
    feedback="any",
    signal="cost",
    data="on-policy",
    reference=False,
)
def dual_loss(
    log_multiplier: Float[Tensor, " J"], cost: Float[Tensor, "J N"], *, pessimism: float, threshold: float
) -> Float[Tensor, " J"]:
    r"""Loss of a constraint's multiplier: ``L = -λ ( mean(c) + k sd(c) - τ )`` with ``λ = exp(log_multiplier)``.

    The multiplier grows while the (pessimistic) cost is above the threshold and shrinks below it.

    Args:
        log_multiplier: ``log λ`` of each constraint, which is trained.
        cost: recent costs of each constraint, constants.
        pessimism: k >= 0 (`pessimism_coefficient`); 0 is Safe-RLHF's mean cost.
        threshold: τ, the cost that is allowed; raising it allows more.

    Returns:
        The loss of each constraint, in float32 at least.

    Raises:
        ValueError: `pessimism` is negative, or fewer than two costs.

    Reference:
        Dai et al., "Safe RLHF", arXiv 2310.12773, section 3.3; Chittepu et al., "HC-RLHF", arXiv 2506.08266, as in its code
        (standard deviation with n - 1). As λ is the exponential of what is trained, the step is proportional to λ.

    Example:
        Costs (1, 3), k = 0, τ = 1.5 and λ = 2: ``-2 (2 - 1.5) = -1``.
    """
    excess = _excess(cost, pessimism, threshold)
    return -log_multiplier.to(excess.dtype).exp() * excess


@objective(
    role="statistic",
    paper="Dai et al. 2023, arXiv 2310.12773",
    feedback="any",
    signal="cost",
    data="on-policy",
    reference=False,
)
def dual_step(
    log_multiplier: Float[Tensor, " J"],
    cost: Float[Tensor, "J N"],
    *,
    pessimism: float,
    threshold: float,
    learning_rate: float = 0.01,
    cap: float = 1e6,
) -> Float[Tensor, " J"]:
    r"""One step of gradient descent on `dual_loss`: ``log λ <- min( log λ + η λ ( mean(c) + k sd(c) - τ ), log cap )``.

    Args:
        log_multiplier: ``log λ`` of each constraint.
        cost: recent costs of each constraint.
        pessimism: k >= 0; 0 is Safe-RLHF's mean cost.
        threshold: τ, the cost that is allowed.
        learning_rate: η > 0; the codes use 0.01 and start at λ = 1.
        cap: the largest multiplier, > 0. A multiplier that stays there tells that the constraint cannot be met.

    Returns:
        The new ``log λ``, without gradient, in float32 at least.

    Raises:
        ValueError: a setting out of range, or fewer than two costs.

    Reference:
        Chittepu et al., "HC-RLHF", arXiv 2506.08266, as in its code (plain SGD); Dai et al., arXiv 2310.12773.

    Example:
        Costs (1, 3), k = 0, τ = 1.5, λ = 2, η = 0.1: ``log 2 + 0.1 * 2 * 0.5``.
    """
    check_positive("learning_rate", learning_rate)
    check_positive("cap", cap)
    excess = _excess(cost, pessimism, threshold)
    log_multiplier = log_multiplier.detach().to(excess.dtype).clamp(max=math.log(cap))
    return (log_multiplier + learning_rate * log_multiplier.exp() * excess).clamp(max=math.log(cap))


def _excess(cost: Tensor, pessimism: float, threshold: float) -> Tensor:
    check_not_negative("pessimism", pessimism)
    check_group("cost", cost, at_least=2)
    cost = cost.detach().to(torch.promote_types(cost.dtype, torch.float32))
    mean = cost.mean(-1)
    sd = ((cost - mean[:, None]).square().sum(-1) / (cost.shape[-1] - 1)).sqrt()
    return mean + pessimism * sd - threshold
