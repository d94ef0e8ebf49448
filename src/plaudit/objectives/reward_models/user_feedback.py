"""Feedback of a product's users: what their reactions are worth, and policies that gain them without giving up the rest."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from plaudit.objectives.arguments import check_group, check_not_negative, check_positive
from plaudit.objectives.catalogue import objective


@objective(
    paper="Han et al. 2025, arXiv 2505.14946",
    feedback="reaction",
    signal="click",
    data="off-policy",
    reference=False,
)
def reaction_cross_entropy(
    logit: Float[Tensor, " N"], reacted: Bool[Tensor, " N"], *, kept_negatives: float = 1.0
) -> Float[Tensor, " N"]:
    r"""P[Love]: how likely users are to react to an output, learned from turns of which most had no reaction.

    ``L = -log σ(f - log s)`` for a turn with a reaction, ``-log σ(log s - f)`` for one without, where s is the share of turns
    without a reaction that were kept. So ``σ(f)`` is the rate among all turns, though training saw more balanced ones.

    Args:
        logit: f(x, y), the score of each turn.
        reacted: whether the user reacted. No reaction is a weak sign: it may not have been seen.
        kept_negatives: s in (0, 1], by which turns without a reaction were thinned out at random before training; all
            turns with one must have been kept. 1 is plain cross-entropy.

    Returns:
        The loss of each turn, >= 0.

    Raises:
        ValueError: `kept_negatives` outside (0, 1].

    Reference:
        Han et al., "Reinforcement learning from user feedback", arXiv 2505.14946: a point-wise binary classifier. How they
        balance classes was not found; the correction is King and Zeng's prior correction (2001), ours here.
        `undo_negative_sampling` does the same to a score that was trained without it.

    Example:
        1 reaction in 100 turns, s = 1/9, so 11 negatives kept: least at ``f = -log 99``, the rate 1/100.
    """
    shifted = logit - math.log(_checked_share(kept_negatives))
    return -logsigmoid(torch.where(reacted, shifted, -shifted))


@objective(
    role="reward",
    paper="King and Zeng 2001",
    feedback="reaction",
    signal="click",
    data="off-policy",
    reference=False,
)
def undo_negative_sampling(logit: Float[Tensor, " N"], *, kept_negatives: float) -> Float[Tensor, " N"]:
    r"""The score among all turns from a score that was trained on thinned-out negatives: ``f + log s``.

    Args:
        logit: f, trained by plain cross-entropy on all turns with a reaction and a share s of those without.
        kept_negatives: s in (0, 1].

    Returns:
        The corrected score of each turn; the order of turns (and so the area under the ROC curve) stays.

    Raises:
        ValueError: `kept_negatives` outside (0, 1].

    Reference:
        King and Zeng, "Logistic regression in rare events data", Political Analysis 9 (2001), equation 7.

    Example:
        A score of 0 after keeping 1 in 9 negatives becomes ``-log 9``: a rate of 0.1.
    """
    return logit + math.log(_checked_share(kept_negatives))


def _checked_share(kept_negatives: float) -> float:
    if not 0 < kept_negatives <= 1:
        raise ValueError(f"kept_negatives: expected a share in (0, 1], got {kept_negatives}")
    return kept_negatives


@objective(
    role="reward",
    paper="Han et al. 2025, arXiv 2505.14946",
    feedback="any",
    signal="reward",
    data="either",
    reference=False,
)
def standardised_sum(
    reward: Float[Tensor, "N J"], base_reward: Float[Tensor, "M J"], weight: Float[Tensor, " J"]
) -> Float[Tensor, " N"]:
    r"""Several rewards in one: ``R = sum_j w_j (r_j - μ_j) / s_j``, each measured against the base policy's outputs.

    Args:
        reward: J rewards of each output, such as helpfulness, safety, and the logit of P[Love].
        base_reward: the same rewards of M outputs of the base policy, from which μ and s (with M - 1) come. No gradient.
        weight: ``w_j`` of each reward, usually adding up to 1; a larger weight on P[Love] gains reactions and, as the paper
            saw, farewells that fish for them. No gradient.

    Returns:
        A reward per output, in float32 at least. A reward that never varies on the base policy is only centred.

    Raises:
        ValueError: fewer than two outputs of the base policy.

    Reference:
        Han et al., arXiv 2505.14946: helpfulness, safety and P[Love] are combined by weights. Its form and weights were
        not found; the standardisation is ours.

    Example:
        Rewards (3, 1), of which the base policy has means (1, 1) and deviations (2, 1), weights (0.7, 0.3): 0.7.
    """
    check_group("base_reward", base_reward.transpose(0, 1), at_least=2)
    dtype = torch.promote_types(reward.dtype, torch.float32)
    base = base_reward.detach().to(dtype)
    sd = base.std(0)
    score = (reward.to(dtype) - base.mean(0)) / torch.where(sd > 0, sd, 1)
    return (score * weight.detach()).sum(-1)


@objective(
    role="reward",
    paper="Xu et al. 2024, arXiv 2409.20370",
    feedback="any",
    signal="reward",
    data="either",
    reference=False,
)
def calibrated_reward(reward: Float[Tensor, " N"], baseline_reward: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    r"""CGPO's calibrated reward: the chance of being preferred to a baseline's answer, ``σ( r(x, y) - r(x, y_0) )``.

    Rewards of different contexts become comparable, and have a floor and a ceiling.

    Args:
        reward: the reward model's score of each output.
        baseline_reward: its score of the baseline's answer to the same context, such as the one in the data.

    Returns:
        A reward in [0, 1] per output; the baseline's own is 1/2.

    Reference:
        Xu et al., "The perfect blend: redefining RLHF with mixture of judges" (CGPO), arXiv 2409.20370, section 4.

    Example:
        ``log 3`` above the baseline gives 3/4.
    """
    return (reward - baseline_reward).sigmoid()


@objective(
    paper="Xu et al. 2024, arXiv 2409.20370",
    feedback="verdict",
    signal="reward",
    data="on-policy",
    reference=True,
)
def crpg(
    log_prob: Float[Tensor, " N"],
    log_ratio: Float[Tensor, " N"],
    reward: Float[Tensor, " N"],
    feasible: Bool[Tensor, " N"],
    *,
    max_log_ratio: float,
) -> Float[Tensor, " N"]:
    r"""CGPO's calibrated-regularised policy gradient: no reward for an output that a judge turned down.

    ``L = -(R̃ - mean R̃) log π(y|x)`` with ``R̃ = 1[all judges pass] · R · max(0, 1 - u / KL_max)``.

    Args:
        log_prob: ``log π(y|x)``, summed over the output's tokens.
        log_ratio: ``u = log π(y|x) - log π_ref(y|x)`` when the output was sampled. No gradient.
        reward: R, the `calibrated_reward` in [0, 1]. No gradient.
        feasible: whether the output passes all judges (safe, does not end the conversation unasked, keeps the format).
        max_log_ratio: ``KL_max > 0``; outputs further than this from the reference earn nothing. Raising it lets the policy go
            further.

    Returns:
        The loss of each output. The mean is over the whole batch, so that cutting it into micro-batches changes the loss.

    Raises:
        ValueError: `max_log_ratio` is not positive.

    Reference:
        Xu et al., CGPO, arXiv 2409.20370, section 4 (CRPG), as in the trainer of a TRL pull request by Lopez, the only
        implementation found. The factor of u is linear, not a filter; for u < 0 it exceeds 1.

    Example:
        ``R̃ = (3/4, 1/4)`` with log-probabilities -2 and -1: losses ``(1/4) 2`` and ``(-1/4) 1``.
    """
    check_positive("max_log_ratio", max_log_ratio)
    leash = (1 - log_ratio.detach() / max_log_ratio).clamp(min=0)
    earned = torch.where(feasible, reward.detach() * leash, 0)
    return -(earned - earned.mean()) * log_prob


@objective(
    paper="Xu et al. 2024, arXiv 2409.20370",
    feedback="verdict",
    signal="reward",
    data="on-policy",
    reference=True,
)
def crraft(
    log_prob: Float[Tensor, "B K"],
    log_ratio: Float[Tensor, "B K"],
    reward: Float[Tensor, "B K"],
    feasible: Bool[Tensor, "B K"],
    *,
    max_log_ratio: float,
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    r"""CGPO's reward-ranked fine-tuning: imitate each context's best output that the judges and the leash allow.

    ``L = -R_* log π(y_*|x)`` with ``y_* = argmax { R : all judges pass, u <= KL_max }``.

    Args:
        log_prob: ``log π(y|x)`` of each output, summed over its tokens.
        log_ratio: ``u = log π(y|x) - log π_ref(y|x)`` when the output was sampled. No gradient.
        reward: R, the `calibrated_reward` in [0, 1]. No gradient. Put the baseline's own answer, with 1/2, among the outputs
            to imitate it where nothing else is better.
        feasible: whether each output passes all judges; False also for outputs that a shorter group does not have.
        max_log_ratio: ``KL_max``; raising it admits outputs further from the reference.

    Returns:
        (value, weight) per context; value 0 and weight 0 where no output is allowed.

    Raises:
        ValueError: `max_log_ratio` is not positive, or there are no outputs.

    Reference:
        Xu et al., CGPO, arXiv 2409.20370, equation 18 (CRRAFT; the number as in the TRL pull request named under `crpg`).

    Example:
        Rewards (0.9, 0.6), the first turned down, ``log π = (-2, -3)``: 1.8, with weight 1.
    """
    check_positive("max_log_ratio", max_log_ratio)
    check_group("reward", reward, at_least=1)
    allowed = feasible & (log_ratio.detach() <= max_log_ratio)
    best = torch.where(allowed, reward.detach(), -math.inf).argmax(-1, keepdim=True)
    imitated = -torch.where(allowed, reward.detach(), 0) * torch.where(allowed, log_prob, 0)
    value = imitated.gather(-1, best).squeeze(-1)
    return value, allowed.any(-1).to(value.dtype)


@objective(
    paper="Xu et al. 2024, arXiv 2409.20370",
    feedback="verdict",
    signal="preference",
    data="on-policy",
    reference=True,
)
def codpo(
    log_ratio: Float[Tensor, "B K"],
    mean_log_prob: Float[Tensor, "B K"],
    reward: Float[Tensor, "B K"],
    feasible: Bool[Tensor, "B K"],
    *,
    beta: float,
    likelihood_weight: float,
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    r"""CGPO's constrained online DPO: the best output that the judges pass against the worst that they do not.

    ``L = -log σ( β (u_w - u_l) ) - λ (1/|y_w|) log π(y_w|x)``; w has the highest reward among the outputs that pass, l the
    lowest among those that do not, or among all where all pass.

    Args:
        log_ratio: ``u = log π(y|x) - log π_ref(y|x)`` of each output, summed over its tokens.
        mean_log_prob: ``log π(y|x) / |y|``, its log-probability per token.
        reward: the reward of each output, which orders them. No gradient.
        feasible: whether each output passes all judges. Groups are complete: what is False here may be taken for the rejected.
        beta: > 0, strength of the pull to the reference; raising it keeps the policy nearer to the reference.
        likelihood_weight: λ >= 0; raising it keeps the likelihood of the chosen output from falling.

    Returns:
        (value, weight) per context; value 0 and weight 0 where no output passes.

    Raises:
        ValueError: a setting out of range, or groups of fewer than two outputs.

    Reference:
        Xu et al., CGPO, arXiv 2409.20370, equation 14 (CODPO; the number as in the TRL pull request named under `crpg`). That
        code multiplies rewards by verdicts before it looks for the best, and so may choose an output that failed where
        rewards are negative; this does not.

    Example:
        Log-ratios (1, 0, -1), rewards (2, 3, 1), the second turned down, β = 1, λ = 0: ``log(1 + e^-1)``.
    """
    check_positive("beta", beta)
    check_not_negative("likelihood_weight", likelihood_weight)
    check_group("reward", reward, at_least=2)
    reward, some = reward.detach(), feasible.any(-1)
    fallen = ~feasible | feasible.all(-1, keepdim=True)
    chosen = torch.where(feasible, reward, -math.inf).argmax(-1, keepdim=True)
    rejected = torch.where(fallen, reward, math.inf).argmin(-1, keepdim=True)
    difference = (log_ratio.gather(-1, chosen) - log_ratio.gather(-1, rejected)).squeeze(-1)
    value = -logsigmoid(beta * difference) - likelihood_weight * mean_log_prob.gather(-1, chosen).squeeze(-1)
    return torch.where(some, value, 0), some.to(value.dtype)
