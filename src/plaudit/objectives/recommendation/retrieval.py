"""Objectives for retrieval: generated document identifiers, and lists judged as a whole by what a user did with the answer."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from plaudit.objectives.arguments import check_choice, check_not_negative, check_positive
from plaudit.objectives.catalogue import objective

ItemReduction = Literal["mean", "sum"]


def _sum_tokens(token_log_prob: Tensor, mask: Tensor) -> Tensor:
    dtype = torch.promote_types(token_log_prob.dtype, torch.float32)
    return torch.where(mask, token_log_prob, 0).sum(-1, dtype=dtype)


@objective(
    paper="Mekonnen et al. 2025, arXiv 2504.05181",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=True,
    modalities=("retrieval",),
)
def ddro(
    token_log_prob_chosen: Float[Tensor, "B T"],
    ref_token_log_prob_chosen: Float[Tensor, "B T"],
    mask_chosen: Bool[Tensor, "B T"],
    token_log_prob_rejected: Float[Tensor, "B U"],
    ref_token_log_prob_rejected: Float[Tensor, "B U"],
    mask_rejected: Bool[Tensor, "B U"],
    *,
    beta: float = 0.4,
    likelihood_weight: float = 0.0,
) -> Float[Tensor, " B"]:
    r"""Direct document relevance optimisation: DPO on the tokens of a relevant and an irrelevant document's identifier.

    ``L = -log σ(β [log π(d⁺|q) - log π_ref(d⁺|q)] - β [log π(d⁻|q) - log π_ref(d⁻|q)]) - c log π(d⁺|q)``, with
    ``log π(d|q) = Σ_t log π(d_t | d_<t, q)`` over the whole vocabulary, under teacher forcing.

    Args:
        token_log_prob_chosen: ``log π(d⁺_t | d⁺_<t, q)``, nats, <= 0; the end token counts where identifiers differ in length.
        ref_token_log_prob_chosen: the same under the frozen model of the supervised stage; constant.
        mask_chosen: True for the tokens of d⁺.
        token_log_prob_rejected: the same of d⁻, a document that BM25 found and nobody judged relevant.
        ref_token_log_prob_rejected: the same under the frozen model; constant.
        mask_rejected: True for the tokens of d⁻.
        beta: > 0, strength of the pull to the reference; 0.4 in the official code.
        likelihood_weight: c >= 0; raising it keeps ``log π(d⁺)`` from falling along with ``log π(d⁻)``. 0 is the paper's.

    Returns:
        The loss of each pair, >= 0; ``log 2`` at c = 0 where the policy is the reference.

    Raises:
        ValueError: `beta` is not positive or `likelihood_weight` negative.

    Reference:
        Mekonnen et al., "Lightweight and Direct Document Relevance Optimization for Generative Information Retrieval",
        arXiv 2504.05181; equation number not found. The official code calls TRL 0.11's ``DPOTrainer`` on encoder-decoder
        batches, whose sum over tokens this is. The likelihood term is ours (as RPO's); the supervised stage's loss is
        `negative_log_likelihood`.

    Example:
        Log-ratios (1/2, 1/2) of d⁺'s tokens, -1 of d⁻'s only token, β = 0.5: ``h = 1`` and ``log(1 + e^-1) = 0.3133``.
    """
    check_positive("beta", beta)
    check_not_negative("likelihood_weight", likelihood_weight)
    chosen = _sum_tokens(token_log_prob_chosen - ref_token_log_prob_chosen.detach(), mask_chosen)
    rejected = _sum_tokens(token_log_prob_rejected - ref_token_log_prob_rejected.detach(), mask_rejected)
    loss = -logsigmoid(beta * (chosen - rejected))
    if likelihood_weight == 0:
        return loss
    return loss - likelihood_weight * _sum_tokens(token_log_prob_chosen, mask_chosen)


@objective(
    role="statistic",
    paper="Mekonnen et al. 2025, arXiv 2504.05181",
    feedback="any",
    signal="none",
    data="either",
    reference=False,
    modalities=("retrieval",),
)
def constrained_token_log_prob(
    logits: Float[Tensor, "N T V"],
    token: Int[Tensor, "N T"],
    allowed: Bool[Tensor, "N T V"],
    mask: Bool[Tensor, "N T"],
) -> Float[Tensor, "N T"]:
    r"""Log-probability of an identifier's tokens among those that valid identifiers allow: ``log softmax_allowed(logits)_t``.

    What constrained decoding samples from: the identifiers of a catalogue have probabilities that add up to 1. Its negative,
    aggregated, is a likelihood that spends nothing on strings that are no identifier.

    Args:
        logits: the decoder's scores of the whole vocabulary at each step.
        token: the identifier's tokens.
        allowed: True for the children of the trie's node that the tokens before lead to.
        mask: True for the identifier's tokens; nothing else is read at the other steps.

    Returns:
        The log-probability of each token, <= 0, in float32 at least; 0 where `mask` is False.

    Raises:
        ValueError: a token of an identifier is not allowed at its step.

    Reference:
        Constrained beam search of the official code of arXiv 2504.05181 (``prefix_allowed_tokens_fn``), renormalised over the
        trie's children (ours; transformers ranks beams by full-vocabulary log-probabilities).

    Example:
        Logits (0, 0, 5) with the first two tokens allowed: ``-log 2`` for each of these.
    """
    index = torch.where(mask, token, 0).long()[..., None]
    if not bool((allowed.gather(-1, index).squeeze(-1) | ~mask).all()):
        raise ValueError("allowed: expected every token of an identifier to be allowed at its step")
    open_steps = allowed | ~mask[..., None]  # masked steps stay finite; their values are dropped below
    dtype = torch.promote_types(logits.dtype, torch.float32)
    scores = torch.where(mask[..., None] & allowed, logits, 0).to(dtype)
    log_prob = scores.masked_fill(~open_steps, -torch.inf).log_softmax(-1)
    return torch.where(mask, log_prob.gather(-1, index).squeeze(-1), 0)


@objective(
    paper="Buyl et al. 2023, arXiv 2306.05808",
    feedback="reaction",
    signal="gain",
    data="off-policy",
    reference=False,
    modalities=("rankings", "retrieval"),
)
def rankformer_listwise(
    score: Float[Tensor, "B K"],
    gain: Float[Tensor, "B K"],
    mask: Bool[Tensor, "B K"] | None = None,
    *,
    item_reduction: ItemReduction = "mean",
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    r"""RankFormer's listwise loss: ``-(1/n) Σ_i y_i log softmax(s)_i`` over the n items of a list.

    Args:
        score: ``s_i`` of each item.
        gain: ``y_i >= 0``, graded relevance or clicks; constant.
        mask: True for the items that exist; None counts all.
        item_reduction: ``"mean"`` over a list's items, as the official code; ``"sum"`` drops the factor 1/n, so that a long
            list does not count less for one relevant item.

    Returns:
        (value, weight) per list. A list without any gain has value 0 and weight 0, as the official code drops it from the
        batch's mean ``sum(weight * value) / sum(weight)``; the other weights are 1.

    Raises:
        ValueError: an unknown reduction.

    Reference:
        Buyl, Missault and Sondag, "RankFormer: Listwise Learning-to-Rank Using Listwide Labels", arXiv 2306.05808; formula of
        the official ``loss.py``. It drops every list whose loss is exactly 0, so also one with a single item.

    Example:
        Equal scores and gains (1, 0): ``(log 2) / 2`` with weight 1.
    """
    check_choice("item_reduction", item_reduction, ("mean", "sum"))
    visible = torch.ones_like(score, dtype=torch.bool) if mask is None else mask
    dtype = torch.promote_types(score.dtype, torch.float32)
    present = visible.any(-1)
    scores = torch.where(visible, score, 0).to(dtype).masked_fill(~visible & present[:, None], -torch.inf)
    log_share = torch.where(visible, scores.log_softmax(-1), 0)
    gains = torch.where(visible, gain.detach(), 0).to(dtype)
    loss = -(gains * log_share).sum(-1)
    weight = (gains.sum(-1) > 0).to(dtype)
    return (loss / visible.sum(-1).clamp(min=1) if item_reduction == "mean" else loss), weight


@objective(
    paper="Buyl et al. 2023, arXiv 2306.05808; Cheng et al. 2008, arXiv 0704.1028",
    feedback="reaction",
    signal="label",
    data="off-policy",
    reference=False,
    modalities=("rankings", "retrieval"),
)
def listwide_ordinal(list_logit: Float[Tensor, "B L"], level: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    r"""Ordinal regression on one label for a whole list: ``(1/L) Σ_c BCE(g_c, 1[t > c])``, c = 0 ... L-1.

    Args:
        list_logit: ``g_c``, logits of "the label is above c"; L logits make L + 1 levels.
        level: ``t`` in 0 ... L, as for an assistant's answers disliked 0, regenerated 1, no reaction 2, copied 3.

    Returns:
        The loss of each list, >= 0.

    Raises:
        ValueError: a level outside 0 ... L.

    Reference:
        Cheng, Wang and Pollastri, "A Neural Network Approach to Ordinal Regression", arXiv 0704.1028; RankFormer
        (arXiv 2306.05808), official ``OrdinalLoss``, whose t is the list's largest gain. Pistis-RAG (arXiv 2407.00072) has
        such labels from copy, regenerate and dislike; the mapping to levels is ours.

    Example:
        Logits (0, 0, 0): ``log 2`` at every level.
    """
    levels = list_logit.shape[-1]
    if bool(((level < 0) | (level > levels)).any()):
        raise ValueError(f"level: expected whole numbers in 0 ... {levels}")
    dtype = torch.promote_types(list_logit.dtype, torch.float32)
    above = level[:, None] > torch.arange(levels, device=level.device)
    return binary_cross_entropy_with_logits(list_logit.to(dtype), above.to(dtype), reduction="none").mean(-1)


@objective(
    role="reward",
    paper="Buyl et al. 2023, arXiv 2306.05808",
    feedback="reaction",
    signal="label",
    data="either",
    reference=False,
    modalities=("rankings", "retrieval"),
)
def list_quality(list_logit: Float[Tensor, "B L"]) -> Float[Tensor, " B"]:
    r"""Expected level of a list under its ordinal logits: ``E[t] = Σ_c P(t > c) = Σ_c σ(g_c)``.

    Two lists of one context are compared by it (`bradley_terry`: a copied answer's list above the regenerated one before), and
    orders of one set are searched by it.

    Args:
        list_logit: ``g_c``, as in `listwide_ordinal`.

    Returns:
        A number in [0, L] for each list; up is better.

    Reference:
        Ours, on the logits of arXiv 2306.05808; the tail-sum formula of an expectation.

    Example:
        Logits (0, 0, 0): 3/2.
    """
    dtype = torch.promote_types(list_logit.dtype, torch.float32)
    return torch.sigmoid(list_logit.to(dtype)).sum(-1)


@objective(
    paper="Bai et al. 2024, arXiv 2407.00072",
    feedback="reaction",
    signal="label",
    data="off-policy",
    reference=False,
    modalities=("retrieval",),
)
def pistis_alignment(
    score: Float[Tensor, "B K"],
    gain: Float[Tensor, "B K"],
    list_logit: Float[Tensor, "B L"],
    level: Int[Tensor, " B"],
    mask: Bool[Tensor, "B K"] | None = None,
    *,
    listwide_weight: float = 0.1,
    item_reduction: ItemReduction = "mean",
) -> Float[Tensor, " B"]:
    r"""Alignment of a context ranker with what users did with the answers: ``L = L_list + α L_wide``.

    `rankformer_listwise` on the items that are known to be relevant, plus `listwide_ordinal` on the reaction to the answer. A
    list whose items nobody judged still learns from its label.

    Args:
        score: score of each item of the context.
        gain: ``y_i >= 0``; all 0 where only the list was judged; constant.
        list_logit: logits of the list's levels.
        level: the list's label in 0 ... L.
        mask: True for the items that exist; None counts all.
        listwide_weight: α >= 0; raising it listens more to reactions and less to relevance. 0.1 is RankFormer's default, 1 its
            example's.
        item_reduction: as in `rankformer_listwise`.

    Returns:
        The loss of each list, >= 0.

    Raises:
        ValueError: α is negative, an unknown reduction, or a level outside 0 ... L.

    Reference:
        Pistis-RAG, arXiv 2407.00072; its equations were not readable, that it uses RankFormer's loss is our reading. The
        official RankFormer takes the mean of ``L_list`` over the lists with a gain and of ``L_wide`` over all; per list, as
        here, a list without gains contributes 0 to a mean over all. Use the two parts where that matters. RankFormer's paper
        balances the scales of the two, its code does not: the paper's α of 0.25 is about 1 here, says its README.

    Example:
        Equal scores, gains (1, 0), one level logit 0, α = 1: ``(log 2)/2 + log 2``.
    """
    check_not_negative("listwide_weight", listwide_weight)
    listwise, _ = rankformer_listwise(score, gain, mask, item_reduction=item_reduction)
    return listwise + listwide_weight * listwide_ordinal(list_logit, level)
