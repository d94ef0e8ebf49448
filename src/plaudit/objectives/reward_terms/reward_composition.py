"""Rewards made of parts: verdicts, tiers, weighted sums, gates and products of scores [N, C], one column per component.

A verifier or judge answers pass, fail, or could not judge (a timeout, a crashed engine, an unparsable gold answer). The third
is a mask, `judged`, and never a reward of zero: the 0 that stands where `judged` is False is a placeholder that nobody may
read. Leave such an output out of its group's mask, or sample it again.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.objectives.arguments import check_group, check_positive, masked_mean, widened
from plaudit.objectives.catalogue import objective


class JudgedReward(NamedTuple):
    """Rewards, and which of them are real: where `judged` is False nobody could judge, and the 0 means nothing."""

    reward: Float[Tensor, " N"]
    judged: Bool[Tensor, " N"]


def only_judged(reward: Tensor, judged: Tensor | None) -> JudgedReward:
    """A reward with its mask; None says that all were judged."""
    if judged is None:
        return JudgedReward(reward, torch.ones_like(reward, dtype=torch.bool))
    return JudgedReward(torch.where(judged, reward, 0), judged)


def component_weights(weights: tuple[float, ...], score: Tensor) -> Tensor:
    """The weights as a tensor like the scores, one per component (the last axis)."""
    if len(weights) != score.shape[-1] or not all(math.isfinite(weight) for weight in weights):
        raise ValueError(f"weights: expected {score.shape[-1]} finite numbers, one per component, got {weights}")
    return torch.tensor(weights, dtype=score.dtype, device=score.device)


@objective(
    role="reward",
    paper="Lambert et al. 2024, arXiv 2411.15124",
    feedback="verdict",
    signal="reward",
    data="either",
    reference=False,
)
def verdict_reward(
    passed: Bool[Tensor, " N"],
    judged: Bool[Tensor, " N"],
    *,
    reward_pass: float = 1.0,
    reward_fail: float = 0.0,
) -> JudgedReward:
    r"""Reward of a verdict: `reward_pass` or `reward_fail`, and a mask for the third verdict, "could not judge".

    Args:
        passed: True where the verifier passed the output; not read where it could not judge.
        judged: False where the verifier could not judge.
        reward_pass: the reward of a pass, above `reward_fail`.
        reward_fail: the reward of a fail; -1 is common, too, and group baselines cannot tell the two apart.

    Returns:
        The reward, and `judged`.

    Raises:
        ValueError: a pass is not worth more than a fail.

    Reference:
        Lambert et al., "Tulu 3", arXiv 2411.15124, section 6 (rewards that a program can verify). TRL's reward functions
        return None for the third verdict and its trainer leaves the completion out; open-r1 once paid 1 for an
        unparsable gold answer (issue 293), and verl scored every sample 0 when its clock could not start (PR 5635).

    Example:
        Pass, fail, could not judge: rewards (1, 0, 0) with judged (True, True, False).
    """
    if not (math.isfinite(reward_pass) and math.isfinite(reward_fail) and reward_pass > reward_fail):
        raise ValueError(f"reward_pass: expected more than reward_fail = {reward_fail}, got {reward_pass}")
    return only_judged(torch.where(passed, float(reward_pass), float(reward_fail)), judged)


@objective(
    role="reward",
    paper="Liu et al. 2025 (SkyRL-SQL)",
    feedback="verdict",
    signal="reward",
    data="either",
    reference=False,
)
def tiered_reward(
    passed: Bool[Tensor, "N L"],
    *,
    rewards: tuple[float, ...],
    judged: Bool[Tensor, "N L"] | None = None,
) -> JudgedReward:
    r"""Reward by the first check that fails: it parses, compiles, runs, is right.

    With checks 1..L in order, ``R = rewards[l]`` where l is the number of checks passed before the first failure.

    Args:
        passed: True where a check passed; checks after the first failure are not read.
        rewards: L + 1 numbers that rise strictly: for failing the first check, ..., for passing all.
        judged: False where a check could not be judged; None says that all were.

    Returns:
        The reward, and whether it could be judged: False where all checks before an unjudged one passed. Behind a failure
        an unjudged check makes no difference.

    Raises:
        ValueError: not L + 1 rising rewards: a worse output would be paid as well as a better one.

    Reference:
        SkyRL's text-to-SQL environment pays (-1, 0, 1) for a bad format, a wrong and a right answer. Such tiers keep every
        right answer above every wrong one, which sums of components do not (`reward_order_margin`).

    Example:
        Rewards (-1, 0, 1) for (format, answer): a bad format gives -1, a wrong answer 0, a right one 1.
    """
    levels = passed.shape[-1]
    rising = all(low < high for low, high in itertools.pairwise(rewards))
    if len(rewards) != levels + 1 or not rising or not all(math.isfinite(reward) for reward in rewards):
        raise ValueError(f"rewards: expected {levels + 1} rising numbers for {levels} checks, got {rewards}")
    known = torch.ones_like(passed) if judged is None else judged
    level = (passed & known).long().cumprod(-1).sum(-1)
    all_known = torch.cat([known, torch.ones_like(known[:, :1])], -1) if levels else known.new_ones(len(known), 1)
    decided = all_known.gather(-1, level[:, None]).squeeze(-1)
    return only_judged(torch.tensor(rewards, dtype=torch.float32, device=passed.device)[level], decided)


@objective(
    role="reward",
    paper="Dai et al. 2025, arXiv 2505.12768",
    feedback="any",
    signal="reward",
    data="either",
    reference=False,
)
def composite_reward(
    score: Float[Tensor, "N C"],
    *,
    weights: tuple[float, ...],
    judged: Bool[Tensor, "N C"] | None = None,
) -> JudgedReward:
    r"""Weighted sum of components, ``R = Σ_c w_c s_c``; could not judge if one of its parts could not be judged.

    Args:
        score: component scores, such as format, exact match and execution, each up is better.
        weights: ``w_c``; a penalty has a negative one. Raising one makes its component count more; hold the whole against
            `reward_order_margin`.
        judged: False where a component could not be judged; its score is not read. None says that all were judged.

    Returns:
        The reward, and where every component of non-zero weight was judged.

    Raises:
        ValueError: not one finite weight per component.

    Reference:
        Dai et al., "ReEx-SQL", arXiv 2505.12768, weights (2, 1, 3, 1, 2). Peers count a component without a verdict as 0
        (TRL's ``sum_then_normalize`` takes a nansum): the engine's crash then costs as much as a wrong answer.

    Example:
        Scores (1, 0.5) with weights (2, 4) give 4; if the second could not be judged there is no reward.
    """
    known = torch.ones_like(score, dtype=torch.bool) if judged is None else judged
    exact = widened(torch.where(known, score, 0))
    weight = component_weights(weights, exact)
    return only_judged((exact * weight).sum(-1), (known | (weight == 0)).all(-1))


@objective(
    role="reward",
    paper="plaudit (ours)",
    feedback="any",
    signal="reward",
    data="either",
    reference=False,
)
def renormalised_composite_reward(
    score: Float[Tensor, "N C"],
    judged: Bool[Tensor, "N C"],
    *,
    weights: tuple[float, ...],
) -> JudgedReward:
    r"""Weighted sum in which the judged components stand in for the others: ``R = Σ_c w_c · Σ_judged w_c s_c / Σ_judged w_c``.

    It keeps outputs that `composite_reward` leaves out, at the price of comparing different sums within a group: an output
    whose hardest component could not be judged is paid by the easier ones. Use it where components agree.

    Args:
        score: component scores on one scale, each up is better.
        judged: False where a component could not be judged; its score is not read.
        weights: ``w_c >= 0``, not all 0.

    Returns:
        The reward, and where any component of positive weight was judged.

    Raises:
        ValueError: not one weight >= 0 per component, or all are 0.

    Reference:
        (not found; ours.) Equal to `composite_reward` where all were judged.

    Example:
        Scores (1, 0.5) with weights (2, 4): 4; if the second could not be judged, ``6 · 2 / 2 = 6``.
    """
    exact = widened(torch.where(judged, score, 0))
    weight = component_weights(weights, exact)
    if min(weights) < 0 or sum(weights) == 0:
        raise ValueError(f"weights: expected numbers >= 0, not all 0, got {weights}")
    present = torch.where(judged, weight, 0).sum(-1)
    mean = (exact * weight).sum(-1) / torch.where(present > 0, present, 1)
    return only_judged(sum(weights) * mean, present > 0)


@objective(
    role="reward",
    paper="Dai et al. 2025, arXiv 2505.12768",
    feedback="any",
    signal="reward",
    data="either",
    reference=False,
)
def gated_reward(score: Float[Tensor, " N"], gate: Bool[Tensor, " N"]) -> Float[Tensor, " N"]:
    r"""A component that is paid only where another one is 1: ``R = s`` if the gate is open, else 0.

    Args:
        score: the component's score; not read where the gate is closed.
        gate: True where it is paid, such as where the final answer is right.

    Returns:
        The gated score.

    Reference:
        plaudit's option for ReEx-SQL's exploration reward (ours): without a gate ``SELECT 1`` is paid in a wrong answer, too.

    Example:
        Scores (0.5, 0.5) with gates (True, False) give (0.5, 0).
    """
    return torch.where(gate, score, 0)


@objective(
    role="advantage",
    paper="Liu et al. 2026, arXiv 2601.05242",
    feedback="any",
    signal="advantage",
    data="on-policy",
    reference=False,
)
def gdpo_advantage(
    score: Float[Tensor, "B K C"],
    judged: Bool[Tensor, "B K C"] | None = None,
    *,
    weights: tuple[float, ...],
    ddof: int = 1,
    epsilon: float = 1e-4,
) -> Float[Tensor, "B K"]:
    r"""Normalise each component in its group, then sum, then normalise over the batch: no component drowns another.

    ``Z_ikc = (s_ikc - mean_k s) / (sd_k s + ε)``, ``S_ik = Σ_c w_c Z_ikc``, ``A_ik = (S_ik - mean S) / (sd S + ε)``.

    A sum of raw components gives, say, (1, 0) and (0, 1) one advantage, and the component of widest spread decides.

    Args:
        score: component scores of groups of outputs. No gradient.
        judged: False where a component could not be judged: it enters no mean, and counts as average, 0, in its output's
            sum. An output without any judged component has advantage 0 and is left out of the batch's mean.
        weights: ``w_c``, in units of standard deviations.
        ddof: 1 for the sample's deviation, as TRL and NeMo-RL have it, 0 for the population's.
        epsilon: > 0, added to the deviations.

    Returns:
        The advantages, without gradient.

    Raises:
        ValueError: not one finite weight per component, groups of one, `epsilon` <= 0 or `ddof` neither 0 nor 1.

    Reference:
        Liu et al., "GDPO", arXiv 2601.05242 (its text was not found; the formula is that of TRL's
        ``multi_objective_aggregation="normalize_then_sum"``, which cites it).

    Example:
        One group, one component (1, 3), ddof 0, ε → 0: ``Z = (-1, 1)``, and so is A.
    """
    check_group("score", score.transpose(-1, -2), at_least=2)
    check_positive("epsilon", epsilon)
    if ddof not in (0, 1):
        raise ValueError(f"ddof: expected 0 or 1, got {ddof}")
    known = torch.ones_like(score, dtype=torch.bool) if judged is None else judged
    exact = widened(torch.where(known, score, 0).detach())
    standard = _standardised(exact, known, 1, ddof, epsilon)
    total = (standard * component_weights(weights, exact)).sum(-1)
    return _standardised(total, known.any(-1), (0, 1), ddof, epsilon)


def _standardised(values: Tensor, counts: Tensor, dim: int | tuple[int, ...], ddof: int, epsilon: float) -> Tensor:
    """(x - mean) / (sd + ε) over the entries that count; exactly 0 where they are all equal, and where none counts."""
    if not values.numel():
        return values
    centred = torch.where(counts, values - masked_mean(values, counts, dim, keepdim=True), 0)
    degrees = (counts.sum(dim, keepdim=True) - ddof).clamp(min=1)
    deviation = (centred.square().sum(dim, keepdim=True) / degrees).sqrt()
    spread = torch.where(counts, values, -torch.inf).amax(dim, keepdim=True) > torch.where(
        counts, values, torch.inf
    ).amin(dim, keepdim=True)
    return torch.where(spread, centred / (deviation + epsilon), 0)
