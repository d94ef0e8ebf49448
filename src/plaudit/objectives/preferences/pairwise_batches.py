"""DPO that looks beyond its pair: at the other pairs' order, or at how likely the policy itself is to write such outputs."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.objectives.arguments import check_positive, masked_mean
from plaudit.objectives.catalogue import objective
from plaudit.objectives.preferences.pairwise import dpo


def _same_rank(values: Tensor, of: Tensor) -> Tensor:
    """For each entry of `of`, the entry of `values` that has the same rank."""
    return values.sort().values[of.argsort(stable=True).argsort()]


@objective(
    paper="Melnyk et al. 2024, arXiv 2406.05882",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=True,
)
def aot_paired(
    log_prob_chosen: Float[Tensor, " B"],
    log_prob_rejected: Float[Tensor, " B"],
    ref_log_prob_chosen: Float[Tensor, " B"],
    ref_log_prob_rejected: Float[Tensor, " B"],
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> Float[Tensor, " B"]:
    r"""Alignment by optimal transport, paired: the policy's margins, in order, are to exceed the reference's, in order.

    ``L_i = l(β (m_(i) - m_ref(i)))`` with the margins ``m = log π(y_w|x) - log π(y_l|x)``, sorted over the batch, and l the
    (smoothed) logistic loss of `dpo`: the distribution of margins is to dominate the reference's, whichever pair each comes
    from.

    Args:
        log_prob_chosen: ``log π(y_w|x)``, summed over the steps.
        log_prob_rejected: ``log π(y_l|x)``.
        ref_log_prob_chosen: ``log π_ref(y_w|x)``; no gradient.
        ref_log_prob_rejected: ``log π_ref(y_l|x)``; no gradient.
        beta: > 0, strength of the pull to the reference.
        label_smoothing: as in `dpo`.

    Returns:
        The loss of each pair's margin against the reference's margin of the same rank, in the order of the pairs. It depends
        on which pairs are in the batch; with one pair it is `dpo`.

    Raises:
        ValueError: beta or label_smoothing outside its range.

    Reference:
        Melnyk et al., "Distributional preference alignment of LLMs via optimal transport", arXiv 2406.05882, for
        paired data. TRL's ``loss_type="aot"``, called ``aot_pair`` before; it returns the losses in the order of the ranks.

    Example:
        Margins (2, 0) and the reference's (0, 1) at β = 1: 2 meets 1 and 0 meets 0, losses 0.3133 and ``log 2``.
    """
    margin = log_prob_chosen - log_prob_rejected
    ref_margin = (ref_log_prob_chosen - ref_log_prob_rejected).detach()
    return dpo(margin, _same_rank(ref_margin, of=margin), beta=beta, label_smoothing=label_smoothing)


@objective(
    paper="Melnyk et al. 2024, arXiv 2406.05882",
    feedback="reaction",
    signal="preference",
    data="off-policy",
    reference=True,
)
def aot_unpaired(
    log_ratio_chosen: Float[Tensor, " B"],
    log_ratio_rejected: Float[Tensor, " B"],
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> Float[Tensor, " B"]:
    r"""Alignment by optimal transport, unpaired: good outputs' log-ratios, in order, are to exceed bad ones', in order.

    ``L_i = l(β (u_w(i) - u_l(i)))`` with both sides sorted over the batch and l the (smoothed) logistic loss of `dpo`. The
    good and the bad outputs need not answer the same contexts.

    Args:
        log_ratio_chosen: ``u_w``, log-ratios of good outputs, summed over their steps.
        log_ratio_rejected: ``u_l``, log-ratios of as many bad outputs.
        beta: > 0, strength of the pull to the reference.
        label_smoothing: as in `dpo`.

    Returns:
        The loss of each good output against the bad output of the same rank, in the order of the good ones. It depends on
        which outputs are in the batch; with one of each it is `dpo`.

    Raises:
        ValueError: beta or label_smoothing outside its range.

    Reference:
        Melnyk et al., "Distributional preference alignment of LLMs via optimal transport", arXiv 2406.05882, for
        unpaired data. TRL's ``loss_type="aot_unpaired"``, called ``aot`` before; it returns the losses in the order of the
        ranks.

    Example:
        Good (2, 0) and bad (0, 1) at β = 1: 2 meets 1 and 0 meets 0, losses 0.3133 and ``log 2``.
    """
    matched = _same_rank(log_ratio_rejected, of=log_ratio_chosen)
    return dpo(log_ratio_chosen, matched, beta=beta, label_smoothing=label_smoothing)


@objective(
    role="weight",
    paper="Zhou et al. 2024, arXiv 2406.11827",
    feedback="any",
    signal="none",
    data="off-policy",
    reference=False,
)
def wpo_weight(
    token_log_prob: Float[Tensor, "N T"],
    token_log_collision: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
) -> Float[Tensor, " N"]:
    r"""How much an output looks like the policy's own: near 1 where it was as good as sampled from it, less where not.

    ``w = exp(mean over steps of log π(y_t) - log sum_v π(v)^2)``: a step's probability over the one that a step sampled from
    the policy has on average ("sampled alignment").

    Args:
        token_log_prob: ``log π(y_t|x, y_<t)`` of each step.
        token_log_collision: ``log sum_v π(v|x, y_<t)^2``, the log-probability that two draws of the step agree.
        mask: True at the output's own steps.

    Returns:
        The weight of each output, > 0, in float32 at least and without a gradient; above 1 where it took the policy's
        likeliest steps. 1 for an output without steps.

    Reference:
        Zhou et al., "WPO: enhancing RLHF with weighted preference optimization", arXiv 2406.11827, equation 2.
        TRL's ``use_weighting``. The paper's other variant, greedy alignment, has ``max_v π(v)`` in place of the sum.

    Example:
        Steps of probability 0.5 and 0.25 where two draws agree with probability 0.5: ``sqrt(1 * 0.5) = 0.7071``.
    """
    return masked_mean(token_log_prob - token_log_collision, mask).exp().detach()


@objective(
    paper="Zhou et al. 2024, arXiv 2406.11827",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=True,
)
def wpo(
    log_ratio_chosen: Float[Tensor, " B"],
    log_ratio_rejected: Float[Tensor, " B"],
    weight_chosen: Float[Tensor, " B"],
    weight_rejected: Float[Tensor, " B"],
    *,
    beta: float,
    largest_weight: float | None = None,
) -> Float[Tensor, " B"]:
    r"""Weighted preference optimisation: DPO, a pair counting by how likely the policy is to write both outputs.

    ``L = -w_w w_l log σ(h)`` with ``h`` as in `dpo`: off-policy pairs stand in for on-policy ones.

    Args:
        log_ratio_chosen: log-ratio of the preferred output, summed over its steps.
        log_ratio_rejected: the same of the other output.
        weight_chosen: ``w_w``, `wpo_weight` of the preferred output; no gradient.
        weight_rejected: ``w_l``, the same of the other output; no gradient.
        beta: > 0, strength of the pull to the reference.
        largest_weight: > 0, cut of the product of weights; None, the paper's, does not cut.

    Returns:
        The loss of each pair, >= 0.

    Raises:
        ValueError: beta or largest_weight is not positive.

    Reference:
        Zhou et al., "WPO: enhancing RLHF with weighted preference optimization", arXiv 2406.11827, equation 2. TRL does not cut
        either; the authors' code cuts the product at 1.

    Example:
        Weights 0.5 and 0.8 and ``h = 1``: ``0.4 * 0.3133 = 0.1253``.
    """
    weight = (weight_chosen * weight_rejected).detach()
    if largest_weight is not None:
        check_positive("largest_weight", largest_weight)
        weight = weight.clamp(max=largest_weight)
    return weight * dpo(log_ratio_chosen, log_ratio_rejected, beta=beta)
