"""Preferences between segments of behaviour, learned by the policy itself: contrastive preference learning (CPL)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from plaudit.objectives.arguments import check_choice, check_not_negative, check_positive, masked_mean, widened
from plaudit.objectives.catalogue import objective


def check_bias(bias: float) -> None:
    """Raise unless λ is in (0, 1]."""
    if not 0 < bias <= 1:
        raise ValueError(f"bias: expected a number in (0, 1], got {bias}")


def check_discount(discount: float) -> None:
    """Raise unless γ is in (0, 1]."""
    if not 0 < discount <= 1:
        raise ValueError(f"discount: expected a number in (0, 1], got {discount}")


def discounted_sum(per_step: Tensor, mask: Tensor, discount: float) -> Tensor:
    """``Σ_t γ^t x_t`` over the last axis, where t counts the steps that `mask` keeps."""
    per_step = torch.where(mask, widened(per_step), 0)
    if discount == 1:
        return per_step.sum(-1)
    elapsed = (mask.cumsum(-1) - 1).clamp(min=0).to(per_step.dtype)
    return (per_step * discount**elapsed).sum(-1)


def biased_preference_loss(
    advantage_chosen: Tensor, advantage_rejected: Tensor, tie: Tensor | None, bias: float
) -> Tensor:
    """``-log σ(A_w - λ A_l)``, and its mean over both orders where the source saw a tie."""
    loss = -logsigmoid(advantage_chosen - bias * advantage_rejected)
    if tie is None:
        return loss
    other_way = -logsigmoid(advantage_rejected - bias * advantage_chosen)
    return torch.where(tie, (loss + other_way) / 2, loss)


@objective(
    paper="Hejna et al. 2024, arXiv 2310.13639",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=False,
    modalities=("control",),
)
def cpl(
    token_log_prob_chosen: Float[Tensor, "B T"],
    mask_chosen: Bool[Tensor, "B T"],
    token_log_prob_rejected: Float[Tensor, "B S"],
    mask_rejected: Bool[Tensor, "B S"],
    tie: Bool[Tensor, " B"] | None = None,
    *,
    beta: float = 0.1,
    discount: float = 1.0,
    bias: float = 1.0,
) -> Float[Tensor, " B"]:
    r"""Contrastive preference learning: logistic loss on the segments' discounted sums of action log-probabilities.

    ``L = -log σ(A_w - λ A_l)`` with ``A = Σ_t γ^t β log π(a_t|s_t)``. People are taken to prefer the segment of less
    regret; in maximum-entropy control the regret of a step is minus ``β log π*``, so that the policy itself is the
    preference model, and no reward or value is learned.

    Args:
        token_log_prob_chosen: log-probability (or log-density) of each action of the preferred segment.
        mask_chosen: True for the steps of the preferred segment.
        token_log_prob_rejected: the same of the other segment, which may have another length.
        mask_rejected: True for the steps of the other segment.
        tie: True where the source saw no difference; the loss is the mean over both orders.
        beta: > 0, the entropy's temperature (the paper's α): the pull to the uniform policy.
        discount: γ in (0, 1]. The paper's equation has it; its code sums without.
        bias: λ in (0, 1], the conservative regulariser. Below 1, the shared scale of the two segments no longer cancels: of two
            policies with the same difference, the likelier segments win, which keeps the policy on the log's support.

    Returns:
        The loss of each pair, >= 0.

    Raises:
        ValueError: a setting outside its range.

    Reference:
        Hejna et al., "Contrastive preference learning", arXiv 2310.13639, equations 5 and 6 (the bias). The official code
        (jhejna/cpl, ``biased_bce_with_logits``) agrees at γ = 1, ties included; its experiments have α = 0.1, λ = 0.5, or λ = 1
        with `cpl_bc`. Without ties, one step and λ = 1 it is DPO with a uniform reference.

    Example:
        Probabilities (1/2, 1/2) against (1/4), β = γ = 1: both sums are ``-2 log 2``, the loss is ``log 2``; with λ = 1/2
        ``A_w - A_l/2 = -log 2``, ``log 3``.
    """
    check_positive("beta", beta)
    check_discount(discount)
    check_bias(bias)
    chosen = beta * discounted_sum(token_log_prob_chosen, mask_chosen, discount)
    rejected = beta * discounted_sum(token_log_prob_rejected, mask_rejected, discount)
    return biased_preference_loss(chosen, rejected, tie, bias)


@objective(
    paper="Hejna et al. 2024, arXiv 2310.13639",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=True,
    modalities=("control",),
)
def cpl_kl(
    token_log_ratio_chosen: Float[Tensor, "B T"],
    mask_chosen: Bool[Tensor, "B T"],
    token_log_ratio_rejected: Float[Tensor, "B S"],
    mask_rejected: Bool[Tensor, "B S"],
    tie: Bool[Tensor, " B"] | None = None,
    *,
    beta: float = 0.1,
    discount: float = 1.0,
    bias: float = 1.0,
) -> Float[Tensor, " B"]:
    r"""CPL with a pull to a reference: `cpl` on ``log π(a_t|s_t) - log π_ref(a_t|s_t)`` in place of ``log π(a_t|s_t)``.

    The maximum-entropy problem becomes one with a penalty of β KL to the reference, mostly the clone of the log's behaviour.

    Args:
        token_log_ratio_chosen: log-ratio of each action of the preferred segment.
        mask_chosen: True for the steps of the preferred segment.
        token_log_ratio_rejected: the same of the other segment.
        mask_rejected: True for the steps of the other segment.
        tie: True where the source saw no difference.
        beta: > 0, the pull to the reference (the paper's α).
        discount: γ in (0, 1].
        bias: λ in (0, 1], as in `cpl`.

    Returns:
        The loss of each pair, >= 0. Without ties, and with γ = λ = 1, it is DPO.

    Raises:
        ValueError: a setting outside its range.

    Reference:
        Hejna et al., arXiv 2310.13639, appendix (CPL-KL); ``cpl_kl.py`` in the official code, where the reference is the clone
        that the first steps of training made.

    Example:
        One step each, log-ratios 1 and -1, β = 1/2: ``log(1 + e^-1) = 0.3133``.
    """
    return cpl(
        token_log_ratio_chosen,
        mask_chosen,
        token_log_ratio_rejected,
        mask_rejected,
        tie,
        beta=beta,
        discount=discount,
        bias=bias,
    )


@objective(
    paper="Hejna et al. 2024, arXiv 2310.13639",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=False,
    modalities=("control",),
)
def cpl_bc(
    token_log_prob_chosen: Float[Tensor, "B T"],
    mask_chosen: Bool[Tensor, "B T"],
    token_log_prob_rejected: Float[Tensor, "B S"],
    mask_rejected: Bool[Tensor, "B S"],
    tie: Bool[Tensor, " B"] | None = None,
    *,
    cloning_weight: float = 1.0,
    cloned: Literal["both", "chosen"] = "both",
    beta: float = 0.1,
    discount: float = 1.0,
    bias: float = 1.0,
) -> Float[Tensor, " B"]:
    r"""CPL with behaviour cloning beside it: `cpl` + ``c`` times the mean of ``-log π(a_t|s_t)`` over the segments' steps.

    Args:
        token_log_prob_chosen: log-probability of each action of the preferred segment.
        mask_chosen: True for the steps of the preferred segment.
        token_log_prob_rejected: the same of the other segment.
        mask_rejected: True for the steps of the other segment.
        tie: True where the source saw no difference; both segments are then cloned.
        cloning_weight: c >= 0; raising it keeps the policy nearer to the log. 0 is `cpl`.
        cloned: imitate ``"both"`` segments (the experiments' setting) or only the ``"chosen"`` one.
        beta: > 0, as in `cpl`.
        discount: γ in (0, 1], as in `cpl`; the cloning is not discounted.
        bias: λ in (0, 1], as in `cpl`; the experiments with cloning have 1.

    Returns:
        The loss of each pair.

    Raises:
        ValueError: a setting outside its range.

    Reference:
        Hejna et al., arXiv 2310.13639, appendix (CPL-BC); ``bc_coeff`` and ``bc_data`` in the official code, whose mean goes
        over the batch's steps: the same for segments of equal length, which it has.

    Example:
        One step each of probability 1/2, β = 1, c = 1: ``log 2 + log 2``.
    """
    check_not_negative("cloning_weight", cloning_weight)
    check_choice("cloned", cloned, ("both", "chosen"))
    loss = cpl(
        token_log_prob_chosen,
        mask_chosen,
        token_log_prob_rejected,
        mask_rejected,
        tie,
        beta=beta,
        discount=discount,
        bias=bias,
    )
    if cloned == "chosen":
        other = mask_rejected & (torch.zeros_like(mask_rejected) if tie is None else tie[:, None])
    else:
        other = mask_rejected
    log_prob = torch.cat([token_log_prob_chosen, token_log_prob_rejected], -1)
    return loss - cloning_weight * masked_mean(log_prob, torch.cat([mask_chosen, other], -1))


@objective(
    paper="Hejna et al. 2024, arXiv 2310.13639",
    feedback="ranking",
    signal="preference",
    data="off-policy",
    reference=False,
    modalities=("control",),
)
def cpl_ranked(
    token_log_prob: Float[Tensor, "B K T"],
    mask: Bool[Tensor, "B K T"],
    score: Float[Tensor, "B K"],
    *,
    beta: float = 0.1,
    discount: float = 1.0,
    bias: float = 1.0,
) -> Float[Tensor, " B"]:
    r"""CPL on all comparisons among K rated segments: the mean of `cpl` over the pairs with different scores.

    Args:
        token_log_prob: log-probability of each action of each segment.
        mask: True for the steps that a segment has. A segment without steps is taken as absent.
        score: how good the source found a segment; only its order is read.
        beta: > 0, as in `cpl`.
        discount: γ in (0, 1].
        bias: λ in (0, 1].

    Returns:
        The loss of each group; 0 where no two segments have different scores.

    Raises:
        ValueError: a setting outside its range.

    Reference:
        Hejna et al., arXiv 2310.13639, the dense experiments; ``biased_bce_with_scores`` in the official code takes a batch as
        one group, and breaks equal scores by their position, where ours leaves the pair out.

    Example:
        Three one-step segments of probability 1/2 with scores (0, 1, 2), β = 1: three pairs, each ``log 2``.
    """
    check_positive("beta", beta)
    check_discount(discount)
    check_bias(bias)
    advantage = beta * discounted_sum(token_log_prob, mask, discount)
    present = mask.any(-1)
    better = (score[:, :, None] > score[:, None, :]) & present[:, :, None] & present[:, None, :]
    pair = -logsigmoid(advantage[:, :, None] - bias * advantage[:, None, :])
    return masked_mean(pair, better, (-2, -1))
