"""Probabilities of preferences, from judges and from rewards that are distributions, and the losses that fit them."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from plaudit.objectives.arguments import check_not_negative, check_positive
from plaudit.objectives.catalogue import objective


@objective(
    role="statistic",
    paper="Lee et al. 2023, arXiv 2309.00267",
    feedback="comparison",
    signal="preference",
    data="either",
    reference=False,
)
def judge_probability(
    log_prob_first: Float[Tensor, " B"],
    log_prob_second: Float[Tensor, " B"],
    swapped_log_prob_first: Float[Tensor, " B"],
    swapped_log_prob_second: Float[Tensor, " B"],
) -> Float[Tensor, " B"]:
    r"""A judge's probability that a is better than b, from its words for "the first" and "the second", over both orders.

    ``P(a ≻ b) = ( σ(s_1 - s_2) + σ(s'_2 - s'_1) ) / 2``: the softmax over the two words in the order (a, b), and the one in
    the order (b, a), where a stands second.

    A judge that only looks at the place gets 1/2; exchanging a and b gives the complement.

    Args:
        log_prob_first: ``s_1``, the log-probability of "the first is better" when a is shown first.
        log_prob_second: ``s_2``, that of "the second is better" in the same order.
        swapped_log_prob_first: ``s'_1``, as `log_prob_first` when b is shown first.
        swapped_log_prob_second: ``s'_2``, as `log_prob_second` when b is shown first.

    Returns:
        A probability per pair, the target of `soft_bradley_terry`. What the judge gave to other words does not matter.

    Reference:
        Lee et al., "RLAIF vs. RLHF", arXiv 2309.00267, section 2.1 (probabilities of "1" and "2", averaged over both
        orders). AlpacaFarm, arXiv 2305.14387, shows one random order instead, which is the same on average over pairs.

    Example:
        Differences ``s_1 - s_2 = log 3`` and ``s'_2 - s'_1 = 0``: ``(3/4 + 1/2) / 2 = 5/8``.
    """
    forward = (log_prob_first - log_prob_second).sigmoid()
    backward = (swapped_log_prob_second - swapped_log_prob_first).sigmoid()
    return (forward + backward) / 2


@objective(
    role="statistic",
    paper="Wang et al. 2023, arXiv 2305.17926",
    feedback="comparison",
    signal="preference",
    data="either",
    reference=False,
)
def judge_position_bias(
    log_prob_first: Float[Tensor, " B"],
    log_prob_second: Float[Tensor, " B"],
    swapped_log_prob_first: Float[Tensor, " B"],
    swapped_log_prob_second: Float[Tensor, " B"],
) -> Float[Tensor, " B"]:
    r"""How much a judge favours the first place: ``( σ(s_1 - s_2) + σ(s'_1 - s'_2) ) / 2 - 1/2``.

    Args:
        log_prob_first: ``s_1``, as in `judge_probability`.
        log_prob_second: ``s_2``.
        swapped_log_prob_first: ``s'_1``.
        swapped_log_prob_second: ``s'_2``.

    Returns:
        A number in [-1/2, 1/2] per pair: above 0 the first place gains, below 0 the second; 0 where both orders agree. Its
        size is half the difference between the two orders' probabilities for the same output.

    Reference:
        Wang et al., "Large language models are not fair evaluators", arXiv 2305.17926, on the bias; the measure is ours.

    Example:
        A judge that always says "the first" has 1/2.
    """
    forward = (log_prob_first - log_prob_second).sigmoid()
    backward = (swapped_log_prob_first - swapped_log_prob_second).sigmoid()
    return (forward + backward) / 2 - 0.5


@objective(
    paper="Lee et al. 2023, arXiv 2309.00267",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=False,
)
def soft_bradley_terry(
    reward_a: Float[Tensor, " B"], reward_b: Float[Tensor, " B"], preference: Float[Tensor, " B"]
) -> Float[Tensor, " B"]:
    r"""Bradley-Terry with a probability for a label: ``L = -p log σ(r_a - r_b) - (1 - p) log σ(r_b - r_a)``.

    Args:
        reward_a: reward of output a.
        reward_b: reward of output b.
        preference: p in [0, 1], the share of judgements, or a judge's probability, that a is better. No gradient. 1 is
            `bradley_terry`; 1/2 is a tie; ``1 - ε`` is a label smoothed by ε.

    Returns:
        The loss of each pair, least at ``r_a - r_b = log( p / (1 - p) )``, where it is the entropy of p.

    Reference:
        Lee et al., "RLAIF vs. RLHF", arXiv 2309.00267, section 2.2.1. An AlpacaFarm preference in [1, 2] is
        ``p = 2 - preference``.

    Example:
        Equal rewards cost ``log 2`` whatever p; ``r_a - r_b = log 3`` and p = 1/2 cost ``(log 4 + log(4/3)) / 2``.
    """
    preference = preference.detach()
    difference = reward_a - reward_b
    return -preference * logsigmoid(difference) - (1 - preference) * logsigmoid(-difference)


@objective(
    paper="Siththaranjan et al. 2023, arXiv 2312.08358",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=False,
)
def gaussian_preference(
    mean_chosen: Float[Tensor, " B"],
    sd_chosen: Float[Tensor, " B"],
    mean_rejected: Float[Tensor, " B"],
    sd_rejected: Float[Tensor, " B"],
    *,
    variance_penalty: float = 0.0,
) -> Float[Tensor, " B"]:
    r"""Distributional preference learning with normal rewards: ``L = -log Φ(z) + c (s_w^2 + s_l^2)``.

    ``z = (m_w - m_l) / sqrt(s_w^2 + s_l^2)``: the probability that a draw of the chosen output's reward is above one of the
    other's. The spread stands for what the annotators differ in and the model does not see.

    Args:
        mean_chosen: ``m_w``, mean reward of the preferred output.
        sd_chosen: ``s_w > 0``, its standard deviation.
        mean_rejected: ``m_l``, mean reward of the other output.
        sd_rejected: ``s_l > 0``, its standard deviation.
        variance_penalty: c >= 0; raising it narrows the rewards. 0 is the paper's code, 0.1 VPL's baseline.

    Returns:
        The loss of each pair, in float32 at least. Means and spreads that grow together leave ``-log Φ`` as it is.

    Raises:
        ValueError: `variance_penalty` is negative.

    Reference:
        Siththaranjan et al., "Distributional preference learning", arXiv 2312.08358, section 4 (mean and variance). Their
        code, and VPL's, have a logistic curve in place of Φ: `logistic_gaussian_preference`.

    Example:
        Equal means cost ``log 2``; ``m_w - m_l = 5`` with spreads 3 and 4 is z = 1, ``-log 0.8413 = 0.1728``.
    """
    check_not_negative("variance_penalty", variance_penalty)
    z, variance = _standardised_difference(mean_chosen, sd_chosen, mean_rejected, sd_rejected)
    log_probability: Tensor = torch.special.log_ndtr(z)
    return variance_penalty * variance - log_probability


@objective(
    paper="Siththaranjan et al. 2023, arXiv 2312.08358",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=False,
)
def logistic_gaussian_preference(
    mean_chosen: Float[Tensor, " B"],
    sd_chosen: Float[Tensor, " B"],
    mean_rejected: Float[Tensor, " B"],
    sd_rejected: Float[Tensor, " B"],
    *,
    scale: float = math.sqrt(2 * math.pi),
    variance_penalty: float = 0.0,
) -> Float[Tensor, " B"]:
    r"""`gaussian_preference` with a logistic curve, as the codes have it: ``L = -log σ(a z) + c (s_w^2 + s_l^2)``.

    Args:
        mean_chosen: ``m_w``, mean reward of the preferred output.
        sd_chosen: ``s_w > 0``, its standard deviation.
        mean_rejected: ``m_l``, mean reward of the other output.
        sd_rejected: ``s_l > 0``, its standard deviation.
        scale: a > 0, the steepness. The codes' ``sqrt(2π) = 2.51`` is steeper than Φ: the slopes at 0 are equal for
            ``sqrt(8/π) = 1.60``, and 1.702 is nearest to Φ everywhere.
        variance_penalty: c >= 0; raising it narrows the rewards. 0 is the paper's code, 0.1 VPL's baseline.

    Returns:
        The loss of each pair, in float32 at least.

    Raises:
        ValueError: `scale` or `variance_penalty` out of range.

    Reference:
        The code of Siththaranjan et al., arXiv 2312.08358 (spreads by softplus), and the baseline of Poddar et al. (VPL),
        arXiv 2408.10075 (spreads by exp of half a log-variance in the loss, but by softplus in the penalty).

    Example:
        Equal means cost ``log 2``; z = 1 costs ``log(1 + e^-2.5066) = 0.0784``.
    """
    check_positive("scale", scale)
    check_not_negative("variance_penalty", variance_penalty)
    z, variance = _standardised_difference(mean_chosen, sd_chosen, mean_rejected, sd_rejected)
    return -logsigmoid(scale * z) + variance_penalty * variance


def _standardised_difference(
    mean_chosen: Tensor, sd_chosen: Tensor, mean_rejected: Tensor, sd_rejected: Tensor
) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(mean_chosen.dtype, torch.float32)
    variance = sd_chosen.to(dtype).square() + sd_rejected.to(dtype).square()
    return (mean_chosen - mean_rejected).to(dtype) / variance.sqrt(), variance


@objective(
    paper="Siththaranjan et al. 2023, arXiv 2312.08358",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=False,
)
def categorical_preference(
    logits_chosen: Float[Tensor, "B C"], logits_rejected: Float[Tensor, "B C"]
) -> Float[Tensor, " B"]:
    r"""Distributional preference learning with rewards on C levels.

    ``L = -log sum_{i, j} p_w(i) p_l(j) ( 1[i > j] + 1[i = j] / 2 )`` with ``p = softmax(logits)``: the probability that a draw
    of the chosen output's reward is above one of the other's, equal draws counting half.

    Args:
        logits_chosen: logits of the preferred output's reward levels, lowest level first.
        logits_rejected: the same of the other output.

    Returns:
        The loss of each pair, >= 0, in float32 at least. Only the order of the levels counts, not their values.

    Reference:
        Siththaranjan et al., arXiv 2312.08358, section 4 (categorical; 10 levels). Their code and VPL's sum probabilities,
        which underflow to an infinite loss where two confident distributions contradict the label; this sums logarithms.
        Both add `reward_entropy_penalty`.

    Example:
        Two levels, chosen (1/4, 3/4), other (1/2, 1/2): ``3/8 + (1/8 + 3/8) / 2 = 5/8``, so ``log(8/5)``.
    """
    dtype = torch.promote_types(logits_chosen.dtype, torch.float32)
    log_chosen = logits_chosen.log_softmax(-1, dtype=dtype)[:, :, None]
    log_rejected = logits_rejected.log_softmax(-1, dtype=dtype)[:, None, :]
    levels = logits_chosen.new_ones(logits_chosen.shape[-1], logits_chosen.shape[-1], dtype=dtype)
    log_win = (levels.tril(-1) + levels.diag().diag() / 2).log()
    return -(log_chosen + log_rejected + log_win).flatten(1).logsumexp(-1)


@objective(
    paper="Siththaranjan et al. 2023, arXiv 2312.08358",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=False,
)
def reward_entropy_penalty(logits: Float[Tensor, "N C"], *, strength: float) -> Float[Tensor, " N"]:
    r"""Penalty that spreads a batch's rewards over the levels: ``c sum_k p_i(k) log p̄(k)`` for output i.

    ``p̄`` is the mean of the distributions ``p_i = softmax(logits_i)`` of the batch, so that the batch's mean of these values
    is ``-c H(p̄)``: least where the batch as a whole uses every level alike. A single output may still be certain.

    Args:
        logits: logits of the reward levels of all outputs of the batch, chosen and rejected ones together.
        strength: c > 0; raising it uses more levels. The codes use 0.1.

    Returns:
        The penalty of each output, in float32 at least. It depends on the other outputs of the batch, and so on how a batch
        is cut into micro-batches; the gradient, through ``p̄`` too, is that of the batch's mean.

    Raises:
        ValueError: `strength` is not positive.

    Reference:
        The ``entropy_coeff`` of Siththaranjan et al.'s code (arXiv 2312.08358), also in VPL's.

    Example:
        Two outputs that are certain of two different levels: ``p̄ = (1/2, 1/2)``, so ``-c log 2`` each.
    """
    check_positive("strength", strength)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    log_prob = logits.log_softmax(-1, dtype=dtype)
    log_mean = log_prob.logsumexp(0) - math.log(max(len(logits), 1))
    return strength * (log_prob.exp() * log_mean).sum(-1)
