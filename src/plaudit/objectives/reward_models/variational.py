"""Rewards of people who differ: a latent taste z inferred from a few comparisons of one person, and what to ask next.

D is the size of z; "a set" is the comparisons that one person gave.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from plaudit.objectives.arguments import check_group, check_not_negative, check_positive
from plaudit.objectives.catalogue import objective


@objective(
    role="divergence",
    paper="Poddar et al. 2024, arXiv 2408.10075",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=False,
)
def latent_kl(
    mean: Float[Tensor, "B D"],
    log_variance: Float[Tensor, "B D"],
    prior_mean: Float[Tensor, " D"] | None = None,
    prior_log_variance: Float[Tensor, " D"] | None = None,
    *,
    factor: float = 0.5,
) -> Float[Tensor, " B"]:
    r"""Divergence of a belief about a person's taste from what is believed of everybody: ``KL( q(z|set) || p(z) )``.

    ``f sum_d ( λ_d - l_d + exp(l_d - λ_d) + (μ_d - m_d)^2 exp(-λ_d) - 1 )`` with ``q = N(μ, e^l)`` and ``p = N(m, e^λ)``,
    both with diagonal covariance; ``f = 1/2`` is the divergence.

    Args:
        mean: μ of each set's belief.
        log_variance: l, the logarithm of its variance per dimension.
        prior_mean: m of the prior, which may be learned (gradients flow); None is 0.
        prior_log_variance: λ of the prior, likewise; None is 0.
        factor: f > 0. 1/2 is the formula and VPL's code for language; VPL's code for control leaves the half out (1.0), so
            that its β = 1 is the formula's β = 2.

    Returns:
        The divergence of each set in nats (times ``2 f``), >= 0, in float32 at least.

    Raises:
        ValueError: `factor` is not positive.

    Reference:
        Poddar et al., "Variational preference learning", arXiv 2408.10075, the second term of the objective.

    Example:
        ``q = N(1, 1)`` against ``N(0, 1)`` in one dimension: 1/2.
    """
    check_positive("factor", factor)
    dtype = torch.promote_types(mean.dtype, torch.float32)
    mean, log_variance = mean.to(dtype), log_variance.to(dtype)
    centre = mean.new_zeros(mean.shape[-1]) if prior_mean is None else prior_mean.to(dtype)
    log_width = mean.new_zeros(mean.shape[-1]) if prior_log_variance is None else prior_log_variance.to(dtype)
    log_ratio = log_variance - log_width
    return factor * (log_ratio.expm1() - log_ratio + (mean - centre).square() * (-log_width).exp()).sum(-1)


@objective(
    paper="Poddar et al. 2024, arXiv 2408.10075",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=False,
)
def variational_preference(
    reward_a: Float[Tensor, "B K"],
    reward_b: Float[Tensor, "B K"],
    preference: Float[Tensor, "B K"],
    divergence: Float[Tensor, " B"],
    mask: Bool[Tensor, "B K"] | None = None,
    *,
    beta: float,
) -> Float[Tensor, " B"]:
    r"""Variational preference learning: negative evidence bound of one person's comparisons.

    ``L = - sum_i [ y_i log σ(r_a - r_b) + (1 - y_i) log σ(r_b - r_a) ] + β KL( q(z|set) || p(z) )`` with the rewards
    ``r(s, z)`` at one draw ``z ~ q(z|set)`` per set.

    Args:
        reward_a: reward of output (or segment) a in each of a set's K comparisons, at the set's draw of z.
        reward_b: the same of output b.
        preference: y in [0, 1], 1 where a was preferred. No gradient.
        divergence: the divergence of each set's belief from the prior (`latent_kl`).
        mask: True for the comparisons that exist; None is all.
        beta: β >= 0; raising it pulls beliefs to the prior and z to mean less. VPL's recipes go from 0 to 1 in control and
            use 0 to 1e-4 for language.

    Returns:
        The loss of each set, in float32 at least; longer sets weigh more, as every comparison is evidence.

    Raises:
        ValueError: `beta` is negative.

    Reference:
        Poddar et al., "Personalizing RLHF with variational preference learning", arXiv 2408.10075, the evidence bound. VPL's
        code for control sums over the batch as well; the one for language takes the mean.

    Example:
        Two comparisons with equal rewards and a divergence of 1/2 at β = 1: ``2 log 2 + 1/2``.
    """
    check_not_negative("beta", beta)
    present = torch.ones_like(reward_a, dtype=torch.bool) if mask is None else mask
    dtype = torch.promote_types(reward_a.dtype, torch.float32)
    difference = torch.where(present, reward_a, 0).to(dtype) - torch.where(present, reward_b, 0).to(dtype)
    label = torch.where(present, preference, 0).detach()
    log_likelihood = label * logsigmoid(difference) + (1 - label) * logsigmoid(-difference)
    return -torch.where(present, log_likelihood, 0).sum(-1) + beta * divergence


@objective(
    role="reward",
    paper="Poddar et al. 2024, arXiv 2408.10075; Swamy et al. 2024, arXiv 2401.04056",
    feedback="comparison",
    signal="preference",
    data="either",
    reference=False,
)
def win_rate_reward(reward: Float[Tensor, " N"], rival_reward: Float[Tensor, "N C"]) -> Float[Tensor, " N"]:
    r"""VPL-SPO's reward: the mean probability of being preferred to a set of rivals, ``(1/C) sum_c σ(r - r_c)``.

    Comparisons fix a person's rewards up to a scale and a shift of that person's own; this puts everybody's between 0 and 1.

    Args:
        reward: r(s, z) of each output.
        rival_reward: ``r(s_c, z)`` of C outputs of the data at the same z; VPL draws 1,000.

    Returns:
        A reward in [0, 1] per output, in float32 at least; 1/2 where it is among its equals. VPL's code passes it on as
        ``exp`` of this.

    Raises:
        ValueError: no rivals.

    Reference:
        Poddar et al., arXiv 2408.10075, section on reward scaling, after the self-play preferences of Swamy et al.,
        arXiv 2401.04056.

    Example:
        Reward 0 against rivals ``-log 3`` and 0: ``(3/4 + 1/2) / 2 = 5/8``.
    """
    check_group("rival_reward", rival_reward, at_least=1)
    dtype = torch.promote_types(reward.dtype, torch.float32)
    return (reward[:, None] - rival_reward).to(dtype).sigmoid().mean(-1)


@objective(
    role="statistic",
    paper="Houlsby et al. 2011, arXiv 1112.5745",
    feedback="comparison",
    signal="preference",
    data="either",
    reference=False,
)
def information_gain(logit: Float[Tensor, "B M"]) -> Float[Tensor, " B"]:
    r"""What an answer would tell about z: ``I(y; z) = H( mean_m p_m ) - mean_m H(p_m)`` with ``p_m = σ(r_a - r_b)`` at ``z_m``.

    Ask the comparison where it is largest: one that the possible tastes are each sure of, and answer differently.

    Args:
        logit: ``r_a - r_b`` of each candidate comparison under M draws of z from the current belief.

    Returns:
        The mutual information of each candidate in nats, in [0, log 2], in float32 at least; 0 where z makes no difference.

    Raises:
        ValueError: no draws.

    Reference:
        Houlsby et al., "Bayesian active learning for classification and preference learning" (BALD), arXiv 1112.5745,
        equation 2. VPL's own scores are `variance_gap` and `least_entropy`.

    Example:
        Two tastes that are sure of opposite answers: ``log 2``.
    """
    check_group("logit", logit, at_least=1)
    logit = logit.to(torch.promote_types(logit.dtype, torch.float32))
    log_yes, log_no = logsigmoid(logit), logsigmoid(-logit)
    entropy = -(log_yes.exp() * log_yes + log_no.exp() * log_no).mean(-1)
    mean_yes = log_yes.logsumexp(-1) - math.log(logit.shape[-1])
    mean_no = log_no.logsumexp(-1) - math.log(logit.shape[-1])
    return -(mean_yes.exp() * mean_yes + mean_no.exp() * mean_no) - entropy


@objective(
    role="statistic",
    paper="Poddar et al. 2024, arXiv 2408.10075",
    feedback="comparison",
    signal="preference",
    data="either",
    reference=False,
)
def variance_gap(log_variance: Float[Tensor, "B L D"]) -> Float[Tensor, " B"]:
    r"""The score by which VPL's code picks a set of questions: ``log(2π mean_l sum_d v_ld) - mean_l sum_d log(2π v_ld)``.

    ``v`` is the variance of the belief about z after each of L possible ways to answer the set. In one dimension this is a
    Jensen gap, >= 0, and 0 where all answers leave the same variance. In more dimensions the first term is a logarithm of
    a sum and the second a sum of logarithms: no mutual information, and it may have any sign. `information_gain` is.

    Args:
        log_variance: logarithm of the variance of the belief per candidate set, way to answer, and dimension.

    Returns:
        The score of each candidate set, in float32 at least; VPL asks the set where it is largest.

    Raises:
        ValueError: beliefs without dimensions.

    Reference:
        ``get_information_gain`` in the code of Poddar et al., arXiv 2408.10075 (50 of the 2^N ways to answer). The paper's
        criterion is the information gain itself.

    Example:
        One dimension, variances 1 and 3: ``log 2 - (log 3) / 2``.
    """
    check_group("log_variance", log_variance, at_least=1)
    log_variance = log_variance.to(torch.promote_types(log_variance.dtype, torch.float32))
    ways, two_pi = log_variance.shape[1], math.log(2 * math.pi)
    log_mean = log_variance.flatten(1).logsumexp(-1) - math.log(ways)
    return two_pi + log_mean - (log_variance + two_pi).sum(-1).mean(-1)


@objective(
    role="statistic",
    paper="Poddar et al. 2024, arXiv 2408.10075",
    feedback="comparison",
    signal="preference",
    data="either",
    reference=False,
)
def least_entropy(log_variance: Float[Tensor, "B L D"]) -> Float[Tensor, " B"]:
    r"""How sure one may be of z in the best case: ``min_l H(q_l)``, with ``H = 1/2 sum_d ( 1 + log(2π v_ld) )``.

    Args:
        log_variance: logarithm of the variance of the belief per candidate set, way to answer, and dimension.

    Returns:
        The least entropy of each candidate set in nats, in float32 at least; VPL's option ``posterior`` asks the set where it
        is smallest.

    Raises:
        ValueError: beliefs without dimensions.

    Reference:
        ``get_posterior_entropy`` in the code of Poddar et al., arXiv 2408.10075.

    Example:
        One dimension, variances 1 and 3: ``(1 + log 2π) / 2``.
    """
    check_group("log_variance", log_variance, at_least=1)
    log_variance = log_variance.to(torch.promote_types(log_variance.dtype, torch.float32))
    return (1 + math.log(2 * math.pi) + log_variance).sum(-1).amin(-1) / 2
