"""Objectives on ranked or graded lists: several outputs of one context, with a label each.

Wherever two outputs of a list have equal labels, nobody said which one is better: they contribute no pair, and no
objective here depends on the order in which they stand.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import relu, softplus

from plaudit.objectives.arguments import check_choice, visible
from plaudit.objectives.catalogue import objective

Scaling = Literal["sum", "mean"]


def better(label: Tensor, mask: Tensor | None) -> Tensor:
    """[B, K, K], True at i, j where output i has a higher label than output j, and both count."""
    better = label[:, :, None] > label[:, None, :]
    return better if mask is None else better & mask[:, :, None] & mask[:, None, :]


def _scaled(values: Tensor, counts: Tensor, name: str, how: Scaling) -> Tensor:
    """Sum of a row's values where they count, or the mean over those; 0 for a row where none does."""
    check_choice(name, how, ("sum", "mean"))
    axes = tuple(range(1, values.dim()))
    total = torch.where(counts, values, 0).sum(axes)
    return total if how == "sum" else total / counts.sum(axes).clamp(min=1)


def differences(score: Tensor) -> Tensor:
    """[B, K, K], score i minus score j."""
    return score[:, :, None] - score[:, None, :]


@objective(
    paper="Liu et al. 2024, arXiv 2402.01878",
    feedback="rating",
    signal="label",
    data="off-policy",
    reference=True,
)
def pointwise_squared(
    score: Float[Tensor, "B K"],
    label: Float[Tensor, "B K"],
    mask: Bool[Tensor, "B K"] | None = None,
    *,
    outputs: Scaling = "sum",
) -> Float[Tensor, " B"]:
    r"""LiPO's point-wise regression: each score should be its label, ``L = Σ_i (s_i - ψ_i)²``.

    Args:
        score: ``s_i = β (log π(y_i|x) - log π_ref(y_i|x))``, or the scores of a reward model.
        label: ψ_i, a grade on the scale of the scores; LiPO's are win rates in [0, 1].
        mask: True for the outputs that count; lists may differ in length.
        outputs: ``"sum"`` over the list, or the ``"mean"``, which gives long and short lists the same weight.

    Returns:
        The loss of each list, >= 0; 0 for an empty one.

    Raises:
        ValueError: `outputs` is neither of the two.

    Reference:
        Liu et al., "LiPO: Listwise Preference Optimization through Learning-to-Rank", arXiv 2402.01878, point-wise
        objectives.

    Example:
        Scores (1, 0) and labels (0.5, 0.5) give ``0.25 + 0.25 = 0.5``.
    """
    counts = torch.ones_like(score, dtype=torch.bool) if mask is None else mask
    return _scaled((visible(score, mask) - visible(label, mask).detach()) ** 2, counts, "outputs", outputs)


@objective(
    paper="Liu et al. 2024, arXiv 2402.01878",
    feedback="rating",
    signal="label",
    data="off-policy",
    reference=True,
)
def pointwise_sigmoid(
    score: Float[Tensor, "B K"],
    label: Float[Tensor, "B K"],
    mask: Bool[Tensor, "B K"] | None = None,
    *,
    outputs: Scaling = "sum",
) -> Float[Tensor, " B"]:
    r"""LiPO's point-wise classification: ``L = -Σ_i [ψ_i log σ(s_i) + (1 - ψ_i) log σ(-s_i)]``.

    Args:
        score: ``s_i = β (log π(y_i|x) - log π_ref(y_i|x))``, or the scores of a reward model.
        label: ψ_i in [0, 1], the probability that the output is good. What is outside [0, 1] has no minimum and is not checked.
        mask: True for the outputs that count.
        outputs: ``"sum"`` over the list, or the ``"mean"``.

    Returns:
        The loss of each list; ``log 2`` for each output at ``s = 0``. The best score of an output is ``log(ψ / (1 - ψ))``.

    Raises:
        ValueError: `outputs` is neither of the two.

    Reference:
        Liu et al., "LiPO", arXiv 2402.01878, point-wise objectives.

    Example:
        Score 0 with any label gives ``log 2 = 0.6931``; score ``log 3`` with label 1 gives ``-log(3/4) = 0.2877``.
    """
    counts = torch.ones_like(score, dtype=torch.bool) if mask is None else mask
    s, psi = visible(score, mask), visible(label, mask).detach()
    return _scaled(softplus(s) - psi * s, counts, "outputs", outputs)


@objective(
    paper="Burges et al. 2005; Liu et al. 2024, arXiv 2402.01878",
    feedback="ranking",
    signal="label",
    data="off-policy",
    reference=True,
)
def pair_logistic(
    score: Float[Tensor, "B K"],
    label: Float[Tensor, "B K"],
    mask: Bool[Tensor, "B K"] | None = None,
    *,
    pairs: Scaling = "sum",
) -> Float[Tensor, " B"]:
    r"""RankNet, that is DPO on all pairs of a list: ``L = Σ_{ψ_i > ψ_j} log(1 + exp(-(s_i - s_j)))``.

    Args:
        score: ``s_i = β (log π(y_i|x) - log π_ref(y_i|x))``, or the scores of a reward model.
        label: ψ_i; only its order counts. Equal labels contribute no pair.
        mask: True for the outputs that count.
        pairs: ``"sum"`` over the pairs, as in the paper, or the ``"mean"`` (InstructGPT's reward model, over K(K-1)/2 pairs).
            The sum gives a list a weight of order K².

    Returns:
        The loss of each list, >= 0; 0 for a list without a pair.

    Raises:
        ValueError: `pairs` is neither of the two.

    Reference:
        Liu et al., "LiPO", arXiv 2402.01878, pair-wise objectives; Burges et al., "Learning to rank using gradient descent",
        ICML 2005. With K = 2 it is DPO.

    Example:
        Scores (1, 0, 0) and labels (1, 0, 0): two pairs, ``2 log(1 + e^-1) = 0.6265``.
    """
    difference = differences(visible(score, mask))
    return _scaled(softplus(-difference), better(label, mask), "pairs", pairs)


@objective(
    paper="Zhao et al. 2023, arXiv 2305.10425; Liu et al. 2024, arXiv 2402.01878",
    feedback="ranking",
    signal="label",
    data="off-policy",
    reference=True,
)
def pair_hinge(
    score: Float[Tensor, "B K"],
    label: Float[Tensor, "B K"],
    mask: Bool[Tensor, "B K"] | None = None,
    *,
    pairs: Scaling = "sum",
) -> Float[Tensor, " B"]:
    r"""SLiC's hinge with log-ratios, on all pairs of a list: ``L = Σ_{ψ_i > ψ_j} max(0, 1 - (s_i - s_j))``.

    Args:
        score: ``s_i = β (log π(y_i|x) - log π_ref(y_i|x))``.
        label: ψ_i; only its order counts. Equal labels contribute no pair.
        mask: True for the outputs that count.
        pairs: ``"sum"`` over the pairs, as in the paper, or the ``"mean"``.

    Returns:
        The loss of each list, >= 0; 0 once every pair is ahead by 1, and for a list without a pair.

    Raises:
        ValueError: `pairs` is neither of the two.

    Reference:
        Liu et al., "LiPO", arXiv 2402.01878, pair-wise objectives; Zhao et al., "SLiC-HF", arXiv 2305.10425, has
        log-likelihoods in the place of log-ratios. With K = 2 it is TRL's ``loss_type="hinge"``.

    Example:
        Scores (0.5, 0) and labels (1, 0) give 0.5.
    """
    difference = differences(visible(score, mask))
    return _scaled(relu(1 - difference), better(label, mask), "pairs", pairs)


@objective(
    paper="Xia et al. 2008; Liu et al. 2024, arXiv 2402.01878",
    feedback="ranking",
    signal="label",
    data="off-policy",
    reference=True,
)
def list_mle(
    score: Float[Tensor, "B K"], label: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None
) -> Float[Tensor, " B"]:
    r"""Negative log-likelihood of a ranking under Plackett and Luce.

    ``L = -Σ_i [s_i - log Σ_{j = i or ψ_j < ψ_i} e^{s_j}]``: from the best to the last, each output is chosen over all those
    below it.

    **Ties.** An output competes with itself and with those of a lower label, never with its equals. Without ties this is the
    Plackett-Luce likelihood; with them it keeps what was said (each is better than all lower ones) and adds nothing:
    a list of equal labels has loss 0, and labels (1, 0, ..., 0) give the softmax cross-entropy of the best.

    Args:
        score: ``s_i = β (log π(y_i|x) - log π_ref(y_i|x))``, or the scores of a reward model.
        label: ψ_i; only its order counts.
        mask: True for the outputs that count.

    Returns:
        The loss of each list, >= 0; at equal scores ``log K!`` for a strict ranking of K outputs.

    Reference:
        Xia et al., "Listwise approach to learning to rank", ICML 2008; Liu et al., "LiPO", arXiv 2402.01878, list-wise
        objectives. With K = 2 it is DPO. allRank's ``listMLE`` breaks ties at random, so that its loss is random and pulls
        the scores of tied outputs together; Breslow's rule (all equals in each denominator) pulls them together too.

    Example:
        Equal scores of three outputs in a strict order: ``log 3 + log 2 = log 6 = 1.7918``.
    """
    s = visible(score, mask)
    itself = torch.eye(score.shape[1], dtype=torch.bool, device=score.device)
    competes = better(label, mask) | itself
    denominator = torch.where(competes, s[:, None, :], -torch.inf).logsumexp(-1)
    return (denominator - s).sum(-1)  # a masked output competes with itself only: 0


@objective(
    paper="Cao et al. 2007; Liu et al. 2024, arXiv 2402.01878",
    feedback="rating",
    signal="label",
    data="off-policy",
    reference=True,
)
def list_softmax(
    score: Float[Tensor, "B K"], label: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None
) -> Float[Tensor, " B"]:
    r"""Cross-entropy of the scores' softmax against the normalised labels: ``L = -Σ_i (ψ_i / Σ_j ψ_j) log softmax(s)_i``.

    Args:
        score: ``s_i = β (log π(y_i|x) - log π_ref(y_i|x))``, or the scores of a reward model.
        label: ψ_i >= 0, such as win rates; an output with twice the label should get twice the share.
        mask: True for the outputs that count.

    Returns:
        The loss of each list, least where ``softmax(s) = ψ / Σψ``; 0 where all labels are 0.

    Raises:
        ValueError: a label that counts is negative.

    Reference:
        Liu et al., "LiPO", arXiv 2402.01878, list-wise objectives. ListNet (Cao et al., ICML 2007) takes
        ``softmax(ψ)`` for the target, as allRank's ``listNet`` does; pass ``label.softmax(-1)`` for that.

    Example:
        Equal scores of K outputs give ``log K`` whatever the labels.
    """
    s, psi = visible(score, mask), visible(label, mask).detach()
    if bool((psi < 0).any()):
        raise ValueError(f"label: expected labels >= 0, got {psi.min().item():g}")
    log_share = s if mask is None else torch.where(mask, s, torch.finfo(s.dtype).min)
    log_share = torch.where(psi > 0, log_share.log_softmax(-1), 0)
    total = psi.sum(-1, keepdim=True)
    return -(psi / torch.where(total > 0, total, 1) * log_share).sum(-1)


def _expected_swap(score: Tensor, mask: Tensor | None) -> Tensor:
    r"""[B, K, K]: ``|1/D(r_i) - 1/D(r_j)|`` with ranks r by score, in expectation over the orders of tied scores.

    A block of m equal scores at ranks a + 1, ..., a + m is in a random order: the discount of each is the block's mean; two of
    one block differ by the mean absolute difference within it.
    """
    counts = torch.ones_like(score, dtype=torch.bool) if mask is None else mask
    others = counts[:, None, :]
    above = ((score[:, None, :] > score[:, :, None]) & others).sum(-1)
    size = ((score[:, None, :] == score[:, :, None]) & others).sum(-1).clamp(min=1)
    rank = torch.arange(1, score.shape[1] + 1, dtype=score.dtype, device=score.device)
    discount = 1 / torch.log1p(rank)
    sums = torch.stack([discount, rank * discount]).cumsum(-1)
    first = torch.cat([sums.new_zeros(2, 1), sums], dim=-1)
    last = (above + size).clamp(max=score.shape[1])
    in_block, weighted = (first[:, last] - first[:, last - size]).unbind()
    mean = in_block / size
    # Σ_{p<q} (d_p - d_q) = Σ_p (m + 1 - 2 (p - a)) d_p, over the m (m - 1) / 2 pairs of a block
    inside = ((size + 1 + 2 * above) * in_block - 2 * weighted) * 2 / (size * (size - 1)).clamp(min=1)
    tied = score[:, :, None] == score[:, None, :]
    return torch.where(tied, inside[:, :, None], (mean[:, :, None] - mean[:, None, :]).abs())


@objective(
    paper="Liu et al. 2024, arXiv 2402.01878",
    feedback="rating",
    signal="label",
    data="off-policy",
    reference=True,
)
def lipo_lambda(
    score: Float[Tensor, "B K"],
    label: Float[Tensor, "B K"],
    mask: Bool[Tensor, "B K"] | None = None,
    *,
    pairs: Scaling = "sum",
) -> Float[Tensor, " B"]:
    r"""LiPO-λ: logistic loss on pairs, each weighted by what swapping the two would change in the list's DCG.

    ``L = Σ_{ψ_i > ψ_j} Δ_ij log(1 + exp(-(s_i - s_j)))`` with ``Δ_ij = |G_i - G_j| |1/D(r_i) - 1/D(r_j)|``, gain
    ``G = 2^ψ - 1``, discount ``D(r) = log(1 + r)`` and r_i the rank of output i by its present score (1 is the highest). Δ is a
    constant: no gradient flows through the ranks.

    **Ties.** Outputs of equal score are in a random order, and Δ is the mean over these orders, so that the order in which
    outputs stand does not matter. Average ranks would not do: before the first step all scores are 0, all average ranks are
    equal, Δ is 0, and training would never begin.

    Args:
        score: ``s_i = β (log π(y_i|x) - log π_ref(y_i|x))``; the paper's grid for β is 0.01 to 0.5.
        label: ψ_i, in [0, 1] in the paper (mean win rate under a ranking model). Gains grow exponentially with the label's
            scale: a grade of 10 has a gain of 1023. Equal labels contribute no pair.
        mask: True for the outputs that count.
        pairs: ``"sum"`` over the pairs, as in the paper, or the ``"mean"``.

    Returns:
        The loss of each list, >= 0; 0 for a list without a pair.

    Raises:
        ValueError: `pairs` is neither of the two.

    Reference:
        Liu et al., "LiPO", arXiv 2402.01878, LiPO-λ. How the paper breaks ties: not found; the rule is ours. The
        logarithm is natural; DCG's base 2 multiplies the loss by log 2 = 0.69. allRank's ``lambdaLoss`` divides Δ by the list's
        ideal DCG and sorts ties by index. With two graded outputs Δ is the same for both orders: DPO times a constant.

    Example:
        Scores (1, 0), labels (1, 0): ``Δ = 1/log 2 - 1/log 3 = 0.5325``, ``L = 0.5325 log(1 + e^-1) = 0.1668``.
    """
    s, psi = visible(score, mask), visible(label, mask).detach()
    gain = torch.expm1(psi * math.log(2))
    delta = differences(gain).abs() * _expected_swap(s.detach(), mask)
    return _scaled(delta * softplus(-differences(s)), better(label, mask), "pairs", pairs)
