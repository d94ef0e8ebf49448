"""What a reward's numbers must keep: right above wrong, a range, a scale; and how many could be judged."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.objectives.arguments import check_group, check_positive, masked_mean, widened
from plaudit.objectives.catalogue import objective
from plaudit.objectives.reward_terms.reward_composition import JudgedReward


class OrderMargin(NamedTuple):
    """By how much right outputs are paid above wrong ones; `defined` is False where there are not both."""

    margin: Float[Tensor, " B"]
    defined: Bool[Tensor, " B"]


@objective(
    role="statistic",
    paper="plaudit (ours), for Dai et al. 2025, arXiv 2505.12768",
    feedback="verdict",
    signal="reward",
    data="either",
    reference=False,
)
def reward_order_margin(
    reward: Float[Tensor, "B K"], right: Bool[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None
) -> OrderMargin:
    r"""The smallest reward of a right output minus the largest of a wrong one: ``m = min_right R - max_wrong R``.

    The order constraint is ``m > 0``. Where it fails, some wrong output is paid at least as well as some right one, and
    optimisation will find it. Check it when a reward is configured, on one row with every combination of component values
    that can occur, and in training on each group.

    Args:
        reward: reward of each output.
        right: True where the output is right, by the verdict that one really cares about.
        mask: False where an output does not count or could not be judged.

    Returns:
        The margin of each row, and False in `defined` (with margin 0) where it has no right or no wrong output.

    Raises:
        ValueError: rows without any place for an output.

    Reference:
        (not found; ours.) ReEx-SQL's weights (2, 1, 3, 1, 2) fail it: a wrong answer with full entity and exploration scores
        gets 5, and so does a right one with neither. VeriReason's structure reward fails it, too.

    Example:
        Rewards (6, 5.5, 5) of which the first two are right: margin 0.5.
    """
    check_group("reward", reward, at_least=1)
    counts = torch.ones_like(right) if mask is None else mask
    winners, losers = right & counts, ~right & counts
    least = torch.where(winners, reward, torch.inf).amin(-1)
    most = torch.where(losers, reward, -torch.inf).amax(-1)
    defined = winners.any(-1) & losers.any(-1)
    return OrderMargin(torch.where(defined, least, 0) - torch.where(defined, most, 0), defined)


@objective(
    role="reward",
    paper="Mnih et al. 2015 (reward clipping)",
    feedback="any",
    signal="reward",
    data="either",
    reference=False,
)
def bounded_reward(reward: Float[Tensor, " N"], *, minimum: float, maximum: float) -> JudgedReward:
    r"""Rewards at the boundary of the library: ``clip(R, minimum, maximum)``, and whatever is no finite number is unjudged.

    A clip alone lets NaN through and turns an infinity into the best reward there is.

    Args:
        reward: rewards as they come from a verifier, a service or a file.
        minimum: the least reward that the verifier declares.
        maximum: the largest, above `minimum`.

    Returns:
        The clipped reward, and where it was a finite number. No gradient where it is clipped.

    Raises:
        ValueError: `maximum` is not above `minimum`, or one of them is not finite.

    Reference:
        Mnih et al., "Human-level control", Nature 518 (2015), clip to [-1, 1]. OpenEnv's issue 1199 reports a grader that
        took ``nan``, ``inf`` and 1.5 from a file which the agent could write.

    Example:
        (1.5, nan, -0.5) in [0, 1]: rewards (1, 0, 0), judged (True, False, True).
    """
    if not (math.isfinite(minimum) and math.isfinite(maximum) and maximum > minimum):
        raise ValueError(f"maximum: expected a number above minimum = {minimum}, got {maximum}")
    judged = reward.isfinite()
    return JudgedReward(torch.where(judged, torch.where(judged, reward, 0).clamp(minimum, maximum), 0), judged)


@objective(
    role="reward",
    paper="Wu et al. 2023, arXiv 2306.01693",
    feedback="any",
    signal="reward",
    data="either",
    reference=False,
)
def normalised_reward(
    reward: Float[Tensor, " N"], *, mean: float, deviation: float, scale: float = 1.0, bias: float = 0.0
) -> Float[Tensor, " N"]:
    r"""A reward model's scores on a known scale: ``R = scale · (r - mean) / deviation + bias``.

    Mean and deviation are measured once, on outputs of the policy that training starts from, so that components of
    different reward models can be weighed against each other, and the scale does not drift with the policy.

    Args:
        reward: raw scores.
        mean: their mean over the first policy's outputs.
        deviation: > 0, their standard deviation there.
        scale: the deviation that they shall have; raising it makes the component count more.
        bias: the mean that they shall have.

    Returns:
        The normalised reward.

    Raises:
        ValueError: `deviation` is not positive.

    Reference:
        Wu et al., "Fine-Grained Human Feedback", arXiv 2306.01693; its official code normalises the completeness
        reward like this. FGAIF's three rewards need it before equal weights mean anything.

    Example:
        A raw score of 3 with mean 1, deviation 2, scale 0.3, bias 0.1 gives ``0.3 · 1 + 0.1 = 0.4``.
    """
    check_positive("deviation", deviation)
    return (widened(reward) - mean) / deviation * scale + bias


@objective(
    role="statistic",
    paper="plaudit (ours)",
    feedback="verdict",
    signal="none",
    data="either",
    reference=False,
)
def judged_share(judged: Bool[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None) -> Float[Tensor, " B"]:
    r"""Share of a group's outputs that could be judged: ``Σ_k judged_k / K``.

    The third verdict is counted and shown. A share that falls during training says that the policy has found what makes
    the verifier give up, which a reward of 0 would have hidden, and a reward of 1 would have taught.

    Args:
        judged: False where the verifier could not judge.
        mask: False where there is no output.

    Returns:
        The share; 0 for a group without outputs.

    Reference:
        (not found; ours.)

    Example:
        Judged (True, True, False, True): 3/4.
    """
    return masked_mean(judged.float(), mask)
