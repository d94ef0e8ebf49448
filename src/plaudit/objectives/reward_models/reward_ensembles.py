"""One reward out of the rewards of several models, which know less the more they differ. M counts the models."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from plaudit.objectives.arguments import check_group, check_not_negative
from plaudit.objectives.catalogue import objective


@objective(
    role="reward",
    paper="Coste et al. 2023, arXiv 2310.02743",
    feedback="any",
    signal="reward",
    data="either",
    reference=False,
)
def ensemble_mean(reward: Float[Tensor, "N M"]) -> Float[Tensor, " N"]:
    r"""The mean of the models' rewards.

    Args:
        reward: the reward of each output by each model, on one scale (standardise them first where they are not).

    Returns:
        A reward per output, in float32 at least.

    Raises:
        ValueError: no models.

    Reference:
        Coste et al., "Reward model ensembles help mitigate overoptimization", arXiv 2310.02743, section 3.2 (mean).

    Example:
        Rewards (1, 2, 6) give 3.
    """
    check_group("reward", reward, at_least=1)
    return reward.mean(-1, dtype=torch.promote_types(reward.dtype, torch.float32))


@objective(
    role="reward",
    paper="Coste et al. 2023, arXiv 2310.02743",
    feedback="any",
    signal="reward",
    data="either",
    reference=False,
)
def ensemble_minimum(reward: Float[Tensor, "N M"]) -> Float[Tensor, " N"]:
    r"""The least of the models' rewards: worst-case optimisation.

    Args:
        reward: the reward of each output by each model, on one scale.

    Returns:
        A reward per output; it takes one sceptical model to hold it down.

    Raises:
        ValueError: no models.

    Reference:
        Coste et al., arXiv 2310.02743, section 3.2 (WCO).

    Example:
        Rewards (1, 2, 6) give 1.
    """
    check_group("reward", reward, at_least=1)
    return reward.amin(-1)


@objective(
    role="reward",
    paper="Coste et al. 2023, arXiv 2310.02743",
    feedback="any",
    signal="reward",
    data="either",
    reference=False,
)
def ensemble_less_variance(reward: Float[Tensor, "N M"], *, pessimism: float) -> Float[Tensor, " N"]:
    r"""The models' mean less a multiple of their variance: uncertainty-weighted optimisation.

    ``R = mean - λ (1/M) sum_m (r_m - mean)^2``.

    Args:
        reward: the reward of each output by each model, on one scale.
        pessimism: λ >= 0; raising it avoids outputs that the models differ on. The paper tries 0.01 to 1.

    Returns:
        A reward per output, in float32 at least.

    Raises:
        ValueError: `pessimism` is negative, or there are no models.

    Reference:
        Coste et al., arXiv 2310.02743, section 3.2 (UWO), with the variance of M, not M - 1.

    Example:
        Rewards (1, 2, 6) have variance 14/3; λ = 3/14 gives ``3 - 1 = 2``.
    """
    check_not_negative("pessimism", pessimism)
    check_group("reward", reward, at_least=1)
    mean, variance = _mean_and_variance(reward, ddof=0)
    return mean - pessimism * variance


@objective(
    role="reward",
    paper="ours",
    feedback="any",
    signal="reward",
    data="either",
    reference=False,
)
def ensemble_lower_bound(reward: Float[Tensor, "N M"], *, pessimism: float, ddof: int = 1) -> Float[Tensor, " N"]:
    r"""The models' mean less a multiple of their standard deviation: ``R = mean - k sd``.

    Unlike `ensemble_less_variance` it is in the reward's own unit: a scale changes all of it alike.

    Args:
        reward: the reward of each output by each model, on one scale.
        pessimism: k >= 0; raising it avoids outputs that the models differ on.
        ddof: 1 divides the squares by M - 1, 0 by M.

    Returns:
        A reward per output, in float32 at least; the mean itself where the models agree (no gradient through the spread).

    Raises:
        ValueError: `pessimism` is negative, or there are no more than `ddof` models.

    Reference:
        The usual lower confidence bound (not found in a paper on reward models with this divisor; ours).

    Example:
        Rewards (1, 2, 6) have standard deviation ``sqrt 7``; k = 1 gives ``3 - sqrt 7``.
    """
    check_not_negative("pessimism", pessimism)
    check_group("reward", reward, at_least=ddof + 1)
    mean, variance = _mean_and_variance(reward, ddof=ddof)
    spread = torch.where(variance > 0, variance, 1).sqrt()  # the root has no slope at 0
    return mean - pessimism * torch.where(variance > 0, spread, 0)


def _mean_and_variance(reward: Tensor, *, ddof: int) -> tuple[Tensor, Tensor]:
    reward = reward.to(torch.promote_types(reward.dtype, torch.float32))
    mean = reward.mean(-1)
    return mean, (reward - mean[:, None]).square().sum(-1) / (reward.shape[-1] - ddof)
