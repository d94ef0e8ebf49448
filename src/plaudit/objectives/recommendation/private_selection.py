"""Preferences from private votes: clients score a server's outputs, a noisy sum ranks them, and ranks make pairs.

The noise is Gaussian with standard deviation σ per coordinate of a sum in which one client moves at most a unit vector (add or
remove one; replacing one is 2), in T rounds that all clients join: ``μ = √T / σ`` says all about privacy.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plaudit.objectives.arguments import check_positive
from plaudit.objectives.catalogue import objective

POPRI = "Hou et al. 2025, arXiv 2504.16438"
GAUSSIAN = "Balle and Wang 2018, arXiv 1805.06530; Dong et al. 2019, arXiv 1905.02383"


class Pairs(NamedTuple):
    """Positions of a preferred and another output in each group, and whether their scores tell them apart."""

    chosen: Int[Tensor, " B"]
    rejected: Int[Tensor, " B"]
    decided: Bool[Tensor, " B"]


@objective(
    role="weight",
    paper=POPRI,
    feedback="rating",
    signal="preference",
    data="on-policy",
    reference=False,
    modalities=("text",),
)
def private_vote(score: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
    r"""A client's vote: its scores, standardised and cut to length 1: ``z = (s - mean s) / sd(s)``, ``v = z / max(1, |z|)``.

    ``|z| = √N`` always, so the vote is a unit vector: which standard deviation it was (ddof 0 or 1) has no influence, and each
    coordinate carries about ``1/√N``. Below ``σ √N`` clients of one mind the ranking is noise.

    Args:
        score: a client's (row's) scores of the server's N outputs: the sum of their cosines to its texts.

    Returns:
        A vector of length 1 for each client; of length 0 where all scores are equal, as it says nothing.

    Reference:
        Hou et al., "Private Federated Learning using Preference-Optimized Synthetic Data", arXiv 2504.16438; official
        ``client_feedback.py``, which divides by zero at equal scores.

    Example:
        Scores (1, 3): ``(-1, 1) / √2``.
    """
    dtype = torch.promote_types(score.dtype, torch.float32)
    values = score.to(dtype)
    size = values.abs().amax(-1, keepdim=True).detach()
    values = values / torch.where(size > 0, size, 1)  # squares neither overflow nor vanish
    centred = values - values.mean(-1, keepdim=True)
    equal = (values == values[..., :1]).all(-1, keepdim=True)
    centred = torch.where(equal, 1, centred)  # a norm's slope at 0 is NaN
    return torch.where(equal, 0, centred / centred.norm(dim=-1, keepdim=True))


@objective(
    role="statistic",
    paper=POPRI,
    feedback="rating",
    signal="preference",
    data="on-policy",
    reference=False,
    modalities=("text",),
)
def ranked_pairs(score: Float[Tensor, "B K"], *, chosen_rank: int = 0, rejected_rank: int = 4) -> Pairs:
    r"""One pair from each group's ranking: the outputs at two ranks, counted from 0 at the highest score.

    Args:
        score: the (noisy) scores of a context's K outputs; of equal scores the first comes first.
        chosen_rank: rank of the preferred output; 0 is the best.
        rejected_rank: rank of the other; POPri takes 4 of 10 outputs, not the worst. Raising it makes the pair easier.

    Returns:
        `Pairs`; where `decided` is False both have the same score, and the pair says nothing.

    Raises:
        ValueError: the ranks are not ``0 <= chosen_rank < rejected_rank < K``.

    Reference:
        Hou et al., arXiv 2504.16438; official ``client_feedback.py`` with ``reject_rank: 4``, which looks texts up by
        equality and so gives duplicates the first copy's score; positions are sorted here.

    Example:
        Scores (0.1, 0.9, 0.5), ranks 0 and 1: output 1 over output 2.
    """
    outputs = score.shape[-1]
    if not 0 <= chosen_rank < outputs:
        raise ValueError(f"chosen_rank: expected a rank in 0 ... {outputs - 1}, got {chosen_rank}")
    if not chosen_rank < rejected_rank < outputs:
        raise ValueError(f"rejected_rank: expected a rank in {chosen_rank + 1} ... {outputs - 1}, got {rejected_rank}")
    values, order = score.detach().sort(dim=-1, descending=True, stable=True)
    decided = values[:, chosen_rank] > values[:, rejected_rank]
    return Pairs(order[:, chosen_rank], order[:, rejected_rank], decided)


def _gaussian_delta(epsilon: Tensor, mu: Tensor) -> Tensor:
    """δ of a mechanism that is as private as telling N(0, 1) from N(μ, 1), in logarithms where they are small."""
    upper = torch.special.log_ndtr(mu / 2 - epsilon / mu)
    lower = epsilon + torch.special.log_ndtr(-mu / 2 - epsilon / mu)
    delta: Tensor = upper.exp() - lower.exp()
    return delta


@objective(
    role="statistic",
    paper=GAUSSIAN,
    feedback="any",
    signal="none",
    data="either",
    reference=False,
)
def gaussian_privacy_delta(
    epsilon: Float[Tensor, " B"], *, noise_multiplier: float, rounds: int = 1
) -> Float[Tensor, " B"]:
    r"""δ that T rounds of Gaussian noise leave at ε: ``δ = Φ(μ/2 - ε/μ) - e^ε Φ(-μ/2 - ε/μ)`` with ``μ = √T / σ``; exact.

    Args:
        epsilon: ε >= 0.
        noise_multiplier: σ > 0, standard deviation of the noise over the sensitivity; raising it lowers δ.
        rounds: T >= 1, with all clients in each; raising it raises δ.

    Returns:
        δ of each ε, in [0, 1], computed in float64.

    Raises:
        ValueError: σ is not positive or T below 1.

    Reference:
        Balle and Wang, "Improving the Gaussian Mechanism for Differential Privacy", arXiv 1805.06530, theorem 8; composition:
        Dong, Roth and Su, "Gaussian Differential Privacy", arXiv 1905.02383, corollary 3.3.

    Example:
        ε = 0, σ = 1/2, T = 1: ``Φ(1) - Φ(-1) = 0.6827``.
    """
    check_positive("noise_multiplier", noise_multiplier)
    check_positive("rounds", rounds)
    mu = torch.tensor(math.sqrt(rounds) / noise_multiplier, dtype=torch.float64, device=epsilon.device)
    return _gaussian_delta(epsilon.double(), mu).to(torch.promote_types(epsilon.dtype, torch.float32))


@objective(
    role="statistic",
    paper=GAUSSIAN,
    feedback="any",
    signal="none",
    data="either",
    reference=False,
)
def gaussian_privacy_epsilon(
    delta: Float[Tensor, " B"], *, noise_multiplier: float, rounds: int = 1
) -> Float[Tensor, " B"]:
    r"""ε that T rounds of Gaussian noise spend at δ: the inverse of `gaussian_privacy_delta`, by bisection.

    Args:
        delta: δ in (0, 1).
        noise_multiplier: σ > 0; raising it lowers ε.
        rounds: T >= 1; raising it raises ε.

    Returns:
        The least ε >= 0 of each δ, without gradient.

    Raises:
        ValueError: σ is not positive or T below 1.

    Reference:
        As `gaussian_privacy_delta`. POPri's script converts Rényi privacy, which is looser: σ = 19.3, T = 20, δ = 3e-6 spend
        0.919 exactly and 0.997 by that conversion.

    Example:
        σ = 19.3, T = 20, δ = 3e-6: 0.919.
    """
    check_positive("noise_multiplier", noise_multiplier)
    check_positive("rounds", rounds)
    target = delta.detach().double()
    mu = torch.tensor(math.sqrt(rounds) / noise_multiplier, dtype=torch.float64, device=delta.device)
    low = torch.zeros_like(target)
    # Φ(μ/2 - ε/μ) bounds δ from above, and Φ(-x) <= exp(-x²/2)
    high = mu * (mu / 2 + torch.sqrt(-2 * target.log()))
    for _ in range(100):
        middle = (low + high) / 2
        spends = _gaussian_delta(middle, mu) > target
        low, high = torch.where(spends, middle, low), torch.where(spends, high, middle)
    return high.to(torch.promote_types(delta.dtype, torch.float32))


@objective(
    role="statistic",
    paper=GAUSSIAN,
    feedback="any",
    signal="none",
    data="either",
    reference=False,
)
def gaussian_noise_multiplier(
    epsilon: Float[Tensor, " B"], delta: Float[Tensor, " B"], *, rounds: int = 1
) -> Float[Tensor, " B"]:
    r"""Least noise with which T rounds are (ε, δ)-private: the σ at which `gaussian_privacy_delta` is δ, by bisection.

    Args:
        epsilon: ε > 0 to spend in all rounds together.
        delta: δ in (0, 1).
        rounds: T >= 1, as many as will really be run; raising it raises σ by its root.

    Returns:
        σ of each (ε, δ), without gradient.

    Raises:
        ValueError: T is below 1.

    Reference:
        Balle and Wang, arXiv 1805.06530, algorithm 1 (analytic calibration).

    Example:
        ε = 0.919, δ = 3e-6, T = 20: 19.3.
    """
    check_positive("rounds", rounds)
    eps, target = epsilon.detach().double(), delta.detach().double()
    # δ grows with μ, log-scale bisection over any noise that one would add
    low, high = torch.full_like(eps, -40.0), torch.full_like(eps, 40.0)
    for _ in range(100):
        middle = (low + high) / 2
        spends = _gaussian_delta(eps, middle.exp()) > target
        low, high = torch.where(spends, low, middle), torch.where(spends, middle, high)
    return (math.sqrt(rounds) / low.exp()).to(torch.promote_types(epsilon.dtype, torch.float32))


@objective(
    role="statistic",
    paper="Mironov 2017, arXiv 1702.07476; Balle et al. 2019, arXiv 1905.09982",
    feedback="any",
    signal="none",
    data="either",
    reference=False,
)
def renyi_privacy_epsilon(
    delta: Float[Tensor, " B"], *, noise_multiplier: float, rounds: int = 1
) -> Float[Tensor, " B"]:
    r"""ε by way of Rényi privacy: ``min_α [T α / (2σ²) - (log δ + log α) / (α - 1) + log((α - 1) / α)]``, as Opacus has it.

    Args:
        delta: δ in (0, 1).
        noise_multiplier: σ > 0.
        rounds: T >= 1.

    Returns:
        An upper bound on `gaussian_privacy_epsilon` for each δ, at least 0, without gradient.

    Raises:
        ValueError: σ is not positive or T below 1.

    Reference:
        Mironov, "Rényi Differential Privacy", arXiv 1702.07476, proposition 3 and corollary 3; conversion: Balle et al.,
        "Hypothesis Testing Interpretations and Rényi Differential Privacy", arXiv 1905.09982, theorem 21. The orders are 1.1 to
        100.9 in steps of 0.1; POPri's script has 1.1 to 101 with full participation.

    Example:
        σ = 19.3, T = 20, δ = 3e-6: 0.997.
    """
    check_positive("noise_multiplier", noise_multiplier)
    check_positive("rounds", rounds)
    target = delta.detach().double()[..., None]
    order = 1 + 0.1 * torch.arange(1, 1000, dtype=torch.float64, device=delta.device)
    spent = rounds * order / (2 * noise_multiplier**2)
    epsilon = spent - (target.log() + order.log()) / (order - 1) + ((order - 1) / order).log()
    return epsilon.amin(-1).clamp(min=0).to(torch.promote_types(delta.dtype, torch.float32))
