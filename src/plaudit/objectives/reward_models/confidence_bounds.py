"""Upper confidence bounds on a mean cost: what a safety test releases a policy by. J counts sets of costs, N their size.

For an independent set of costs each bound is below the true mean with probability δ at most: exactly so for Hoeffding,
empirical Bernstein and Clopper-Pearson, and only for normal costs, or as the set grows, for Student's t. Choosing among
several policies with one set voids that; divide δ by their number, and likewise by the number of constraints.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.objectives.arguments import check_group
from plaudit.objectives.catalogue import objective


@objective(
    role="statistic",
    paper="Chittepu et al. 2025, arXiv 2506.08266",
    feedback="any",
    signal="cost",
    data="on-policy",
    reference=False,
)
def student_t_upper_bound(cost: Float[Tensor, "J N"], *, delta: float) -> Float[Tensor, " J"]:
    r"""Student's bound: ``U = mean + t_{1-δ, N-1} sd / sqrt N``.

    Args:
        cost: independent costs of outputs that were sampled for this test.
        delta: δ in (0, 1), the chance that the bound is too low; lowering it raises the bound.

    Returns:
        The bound of each set, without gradient, in float32 at least. For skewed costs it is too low more often than δ: rare
        harm in small sets above all.

    Raises:
        ValueError: `delta` out of range, or fewer than two costs.

    Reference:
        The safety test of Chittepu et al., "HC-RLHF", arXiv 2506.08266 (standard deviation with N - 1), after Thomas et al.,
        Science 366 (2019).

    Example:
        Costs (0, 2) at δ = 0.25, where ``t = 1``: ``1 + sqrt 2 / sqrt 2 = 2``.
    """
    from scipy.stats import t  # type: ignore[import-untyped]  # slow to import

    _check_delta(delta)
    check_group("cost", cost, at_least=2)
    mean, variance = _mean_and_variance(cost)
    count = cost.shape[-1]
    return mean + float(t.ppf(1 - delta, count - 1)) * (variance / count).sqrt()


@objective(
    role="statistic",
    paper="Hoeffding 1963",
    feedback="any",
    signal="cost",
    data="on-policy",
    reference=False,
)
def hoeffding_upper_bound(
    cost: Float[Tensor, "J N"], *, delta: float, lowest: float, highest: float
) -> Float[Tensor, " J"]:
    r"""Hoeffding's bound for costs in [a, b]: ``U = mean + (b - a) sqrt( log(1/δ) / (2 N) )``.

    Args:
        cost: independent costs of outputs that were sampled for this test.
        delta: δ in (0, 1), the chance that the bound is too low; lowering it raises the bound.
        lowest: a, the least cost there can be.
        highest: b, the largest cost there can be.

    Returns:
        The bound of each set, without gradient, in float32 at least; it may be above b.

    Raises:
        ValueError: `delta` out of range, a cost outside [a, b], a >= b, or no costs.

    Reference:
        Hoeffding, "Probability inequalities for sums of bounded random variables", JASA 58 (1963), theorem 2; the other safety
        test of Thomas et al., Science 366 (2019).

    Example:
        100 costs in [0, 2] with mean 0.5 at δ = 0.1: ``0.5 + 2 sqrt( log 10 / 200 ) = 0.715``.
    """
    _check_delta(delta)
    check_group("cost", cost, at_least=1)
    width = _check_range(cost, lowest, highest)
    mean = cost.detach().mean(-1, dtype=torch.promote_types(cost.dtype, torch.float32))
    return mean + width * math.sqrt(math.log(1 / delta) / (2 * cost.shape[-1]))


@objective(
    role="statistic",
    paper="Maurer and Pontil 2009, arXiv 0907.3740",
    feedback="any",
    signal="cost",
    data="on-policy",
    reference=False,
)
def empirical_bernstein_upper_bound(
    cost: Float[Tensor, "J N"], *, delta: float, lowest: float, highest: float
) -> Float[Tensor, " J"]:
    r"""Bernstein's bound with the costs' own variance, for costs in [a, b].

    ``U = mean + sqrt( 2 V log(2/δ) / N ) + 7 (b - a) log(2/δ) / ( 3 (N - 1) )``: below Hoeffding's where costs vary little and
    sets are large.

    Args:
        cost: independent costs of outputs that were sampled for this test.
        delta: δ in (0, 1), the chance that the bound is too low; lowering it raises the bound.
        lowest: a, the least cost there can be.
        highest: b, the largest cost there can be.

    Returns:
        The bound of each set, without gradient, in float32 at least; it may be above b.

    Raises:
        ValueError: `delta` out of range, a cost outside [a, b], a >= b, or fewer than two costs.

    Reference:
        Maurer and Pontil, "Empirical Bernstein bounds and sample-variance penalization", arXiv 0907.3740, theorem 4, with the
        variance V of N - 1.

    Example:
        101 equal costs in [0, 1] at ``δ = 2/e``: ``mean + 7 / 300``.
    """
    _check_delta(delta)
    check_group("cost", cost, at_least=2)
    width = _check_range(cost, lowest, highest)
    mean, variance = _mean_and_variance(cost)
    log_term, count = math.log(2 / delta), cost.shape[-1]
    return mean + (2 * variance * log_term / count).sqrt() + 7 * width * log_term / (3 * (count - 1))


@objective(
    role="statistic",
    paper="Clopper and Pearson 1934",
    feedback="verdict",
    signal="cost",
    data="on-policy",
    reference=False,
)
def clopper_pearson_upper_bound(harmful: Bool[Tensor, "J N"], *, delta: float) -> Float[Tensor, " J"]:
    r"""Clopper and Pearson's bound on a share of harmful outputs: the ``1 - δ`` quantile of ``Beta(k + 1, N - k)``.

    It is the largest share under which k harmful ones or fewer among N would still have probability δ; no other bound here is
    as tight for yes and no.

    Args:
        harmful: whether each of N independent outputs did harm.
        delta: δ in (0, 1), the chance that the bound is too low; lowering it raises the bound.

    Returns:
        The bound of each set, float32; 1 where all are harmful, and above 0 even where none is: about ``3 / N`` at δ = 0.05.

    Raises:
        ValueError: `delta` out of range, or no outputs.

    Reference:
        Clopper and Pearson, Biometrika 26 (1934), one-sided; scipy's ``binomtest(...).proportion_ci(method="exact")``.

    Example:
        None harmful among N: ``1 - δ^(1/N)``; for N = 2 at δ = 0.25, 0.5.
    """
    from scipy.special import betaincinv  # type: ignore[import-untyped]  # slow to import

    _check_delta(delta)
    check_group("harmful", harmful, at_least=1)
    count = harmful.shape[-1]
    bounds = [1.0 if k == count else float(betaincinv(k + 1, count - k, 1 - delta)) for k in harmful.sum(-1).tolist()]
    return torch.tensor(bounds, dtype=torch.float32, device=harmful.device)


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"delta: expected a share in (0, 1), got {delta}")


def _check_range(cost: Tensor, lowest: float, highest: float) -> float:
    if not lowest < highest:
        raise ValueError(f"lowest: expected a number below highest = {highest}, got {lowest}")
    if ((cost < lowest) | (cost > highest) | cost.isnan()).any():
        raise ValueError(f"cost: expected values in [{lowest}, {highest}], without which there is no guarantee")
    return highest - lowest


def _mean_and_variance(cost: Tensor) -> tuple[Tensor, Tensor]:
    cost = cost.detach().to(torch.promote_types(cost.dtype, torch.float32))
    mean = cost.mean(-1)
    return mean, (cost - mean[:, None]).square().sum(-1) / (cost.shape[-1] - 1)
