"""DPO under other divergences than the reverse KL: one link function per divergence, and the pair loss that takes a link.

The reward that a policy implies is ``β f'(π / π_ref)`` plus a constant of the context, where the pull to the reference is
measured by the f-divergence ``E_ref f(π / π_ref)``. A link is ``f'`` as a function of the log-ratio.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from plaudit.objectives.arguments import check_positive
from plaudit.objectives.catalogue import objective
from plaudit.objectives.preferences.pairwise import dpo

LARGEST_EXPONENT = 80.0  # e^80 times a few hundred is still a float32


def box_cox(log_value: Float[Tensor, "*S"], *, power: float) -> Float[Tensor, "*S"]:
    """``(x^p - 1) / p`` of ``x = e^log_value``, and ``log x`` for ``p = 0``, in float32 at least.

    The exponent is cut at 80, as in TRL: beyond, the value stands still and has no gradient.
    """
    log_value = log_value.to(torch.promote_types(log_value.dtype, torch.float32))
    if power == 0:
        return log_value
    return torch.expm1((power * log_value).clamp(max=LARGEST_EXPONENT)) / power


@objective(
    role="divergence",
    paper="Wang et al. 2023, arXiv 2309.16240",
    feedback="any",
    signal="none",
    data="either",
    reference=True,
)
def forward_kl_link(log_ratio: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    r"""Link of the forward KL, ``KL(π_ref || π)``: ``f'(t) = 1 - 1/t``, so ``1 - e^{-u}`` of the log-ratio u.

    It punishes an output that the policy has nearly given up far more than one that it has taken up: mass is covered.

    Args:
        log_ratio: u, summed over the steps. Below -80 the value stands still, without a gradient (see `box_cox`).

    Returns:
        The link of each output, below 1; 0 where the policy is the reference.

    Reference:
        Wang et al., "Beyond reverse KL: generalizing direct preference optimization with diverse divergence constraints",
        arXiv 2309.16240, table 1. TRL's ``f_divergence_type="forward_kl"``, which does not cut the exponent.

    Example:
        ``u = log 2`` gives 0.5, ``u = -log 2`` gives -1.
    """
    return box_cox(log_ratio, power=-1)


@objective(
    role="divergence",
    paper="Wang et al. 2023, arXiv 2309.16240",
    feedback="any",
    signal="none",
    data="either",
    reference=True,
)
def jensen_shannon_link(log_ratio: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    r"""Link of the Jensen-Shannon divergence: ``f'(t) = log(2t / (1 + t))``, so ``log 2 + log σ(u)`` of the log-ratio u.

    Like the reverse KL for outputs that the policy has given up, flat for those that it has taken up.

    Args:
        log_ratio: u, summed over the steps.

    Returns:
        The link of each output, below ``log 2``; 0 where the policy is the reference.

    Reference:
        Wang et al., "Beyond reverse KL", arXiv 2309.16240, table 1. TRL's ``f_divergence_type="js_divergence"``.

    Example:
        ``u = log 3`` gives ``log(2 * 3 / 4) = log 1.5``.
    """
    return math.log(2) + logsigmoid(log_ratio)


@objective(
    role="divergence",
    paper="Wang et al. 2023, arXiv 2309.16240",
    feedback="any",
    signal="none",
    data="either",
    reference=True,
)
def alpha_link(log_ratio: Float[Tensor, " N"], *, alpha: float) -> Float[Tensor, " N"]:
    r"""Link of the α-divergence: ``f'(t) = (1 - t^{-α}) / α``, so ``(1 - e^{-α u}) / α`` of the log-ratio u.

    Args:
        log_ratio: u, summed over the steps. Where ``-α u`` is above 80 the value stands still, without a gradient.
        alpha: α > 0; towards 0 it is the reverse KL (the link is u), at 1 the forward KL. The paper has 0 < α < 1.

    Returns:
        The link of each output, below ``1 / α``; 0 where the policy is the reference.

    Raises:
        ValueError: alpha is not positive; such a link is finite at t = 0, and f-DPO does not hold for it.

    Reference:
        Wang et al., "Beyond reverse KL", arXiv 2309.16240, table 1. TRL's ``f_divergence_type="alpha_divergence"`` writes
        ``(t^{a - 1} - 1) / (a - 1)``: its coefficient is ``a = 1 - α``.

    Example:
        ``u = log 4`` and α = 0.5 give ``(1 - 1/2) / 0.5 = 1``.
    """
    check_positive("alpha", alpha)
    return box_cox(log_ratio, power=-alpha)


@objective(
    role="divergence",
    paper="Huang et al. 2024, arXiv 2407.13399",
    feedback="any",
    signal="none",
    data="either",
    reference=True,
)
def chi_squared_link(log_ratio: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    r"""Link of the χ² divergence and the reverse KL together: ``f'(t) = t + log t``, so ``e^u + u`` of the log-ratio u.

    Args:
        log_ratio: u, summed over the steps. The exponent is cut at 80: beyond, the link grows as u alone.

    Returns:
        The link of each output; 1 where the policy is the reference.

    Reference:
        Huang et al., "Correcting the mythos of KL-regularization: direct alignment without overoptimization via chi-squared
        preference optimization", arXiv 2407.13399, algorithm 1. The χ² term makes it costly to raise an output far above
        the reference; the KL term is what keeps f' unbounded at t = 0. Not in TRL.

    Example:
        ``u = log 2`` gives ``2 + log 2 = 2.6931``.
    """
    u = log_ratio.to(torch.promote_types(log_ratio.dtype, torch.float32))
    return u.clamp(max=LARGEST_EXPONENT).exp() + u


@objective(
    paper="Wang et al. 2023, arXiv 2309.16240",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=True,
)
def f_dpo(
    log_ratio_chosen: Float[Tensor, " B"],
    log_ratio_rejected: Float[Tensor, " B"],
    *,
    beta: float,
    link: Callable[[Tensor], Tensor],
) -> Float[Tensor, " B"]:
    r"""DPO under an f-divergence: ``L = -log σ(β f'(π_w / ref_w) - β f'(π_l / ref_l))``.

    Args:
        log_ratio_chosen: log-ratio of the preferred output, summed over its steps.
        log_ratio_rejected: the same of the other output.
        beta: > 0, strength of the pull to the reference.
        link: ``f'`` as a function of log-ratios: `forward_kl_link`, `jensen_shannon_link`, `chi_squared_link`, or
            ``partial(alpha_link, alpha=0.5)``. The identity is the reverse KL's, and gives `dpo`.

    Returns:
        The loss of each pair, >= 0; ``log 2`` where the policy is the reference.

    Raises:
        ValueError: beta is not positive.

    Reference:
        Wang et al., "Beyond reverse KL", arXiv 2309.16240. TRL's
        ``f_divergence_type``; its losses other than the logistic one take the same links in place of the log-ratios.

    Example:
        With `forward_kl_link`, log-ratios ``log 2`` and ``-log 2`` at β = 1: ``-log σ(0.5 + 1) = 0.2014``.
    """
    return dpo(link(log_ratio_chosen), link(log_ratio_rejected), beta=beta)


@objective(
    paper="Huang et al. 2024, arXiv 2407.13399",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=True,
)
def chi_po(
    log_ratio_chosen: Float[Tensor, " B"],
    log_ratio_rejected: Float[Tensor, " B"],
    *,
    beta: float,
    largest_reward: float,
) -> Float[Tensor, " B"]:
    r"""χ² preference optimisation: `f_dpo` with `chi_squared_link`, its difference cut to what rewards can differ by.

    ``L = -log σ(clip(β φ_w - β φ_l, -2R, 2R))`` with ``φ = e^u + u``.

    Args:
        log_ratio_chosen: log-ratio u of the preferred output, summed over its steps.
        log_ratio_rejected: the same of the other output.
        beta: > 0, strength of the pull to the reference.
        largest_reward: R > 0, the largest reward there is; a pair beyond 2R has no gradient.

    Returns:
        The loss of each pair, between ``-log σ(2R)`` and ``-log σ(-2R)``.

    Raises:
        ValueError: beta or largest_reward is not positive.

    Reference:
        Huang et al., "Correcting the mythos of KL-regularization", arXiv 2407.13399, algorithm 1. Not in TRL.

    Example:
        Log-ratios ``log 2`` and 0 at β = 1 and a large R: ``-log σ(2 + log 2 - 1) = 0.1689``.
    """
    check_positive("beta", beta)
    check_positive("largest_reward", largest_reward)
    difference = beta * (chi_squared_link(log_ratio_chosen) - chi_squared_link(log_ratio_rejected))
    return -logsigmoid(difference.clamp(-2 * largest_reward, 2 * largest_reward))
