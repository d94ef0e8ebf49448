"""Objectives on pairs that also hold each output by itself against the reference, not only the difference of the two."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from plaudit.objectives.arguments import check_not_negative, check_positive
from plaudit.objectives.catalogue import objective


@objective(
    paper="Chen et al. 2024, arXiv 2402.05369",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=True,
)
def nca(
    log_ratio_chosen: Float[Tensor, " B"],
    log_ratio_rejected: Float[Tensor, " B"],
    *,
    beta: float,
) -> Float[Tensor, " B"]:
    r"""Noise contrastive alignment of a pair: tells the preferred output from noise drawn from either one.

    ``L = -log σ(r_w) - 0.5 log σ(-r_w) - 0.5 log σ(-r_l)`` with the implicit rewards ``r = β u``. The second term holds
    the preferred output's reward finite, at ``log 2`` where alone, so that its likelihood does not fall as under `dpo`.

    Args:
        log_ratio_chosen: ``u_w``, log-ratio of the preferred output, summed over its steps.
        log_ratio_rejected: ``u_l``, the same of the other output.
        beta: > 0, strength of the pull to the reference (the paper's α).

    Returns:
        The loss of each pair, > 0; ``2 log 2`` where the policy is the reference.

    Raises:
        ValueError: beta is not positive.

    Reference:
        Chen et al., "Noise contrastive alignment of language models with explicit rewards", arXiv 2402.05369, the NCA loss
        with K = 2 and a reward that prefers one output surely. TRL's ``loss_type="nca_pair"``.

    Example:
        ``r_w = 1`` and ``r_l = -1``: ``0.3133 + 0.5 * 1.3133 + 0.5 * 0.3133 = 1.1266``.
    """
    check_positive("beta", beta)
    reward_chosen, reward_rejected = beta * log_ratio_chosen, beta * log_ratio_rejected
    noise = 0.5 * (logsigmoid(-reward_chosen) + logsigmoid(-reward_rejected))
    return -logsigmoid(reward_chosen) - noise


@objective(
    paper="Jung et al. 2024, arXiv 2404.04656",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=True,
)
def bco_pair(
    log_ratio_chosen: Float[Tensor, " B"],
    log_ratio_rejected: Float[Tensor, " B"],
    *,
    beta: float,
) -> Float[Tensor, " B"]:
    r"""Binary classifier optimisation on a pair, without a shift: ``L = -log σ(β u_w) - log σ(-β u_l)``.

    Args:
        log_ratio_chosen: ``u_w``, log-ratio of the preferred output, summed over its steps.
        log_ratio_rejected: ``u_l``, the same of the other output.
        beta: > 0, strength of the pull to the reference.

    Returns:
        The loss of each pair, > 0; ``2 log 2`` where the policy is the reference.

    Raises:
        ValueError: beta is not positive.

    Reference:
        Jung et al., "Binary classifier optimization for large language model alignment", arXiv 2404.04656, theorem 1: an
        upper bound of `dpo`. The paper then shifts both rewards (`bco`, on single outputs). TRL's ``loss_type="bco_pair"``
        has no shift; older versions of it and their copies in other libraries subtract a running mean.

    Example:
        Implicit rewards 1 and -1: ``2 log(1 + e^-1) = 0.6265``.
    """
    check_positive("beta", beta)
    return -logsigmoid(beta * log_ratio_chosen) - logsigmoid(-beta * log_ratio_rejected)


@objective(
    paper="D'Oosterlinck et al. 2024, arXiv 2408.06266",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=True,
)
def apo_zero(
    log_ratio_chosen: Float[Tensor, " B"],
    log_ratio_rejected: Float[Tensor, " B"],
    *,
    beta: float,
) -> Float[Tensor, " B"]:
    r"""Anchored preference optimisation for outputs better than the policy's: chosen up, rejected down, both from 0.

    ``L = 1 - σ(r_w) + σ(r_l)`` with the implicit rewards ``r = β u``.

    Args:
        log_ratio_chosen: ``u_w``, log-ratio of the preferred output, summed over its steps.
        log_ratio_rejected: ``u_l``, the same of the other output.
        beta: > 0, strength of the pull to the reference; rewards saturate a few ``1 / β`` away from it.

    Returns:
        The loss of each pair in (0, 2); 1 where the policy is the reference.

    Raises:
        ValueError: beta is not positive.

    Reference:
        D'Oosterlinck et al., "Anchored preference optimization and contrastive revisions", arXiv 2408.06266, equation 7
        (as TRL counts). TRL's ``loss_type="apo_zero"``; the 1 only keeps the loss positive. It is `kto` with ``z0 = 0`` on
        the pair's two outputs, as one number.

    Example:
        Implicit rewards ``log 3`` and ``-log 3``: ``0.25 + 0.25 = 0.5``.
    """
    check_positive("beta", beta)
    return torch.sigmoid(-beta * log_ratio_chosen) + torch.sigmoid(beta * log_ratio_rejected)


@objective(
    paper="D'Oosterlinck et al. 2024, arXiv 2408.06266",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=True,
)
def apo_down(
    log_ratio_chosen: Float[Tensor, " B"],
    log_ratio_rejected: Float[Tensor, " B"],
    *,
    beta: float,
) -> Float[Tensor, " B"]:
    r"""Anchored preference optimisation for outputs worse than the policy's: both down, the rejected one more.

    ``L = σ(r_w) + 1 - σ(r_w - r_l)`` with the implicit rewards ``r = β u``.

    Args:
        log_ratio_chosen: ``u_w``, log-ratio of the preferred output, summed over its steps.
        log_ratio_rejected: ``u_l``, the same of the other output.
        beta: > 0, strength of the pull to the reference; rewards saturate a few ``1 / β`` away from it.

    Returns:
        The loss of each pair in (0, 2); 1 where the policy is the reference, and there without a pull on the chosen output.

    Raises:
        ValueError: beta is not positive.

    Reference:
        D'Oosterlinck et al., "Anchored preference optimization and contrastive revisions", arXiv 2408.06266, equation 8
        (as TRL counts). TRL's ``loss_type="apo_down"``; the 1 only keeps the loss positive.

    Example:
        Implicit rewards ``-log 3`` and ``-2 log 3``: ``0.25 + 0.25 = 0.5``.
    """
    check_positive("beta", beta)
    return torch.sigmoid(beta * log_ratio_chosen) + torch.sigmoid(-beta * (log_ratio_chosen - log_ratio_rejected))


@objective(
    paper="Wu et al. 2024, arXiv 2405.00675",
    feedback="comparison",
    signal="preference",
    data="on-policy",
    reference=True,
)
def sppo_hard(
    log_ratio_chosen: Float[Tensor, " B"],
    log_ratio_rejected: Float[Tensor, " B"],
    *,
    beta: float,
) -> Float[Tensor, " B"]:
    r"""Self-play preference optimisation with hard wins: each log-ratio is drawn to its own target.

    ``L = (u_w - 1/(2β))^2 + (u_l + 1/(2β))^2``: the paper's target for an output that wins with probability P against the
    policy is ``(P - 1/2) / β``, and here P is 1 for the preferred output and 0 for the other.

    Args:
        log_ratio_chosen: ``u_w``, log-ratio of the preferred output to the last iteration's policy, summed over its steps.
        log_ratio_rejected: ``u_l``, the same of the other output.
        beta: > 0, strength of the pull to the reference (the paper's ``1 / η``); raising it makes the step smaller.

    Returns:
        The loss of each pair, >= 0; ``1 / (2β^2)`` where the policy is the reference.

    Raises:
        ValueError: beta is not positive.

    Reference:
        Wu et al., "Self-play preference optimization for language model alignment", arXiv 2405.00675, equation 4.7 with
        hard probabilities. TRL's ``loss_type="sppo_hard"``.

    Example:
        Log-ratios 1 and 0 at β = 0.5: ``0^2 + 1^2 = 1``.
    """
    check_positive("beta", beta)
    target = 1 / (2 * beta)
    return (log_ratio_chosen - target) ** 2 + (log_ratio_rejected + target) ** 2


@objective(
    paper="Pal et al. 2024, arXiv 2402.13228",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=True,
)
def dpop(
    log_ratio_chosen: Float[Tensor, " B"],
    log_ratio_rejected: Float[Tensor, " B"],
    *,
    beta: float,
    penalty: float = 50.0,
) -> Float[Tensor, " B"]:
    r"""DPO-positive: DPO that is not satisfied while the preferred output is less likely than under the reference.

    ``L = -log σ(β (u_w - u_l - λ max(0, -u_w)))``.

    Args:
        log_ratio_chosen: ``u_w``, log-ratio of the preferred output, summed over its steps.
        log_ratio_rejected: ``u_l``, the same of the other output.
        beta: > 0, strength of the pull to the reference.
        penalty: λ >= 0; 0 is `dpo`. Raising it keeps the preferred output's likelihood up, at the cost of the gap.

    Returns:
        The loss of each pair, >= 0; that of `dpo` where ``u_w >= 0``.

    Raises:
        ValueError: beta or penalty outside its range.

    Reference:
        Pal et al., "Smaug: fixing failure modes of preference optimisation with DPO-positive", arXiv 2402.13228, equation 3.
        50 is the default of PaddleNLP and of other public code (what the paper took was not found). Not in TRL.

    Example:
        Log-ratios -1 and -4 at β = 1 and λ = 2: ``-log σ(-1 + 4 - 2) = 0.3133``.
    """
    check_positive("beta", beta)
    check_not_negative("penalty", penalty)
    shortfall = torch.relu(-log_ratio_chosen)
    return -logsigmoid(beta * (log_ratio_chosen - log_ratio_rejected - penalty * shortfall))
