"""Which contexts and which attempts are learned from, by the rewards that a group of samples got: weights and difficulty."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.objectives.arguments import check_group, check_not_negative, masked_mean
from plaudit.objectives.catalogue import objective


@objective(
    role="weight",
    paper="Wan et al. 2025, arXiv 2506.01713; Wang et al. 2025, arXiv 2505.11849",
    feedback="verdict",
    signal="reward",
    data="either",
    reference=False,
)
def middling_mean_weight(
    reward: Float[Tensor, "B K"],
    mask: Bool[Tensor, "B K"] | None = None,
    *,
    lowest: float,
    highest: float,
    least_deviation: float | None = None,
    ddof: int = 0,
) -> Float[Tensor, " B"]:
    r"""Keep contexts that are neither too hard nor too easy: 1 if ``lowest <= mean R <= highest`` (and ``sd R > d``), else 0.

    Args:
        reward: rewards of several samples per context.
        mask: False where a sample does not count.
        lowest: the least mean reward kept.
        highest: the largest, above `lowest`.
        least_deviation: d >= 0; None does not look at the deviation.
        ddof: 0 for the population's deviation, 1 for the sample's.

    Returns:
        The weight of each context, 0 or 1; 0 without any sample.

    Raises:
        ValueError: a setting out of range.

    Reference:
        SRPO (Wan et al., arXiv 2506.01713; official code) keeps groups with a mean accuracy in [0.1, 0.9] during training.
        VeriReason (arXiv 2505.11849, project page) keeps, before training, mean rewards in [0.3, 1.8] with a deviation
        above 0.1. Their number of samples and ddof: not found; 8 and 0 are ours.

    Example:
        Rewards (0, 2) and (2, 2) with [0.3, 1.8]: weights (1, 0).
    """
    if not highest > lowest:
        raise ValueError(f"highest: expected more than lowest = {lowest}, got {highest}")
    if ddof not in (0, 1):
        raise ValueError(f"ddof: expected 0 or 1, got {ddof}")
    counts = torch.ones_like(reward, dtype=torch.bool) if mask is None else mask
    mean = masked_mean(reward, counts)
    keep = (mean >= lowest) & (mean <= highest) & counts.any(-1)
    if least_deviation is not None:
        check_not_negative("least_deviation", least_deviation)
        squares = torch.where(counts, reward - mean[:, None], 0).square().sum(-1)
        keep &= (squares / (counts.sum(-1) - ddof).clamp(min=1)).sqrt() > least_deviation
    return keep.to(mean.dtype)


@objective(
    role="weight",
    paper="Jiang et al. 2025, arXiv 2511.10279",
    feedback="verdict",
    signal="reward",
    data="either",
    reference=False,
)
def spread_weight(
    reward: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None, *, least_range: float = 0.1
) -> Float[Tensor, " B"]:
    r"""Keep groups that say something: 1 if ``max R - min R >= least_range``, else 0.

    Args:
        reward: rewards of the outputs of a group, such as the four steps sampled at one node of a search tree.
        mask: False where an output does not count.
        least_range: > 0; raising it keeps fewer groups, of clearer differences.

    Returns:
        The weight of each group, 0 or 1.

    Raises:
        ValueError: `least_range` is not positive: groups of equal rewards would stay, which have no gradient.

    Reference:
        Jiang et al., "PROPA", arXiv 2511.10279, official code: groups of labels that are all 0, all 1, or within 0.1 are
        dropped. DAPO's dynamic sampling (arXiv 2503.14476, equation 11) drops groups of equal rewards.

    Example:
        Rewards (0, 0, 0), (0.5, 0.55, 0.5) and (0, 1, 0): weights (0, 0, 1).
    """
    check_group("reward", reward, at_least=1)
    if not least_range > 0:
        raise ValueError(f"least_range: expected a number > 0, got {least_range}")
    counts = torch.ones_like(reward, dtype=torch.bool) if mask is None else mask
    highest = torch.where(counts, reward, -torch.inf).amax(-1)
    lowest = torch.where(counts, reward, torch.inf).amin(-1)
    return (highest - lowest >= least_range).to(torch.promote_types(reward.dtype, torch.float32))


@objective(
    role="statistic",
    paper="Wang et al. 2025, arXiv 2505.11849",
    feedback="verdict",
    signal="reward",
    data="either",
    reference=False,
)
def reward_difficulty(
    reward: Float[Tensor, "B K"],
    mask: Bool[Tensor, "B K"] | None = None,
    *,
    lowest: float = 0.3,
    highest: float = 1.8,
) -> Float[Tensor, " B"]:
    r"""Difficulty of a context for a curriculum: ``δ = 1 - (mean R - lowest) / (highest - lowest)``.

    Args:
        reward: rewards of several samples per context.
        mask: False where a sample does not count.
        lowest: the mean reward that counts as hardest, δ = 1.
        highest: the mean reward that counts as easiest, δ = 0; above `lowest`.

    Returns:
        The difficulty; outside of [0, 1] for a mean outside of the range, which `middling_mean_weight` drops. A context
        without samples is read as one of mean 0.

    Raises:
        ValueError: `highest` is not above `lowest`.

    Reference:
        VeriReason (Wang et al., arXiv 2505.11849), project page.

    Example:
        A mean of 1.05 is half-way between 0.3 and 1.8: δ = 1/2.
    """
    if not highest > lowest:
        raise ValueError(f"highest: expected more than lowest = {lowest}, got {highest}")
    return 1 - (masked_mean(reward, mask) - lowest) / (highest - lowest)


@objective(
    role="weight",
    paper="Liu et al. 2024, arXiv 2410.16128",
    feedback="verdict",
    signal="label",
    data="either",
    reference=False,
    modalities=("text",),
)
def first_success_weight(correct: Bool[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None) -> Float[Tensor, "B K"]:
    r"""SMART's imitation weight: 1 for the first right attempt at a question, 0 for all others.

    The attempts were made one after the other, each told of the failures before it; the first right one is then imitated as
    if it had been the first attempt. With ``-w log π(a | s_1)`` this is REINFORCE with reward 1 and no baseline. Against a
    baseline, ``r - mean`` over the attempts, see `dr_grpo_advantage`.

    Args:
        correct: True where an attempt is right, in the order in which they were made.
        mask: False where an attempt was not made or could not be judged.

    Returns:
        The weights; all 0 for a question without a right attempt.

    Reference:
        Liu et al., "SMART: Self-learning meta-strategy agent", arXiv 2410.16128 (its text was not found; the
        relabelling of later successes is its abstract's). With one attempt it is rejection sampling, as in STaR.

    Example:
        Wrong, right, right: (0, 1, 0).
    """
    success = correct if mask is None else correct & mask
    return (success & (success.long().cumsum(-1) == 1)).float()
