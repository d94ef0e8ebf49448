"""Objectives that distil a reward model's posterior into the policy, and MPO's split of pairs by the reward model's certainty.

The weights of an output come from its group alone: a group is the sample with which a sum over all outputs is estimated.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.objectives.arguments import check_group, check_positive, check_share, visible
from plaudit.objectives.catalogue import objective


def _log_shares(log_weight: Tensor, mask: Tensor | None) -> Tensor:
    """Log-softmax over the outputs that count; where masked, a share of 0 with a finite logarithm."""
    if mask is not None:
        log_weight = torch.where(mask, log_weight, torch.finfo(log_weight.dtype).min)
    return log_weight.log_softmax(-1)


def _log_target(
    proposal_log_prob: Tensor, prior_log_prob: Tensor, reward: Tensor, mask: Tensor | None, temperature: float
) -> Tensor:
    """``log p(y_i|x) + r_i/τ - log q'(y_i|x)``, the logarithm of an importance weight, without gradient."""
    check_positive("temperature", temperature)
    check_group("reward", reward, at_least=1)
    prior, proposal = visible(prior_log_prob, mask), visible(proposal_log_prob, mask)
    return (prior - proposal + visible(reward, mask) / temperature).detach()


@objective(
    role="weight",
    paper="Pandey et al. 2024, arXiv 2402.02479",
    feedback="rating",
    signal="reward",
    data="off-policy",
    reference=True,
)
def posterior_weights(
    proposal_log_prob: Float[Tensor, "B K"],
    prior_log_prob: Float[Tensor, "B K"],
    reward: Float[Tensor, "B K"],
    mask: Bool[Tensor, "B K"] | None = None,
    *,
    temperature: float = 1.0,
) -> Float[Tensor, "B K"]:
    r"""Self-normalised importance weights of the reward-conditioned posterior: ``α = softmax(log p + r/τ - log q')``.

    The posterior of an output given that it is good is ``p(y|x, G=1) ∝ p(y|x) exp(r(x, y) / τ)``; α are its weights on
    samples from q'.

    Args:
        proposal_log_prob: ``log q'(y_i|x)`` under the policy that was sampled from (at its temperature), summed over steps.
        prior_log_prob: ``log p(y_i|x)`` under the base policy; in the first round it is the proposal, and the two cancel.
        reward: r_i. Adding a constant to a group changes nothing.
        mask: True for the outputs that count.
        temperature: τ > 0; lowering it moves the weight to the best output. Watch `effective_sample_size`.

    Returns:
        α, which adds up to 1 in each group, 0 where masked; without gradient.

    Raises:
        ValueError: `temperature` is not positive, or the groups are empty.

    Reference:
        Pandey et al., "BRAIn: Bayesian Reward-conditioned Amortized Inference for natural language generation from feedback",
        arXiv 2402.02479 (ICML 2024), self-normalised importance sampling of the posterior.

    Example:
        q' = p, rewards (log 3, 0), τ = 1: ``α = (0.75, 0.25)``.
    """
    share = _log_shares(_log_target(proposal_log_prob, prior_log_prob, reward, mask, temperature), mask).exp()
    return share if mask is None else torch.where(mask, share, 0)


@objective(
    paper="Pandey et al. 2024, arXiv 2402.02479",
    feedback="rating",
    signal="reward",
    data="off-policy",
    reference=True,
)
def brain(
    log_prob: Float[Tensor, "B K"],
    proposal_log_prob: Float[Tensor, "B K"],
    prior_log_prob: Float[Tensor, "B K"],
    reward: Float[Tensor, "B K"],
    mask: Bool[Tensor, "B K"] | None = None,
    *,
    temperature: float = 1.0,
) -> Float[Tensor, " B"]:
    r"""BRAIn: the divergence of the policy from the reward-conditioned posterior, both self-normalised on the same samples.

    ``L = KL(α || β̂)`` with α as in `posterior_weights` and ``β̂ = softmax(log q_θ - log q')``. Its gradient is
    ``-Σ_i (α_i - β̂_i) ∇ log q_θ(y_i|x)``: β̂ is the paper's self-normalised baseline, and nothing moves where α = β̂. α has
    no gradient.

    Args:
        log_prob: ``log q_θ(y_i|x)`` of the policy, summed over steps.
        proposal_log_prob: ``log q'(y_i|x)`` under the policy that was sampled from, at the same temperature.
        prior_log_prob: ``log p(y_i|x)`` under the base policy.
        reward: r_i.
        mask: True for the outputs that count.
        temperature: τ > 0 of the goodness ``exp(r/τ)``; lowering it moves the target to the best outputs and away from p.

    Returns:
        The loss of each group, >= 0; 0 for a group of one.

    Raises:
        ValueError: `temperature` is not positive, or the groups are empty.

    Reference:
        Pandey et al., "BRAIn", arXiv 2402.02479. Two samples with a winner who takes all (τ → 0) are DPO with β = 1 and
        reference q' (the paper's DPO-sft). No other implementation was found.

    Example:
        Two samples, q_θ = q' = p, rewards (log 3, 0): ``α = (3/4, 1/4)``, ``β̂ = (1/2, 1/2)``,
        ``L = 3/4 log(3/2) + 1/4 log(1/2) = 0.1308``.
    """
    log_alpha = _log_shares(_log_target(proposal_log_prob, prior_log_prob, reward, mask, temperature), mask)
    log_beta = _log_shares(visible(log_prob, mask) - visible(proposal_log_prob, mask).detach(), mask)
    return (log_alpha.exp() * (log_alpha - log_beta)).sum(-1)


@objective(
    paper="Pandey et al. 2024, arXiv 2402.02479",
    feedback="rating",
    signal="reward",
    data="off-policy",
    reference=True,
)
def brain_without_baseline(
    log_prob: Float[Tensor, "B K"],
    proposal_log_prob: Float[Tensor, "B K"],
    prior_log_prob: Float[Tensor, "B K"],
    reward: Float[Tensor, "B K"],
    mask: Bool[Tensor, "B K"] | None = None,
    *,
    temperature: float = 1.0,
) -> Float[Tensor, " B"]:
    r"""BRAIn's ablation, likelihood weighted by the posterior: ``L = -Σ_i α_i log q_θ(y_i|x)``.

    Its gradient estimates the same quantity as that of `brain` with more variance: each sample moves also a policy that is
    the posterior already.

    Args:
        log_prob: ``log q_θ(y_i|x)`` of the policy, summed over steps.
        proposal_log_prob: ``log q'(y_i|x)`` under the policy that was sampled from.
        prior_log_prob: ``log p(y_i|x)`` under the base policy.
        reward: r_i.
        mask: True for the outputs that count.
        temperature: τ > 0 of the goodness ``exp(r/τ)``.

    Returns:
        The loss of each group, >= 0; 0 for an empty group.

    Raises:
        ValueError: `temperature` is not positive, or the groups are empty.

    Reference:
        Pandey et al., "BRAIn", arXiv 2402.02479: the estimate of earlier distribution matching (DPG, GDC) with self-normalised
        weights; reward-weighted regression where q' = p.

    Example:
        Two samples of probability 1/2 and 1/4 under q_θ, equal weights: ``(log 2 + log 4) / 2 = 1.0397``.
    """
    alpha = _log_shares(_log_target(proposal_log_prob, prior_log_prob, reward, mask, temperature), mask).exp()
    return -(alpha * visible(log_prob, mask)).sum(-1)


@objective(
    role="statistic",
    paper="Kong 1992; Kish 1965",
    feedback="any",
    signal="none",
    data="off-policy",
    reference=False,
)
def effective_sample_size(
    log_weight: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None
) -> Float[Tensor, " B"]:
    r"""How many equally weighted samples a group of weighted ones is worth: ``(Σ w)² / Σ w²``.

    Args:
        log_weight: ``log w_i`` up to a constant per group, such as ``log π(y_i|x) - log q'(y_i|x)``.
        mask: True for the samples that count.

    Returns:
        A number from 1 (one sample has all the weight) to the group's size (all weights are equal); 0 for an empty group.

    Reference:
        Kish, "Survey sampling" (1965); Kong, "A note on importance sampling using standardized weights" (1992).

    Example:
        Weights (1, 1, 0.5): ``2.5² / 2.25 = 2.78``.
    """
    log_share = _log_shares(visible(log_weight, mask), mask)
    size = torch.exp(-(2 * log_share).logsumexp(-1)) if log_weight.shape[-1] else log_share.sum(-1)
    return size if mask is None else torch.where(mask.any(-1), size, 0)


@objective(
    role="statistic",
    paper="Gou and Nguyen 2024, arXiv 2403.19443",
    feedback="comparison",
    signal="reward",
    data="off-policy",
    reference=False,
)
def reward_gap(reward_chosen: Float[Tensor, " B"], reward_rejected: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    r"""How sure a reward model is about a pair, whichever side it is on: ``g = |r_w - r_l|``.

    Args:
        reward_chosen: reward of the preferred output.
        reward_rejected: reward of the other one. Rewards from a model that was fitted to the same pairs make gaps too large;
            take them from a model that has not seen the pair (cross-fitting).

    Returns:
        The gap of each pair, >= 0, in units of the reward.

    Reference:
        Gou and Nguyen, "Mixed Preference Optimization: Reinforcement Learning with Data Selection and Better Reference Model",
        arXiv 2403.19443.

    Example:
        Rewards 1 and 3 have a gap of 2.
    """
    return (reward_chosen - reward_rejected).abs()


@objective(
    role="statistic",
    paper="Gou and Nguyen 2024, arXiv 2403.19443",
    feedback="comparison",
    signal="reward",
    data="off-policy",
    reference=False,
)
def gap_threshold(gap: Float[Tensor, " B"], *, easy_share: float = 0.5) -> Float[Tensor, ""]:
    r"""The gap from which on a pair belongs to the easier ones: the k-th largest of B gaps, ``k = round(easy_share · B)``.

    Args:
        gap: gaps of all pairs of the data set, as in `reward_gap`.
        easy_share: share of pairs to call easy, in [0, 1]. Equal gaps at the threshold are all easy.

    Returns:
        One threshold for `is_easy`; infinite where k is 0, so that no pair is easy.

    Raises:
        ValueError: `easy_share` is outside [0, 1].

    Reference:
        Gou and Nguyen, arXiv 2403.19443, split by a gap in reward units, chosen so that the two sets are of similar size
        (the number: not found). A share needs no unit; its default is ours.

    Example:
        Gaps (0.1, 3, 0.5, 1) with half of them easy: the threshold is 1, and 3 and 1 are easy.
    """
    check_share("easy_share", easy_share)
    count = round(easy_share * len(gap))
    if count == 0:
        return torch.full((), math.inf, dtype=gap.dtype, device=gap.device)
    return gap.detach().sort(descending=True).values[count - 1]


@objective(
    role="statistic",
    paper="Gou and Nguyen 2024, arXiv 2403.19443",
    feedback="comparison",
    signal="reward",
    data="off-policy",
    reference=False,
)
def is_easy(gap: Float[Tensor, " B"], threshold: Float[Tensor, ""] | float) -> Bool[Tensor, " B"]:
    r"""MPO's split: pairs with ``g >= threshold`` are for DPO, the others for reinforcement learning after it.

    Args:
        gap: gap of each pair, as in `reward_gap`.
        threshold: from `gap_threshold`, or a number in reward units; 0 makes all pairs easy (DPO alone), infinity none.

    Returns:
        True for the easy pairs.

    Reference:
        Gou and Nguyen, arXiv 2403.19443, data selection.

    Example:
        Gaps (0.1, 3) at threshold 1: (False, True).
    """
    return gap >= threshold
