"""Tree search over reasoning steps: which child to visit, how visits are backed up, and groups made of a node's children.

These steer a search and label its outcome; they are constants, and no gradient flows through any of them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.objectives.arguments import check_not_negative, check_positive, widened
from plaudit.objectives.catalogue import objective


class Backup(NamedTuple):
    """A node's statistics: ``visits`` N and ``value_sum`` W; its mean value is W / N."""

    visits: Float[Tensor, " B"]
    value_sum: Float[Tensor, " B"]


class StepGroup(NamedTuple):
    """``reward`` of each child of a node, and whether the node's group is ``kept`` for training."""

    reward: Float[Tensor, "B K"]
    kept: Bool[Tensor, " B"]


@objective(
    role="value",
    paper="Kocsis and Szepesvari 2006; Jiang et al. 2025, arXiv 2511.10279",
    feedback="verdict",
    signal="reward",
    data="on-policy",
    reference=False,
)
def uct_score(
    value_sum: Float[Tensor, "B K"],
    visits: Float[Tensor, "B K"],
    parent_visits: Float[Tensor, " B"],
    *,
    exploration: float = 1.0,
) -> Float[Tensor, "B K"]:
    r"""Upper confidence bound of a child, ``W/N + c sqrt(2 ln N_parent / N)``; infinite for a child without visits.

    Args:
        value_sum: W, the sum of the rewards backed up through each child.
        visits: N of each child. Add the roll-outs under way (virtual loss: N + 1, W + 0) for parallel search.
        parent_visits: N of the node.
        exploration: c >= 0; raising it visits what is little known more often.

    Returns:
        The score; the child of the highest is visited next. Mask padded children before taking the maximum.

    Raises:
        ValueError: `exploration` is negative.

    Reference:
        Kocsis and Szepesvári, "Bandit based Monte-Carlo planning" (2006), with Auer et al.'s UCB1; PROPA's official code has
        c = 1.

    Example:
        ``W = 1``, ``N = 2``, parent visited e times, c = 1: ``1/2 + sqrt(2 / 2) = 1.5``.
    """
    check_not_negative("exploration", exploration)
    value_sum, visits, parent_visits = value_sum.detach(), visits.detach(), parent_visits.detach()
    visited = visits > 0
    count = torch.where(visited, visits, 1)
    width = (2 * parent_visits.clamp(min=1).log()[:, None] / count).sqrt()
    return torch.where(visited, value_sum / count + exploration * width, torch.inf)


@objective(
    role="value",
    paper="Silver et al. 2017, Nature 550",
    feedback="verdict",
    signal="reward",
    data="on-policy",
    reference=False,
)
def puct_score(
    value_sum: Float[Tensor, "B K"],
    visits: Float[Tensor, "B K"],
    prior: Float[Tensor, "B K"],
    parent_value: Float[Tensor, " B"],
    parent_visits: Float[Tensor, " B"],
    *,
    exploration: float = 1.25,
    first_play_reduction: float = 0.1,
) -> Float[Tensor, "B K"]:
    r"""Score of a child under a prior, ``Q + c p sqrt(N_parent) / (1 + N)``, with ``Q = Q_parent - δ`` for an unvisited child.

    Args:
        value_sum: W of each child.
        visits: N of each child, roll-outs under way included.
        prior: p, the policy's probability of each child, see `search_prior`.
        parent_value: ``Q_parent = W/N`` of the node.
        parent_visits: N of the node.
        exploration: c >= 0; raising it follows the prior more, and values less.
        first_play_reduction: δ >= 0, how much worse than its parent an unvisited child is taken to be.

    Returns:
        The score; the child of the highest is visited next. Mask padded children before taking the maximum.

    Raises:
        ValueError: a setting is negative.

    Reference:
        Silver et al. (AlphaGo Zero), Nature 550 (2017), "Select"; the first-play urgency is Leela Zero's. Constants: ours.

    Example:
        ``W = 1``, ``N = 1``, p = 1/2, parent visited 4 times, c = 1: ``1 + 1/2 · 2 / 2 = 1.5``.
    """
    check_not_negative("exploration", exploration)
    check_not_negative("first_play_reduction", first_play_reduction)
    value_sum, visits, prior = value_sum.detach(), visits.detach(), prior.detach()
    parent_value, parent_visits = parent_value.detach(), parent_visits.detach()
    visited = visits > 0
    value = torch.where(
        visited, value_sum / torch.where(visited, visits, 1), parent_value[:, None] - first_play_reduction
    )
    return value + exploration * prior * parent_visits.sqrt()[:, None] / (1 + visits)


@objective(
    role="weight",
    paper="ours, after Silver et al. 2017, Nature 550",
    feedback="none",
    signal="none",
    data="on-policy",
    reference=False,
    modalities=("text",),
)
def search_prior(
    log_prob: Float[Tensor, "B K"],
    length: Float[Tensor, "B K"],
    mask: Bool[Tensor, "B K"] | None = None,
    *,
    temperature: float = 1.0,
) -> Float[Tensor, "B K"]:
    r"""Prior of sampled steps: ``p = softmax(log π(step) / length / T)`` over the siblings.

    Args:
        log_prob: log-probability of each step, summed over its tokens.
        length: number of tokens of each step, >= 1.
        mask: True for the siblings that exist.
        temperature: T > 0; raising it makes the prior flatter.

    Returns:
        Probabilities that add up to 1 over the siblings, 0 where `mask` is False. Add up those of siblings with one text.

    Raises:
        ValueError: `temperature` is not positive.

    Reference:
        Ours (the per-token mean keeps long steps from having no prior at all).

    Example:
        Log-probabilities (-2, -4) of lengths (1, 2): equal priors (1/2, 1/2).
    """
    check_positive("temperature", temperature)
    counts = torch.ones_like(log_prob, dtype=torch.bool) if mask is None else mask
    score = (
        torch.where(counts, widened(log_prob.detach()), 0)
        / torch.where(counts, widened(length.detach()), 1)
        / temperature
    )
    some = counts.any(-1, keepdim=True)
    return torch.where(counts, torch.where(counts | ~some, score, -torch.inf).softmax(-1), 0)


@objective(
    role="value",
    paper="Kocsis and Szepesvari 2006; Jiang et al. 2025, arXiv 2511.10279",
    feedback="verdict",
    signal="reward",
    data="on-policy",
    reference=False,
)
def mean_backup(
    value_sum: Float[Tensor, "B K"],
    visits: Float[Tensor, "B K"],
    own_value_sum: Float[Tensor, " B"],
    own_visits: Float[Tensor, " B"],
    mask: Bool[Tensor, "B K"] | None = None,
) -> Backup:
    r"""A node's visits and value sum from its children's and its own roll-outs: ``N = n + Σ N_k``, ``W = w + Σ W_k``.

    Args:
        value_sum: W of each child.
        visits: N of each child.
        own_value_sum: w, what the roll-outs that started at the node itself brought.
        own_visits: n, their number.
        mask: True for the children that exist.

    Returns:
        N and W of the node; what backing up each roll-out along its path (N + 1, W + r) adds up to.

    Reference:
        Kocsis and Szepesvári (2006); PROPA's official code.

    Example:
        Children with (W, N) = (1, 2) and (0, 1), and one failed roll-out of its own: ``N = 4``, ``W = 1``.
    """
    value_sum, visits = widened(value_sum.detach()), widened(visits.detach())
    if mask is not None:
        value_sum, visits = torch.where(mask, value_sum, 0), torch.where(mask, visits, 0)
    return Backup(own_visits.detach() + visits.sum(-1), own_value_sum.detach() + value_sum.sum(-1))


@objective(
    role="value",
    paper="Coulom 2006; ReST-MCTS* 2024, arXiv 2406.03816",
    feedback="verdict",
    signal="reward",
    data="on-policy",
    reference=False,
)
def maximum_backup(
    value: Float[Tensor, "B K"], visits: Float[Tensor, "B K"], own_value: Float[Tensor, " B"]
) -> Float[Tensor, " B"]:
    r"""A node's value as that of its best visited child, ``V = max_k Q_k``, for optimistic search.

    Args:
        value: ``Q_k = W_k / N_k`` of each child; not read where it was not visited.
        visits: N of each child; 0 for one that was not visited or does not exist.
        own_value: the node's own estimate, taken where no child was visited.

    Returns:
        The value of each node, at least what `mean_backup` gives over the same children.

    Reference:
        Coulom, "Efficient selectivity and backup operators in Monte-Carlo tree search" (2006), section 3.

    Example:
        Values (0.2, 0.9) with visits (3, 0): 0.2.
    """
    if value.shape[-1] == 0:
        return own_value.detach()
    visited = visits > 0
    best = torch.where(visited, value.detach(), -torch.inf).amax(-1)
    return torch.where(visited.any(-1), best, own_value.detach())


@objective(
    role="reward",
    paper="Jiang et al. 2025, arXiv 2511.10279",
    feedback="verdict",
    signal="reward",
    data="on-policy",
    reference=False,
)
def step_group_reward(
    value_sum: Float[Tensor, "B K"],
    visits: Float[Tensor, "B K"],
    mask: Bool[Tensor, "B K"] | None = None,
    *,
    gain: float = 10.0,
    least_range: float = 0.1,
) -> StepGroup:
    r"""Rewards of a node's children as one group for a policy gradient: ``ln(1 + g W/N) / ln(1 + g)``, 0 without visits.

    The boost spreads small success rates, and keeps 0 and 1. A group is kept unless all its rewards are 0, all are 1, or
    ``max - min < least_range``: those say nothing.

    Args:
        value_sum: W of each child, a sum of rewards in [0, 1].
        visits: N of each child. In a fresh expansion most have none, and a reward of 0 by construction: mask those
            (``visits >= 2``) for unbiased labels, as PROPA does not.
        mask: True for the children that exist.
        gain: g > 0; raising it spreads small rates more, → 0 is the rate itself. PROPA has 10.
        least_range: >= 0, the range of rewards below which a group is left out.

    Returns:
        The rewards, 0 where `mask` is False, and which groups are kept; no gradient flows through them.

    Raises:
        ValueError: a setting outside its range.

    Reference:
        PROPA's official code, its GRPO data builder. A tree whose root has no success is left out as a whole there.

    Example:
        (W, N) = (1, 1), (0, 2), (0, 0): rewards (1, 0, 0), kept.
    """
    check_positive("gain", gain)
    check_not_negative("least_range", least_range)
    counts = torch.ones_like(visits, dtype=torch.bool) if mask is None else mask
    visited = counts & (visits > 0)
    mean = torch.where(visited, value_sum.detach(), 0) / torch.where(visited, visits.detach(), 1)
    reward = torch.where(counts, (gain * mean).log1p() / math.log1p(gain), 0)
    if reward.shape[-1] == 0:
        return StepGroup(reward, counts.any(-1))
    most, least = reward.amax(-1), torch.where(counts, reward, torch.inf).amin(-1)
    return StepGroup(reward, (most > 0) & (least < 1) & (most - least >= least_range))
