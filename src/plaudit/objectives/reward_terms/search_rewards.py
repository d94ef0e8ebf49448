"""Rewards from a search engine: did the expansions of a query find more that is relevant, and not the same things twice?

A row is one output: E expansions, each with the items that the engine returned, marked in a pool of I items (everything that
the query or an expansion returned, and everything judged relevant). LESER's abstract names relevance, coverage and rules; no
formula of the paper was found, so the formulas are ours.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.objectives.arguments import check_not_negative, check_positive, masked_mean
from plaudit.objectives.catalogue import objective

LESER = "Zhang et al. 2025, arXiv 2509.05570"


def _visible(retrieved: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """What the expansions that exist returned, and which of them exist."""
    exists = retrieved.new_ones(retrieved.shape[:-1]) if mask is None else mask
    return retrieved & exists[..., None], exists


@objective(
    role="reward",
    paper=LESER,
    feedback="verdict",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("retrieval",),
)
def search_precision(
    retrieved: Bool[Tensor, "B E I"],
    relevant: Bool[Tensor, "B I"],
    mask: Bool[Tensor, "B E"] | None = None,
    *,
    depth: int,
) -> Float[Tensor, " B"]:
    r"""Relevance of an output's expansions: the mean of their precisions, ``(1/E) Σ_e |R_e ∩ Rel| / K``.

    Args:
        retrieved: True for the items in the first K results of each expansion.
        relevant: True for the items relevant to the query, by judgements, purchases or a cross-encoder.
        mask: True for the expansions that exist; None counts all.
        depth: K >= 1; an expansion that returns fewer pays for the empty places.

    Returns:
        A reward in [0, 1] for each output; 0 without expansions.

    Raises:
        ValueError: `depth` is below 1.

    Reference:
        LESER, arXiv 2509.05570, whose abstract names relevance; the formula is ours.

    Example:
        K = 2; two expansions return (relevant, irrelevant) and (relevant): both have 1/2.
    """
    check_positive("depth", depth)
    found, exists = _visible(retrieved, mask)
    precision = (found & relevant[:, None]).sum(-1) / depth
    return masked_mean(precision, exists)


@objective(
    role="reward",
    paper=LESER,
    feedback="verdict",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("retrieval",),
)
def search_coverage(
    retrieved: Bool[Tensor, "B E I"],
    relevant: Bool[Tensor, "B I"],
    original: Bool[Tensor, "B I"],
    mask: Bool[Tensor, "B E"] | None = None,
) -> Float[Tensor, " B"]:
    r"""Share of the relevant items that the query or one of its expansions found: ``|Rel ∩ (R_0 ∪ R_1 ∪ ...)| / |Rel|``.

    Relevant items only: coverage cannot be bought with irrelevant expansions.

    Args:
        retrieved: True for the results of each expansion.
        relevant: True for the relevant items.
        original: ``R_0``, True for the results of the query itself.
        mask: True for the expansions that exist; None counts all.

    Returns:
        A reward in [0, 1] for each output; 0 where nothing is relevant.

    Reference:
        LESER, arXiv 2509.05570, whose abstract names coverage; the formula is ours.

    Example:
        Three relevant items, one found by the query and another by an expansion: 2/3.
    """
    found, _ = _visible(retrieved, mask)
    covered = (found.any(1) | original) & relevant
    return covered.sum(-1) / relevant.sum(-1).clamp(min=1)


@objective(
    role="reward",
    paper=LESER,
    feedback="verdict",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("retrieval",),
)
def search_novelty(
    retrieved: Bool[Tensor, "B E I"],
    relevant: Bool[Tensor, "B I"],
    original: Bool[Tensor, "B I"],
    mask: Bool[Tensor, "B E"] | None = None,
    *,
    depth: int,
) -> Float[Tensor, " B"]:
    r"""Coverage where not all relevant items are known: ``min(1, |(R_1 ∪ R_2 ∪ ...) ∩ Rel \ R_0| / K)``.

    Args:
        retrieved: True for the results of each expansion.
        relevant: True for the items found relevant among what was returned.
        original: ``R_0``, True for the results of the query itself.
        mask: True for the expansions that exist; None counts all.
        depth: K >= 1, how many new relevant items earn the whole reward.

    Returns:
        A reward in [0, 1] for each output.

    Raises:
        ValueError: `depth` is below 1.

    Reference:
        Ours, for LESER (arXiv 2509.05570) on catalogues without judgements.

    Example:
        K = 4, one new relevant item: 1/4.
    """
    check_positive("depth", depth)
    found, _ = _visible(retrieved, mask)
    new = found.any(1) & relevant & ~original
    return (new.sum(-1) / depth).clamp(max=1)


@objective(
    role="reward",
    paper=LESER,
    feedback="verdict",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("retrieval",),
)
def search_intent_coverage(
    retrieved: Bool[Tensor, "B E I"],
    intents: Bool[Tensor, "B M I"],
    mask: Bool[Tensor, "B E"] | None = None,
) -> Float[Tensor, " B"]:
    r"""Share of a query's intents for which some expansion found something: ``(1/M) Σ_m 1[(R_1 ∪ R_2 ∪ ...) ∩ Rel_m ≠ ∅]``.

    Args:
        retrieved: True for the results of each expansion.
        intents: True for the items relevant to each intent (or category); an intent without items does not count.
        mask: True for the expansions that exist; None counts all.

    Returns:
        A reward in [0, 1] for each output; 0 where no intent has items.

    Reference:
        Intent (sub-topic) recall of the diversity literature, for LESER (arXiv 2509.05570); ours.

    Example:
        Two intents with items, one of them found: 1/2.
    """
    found, _ = _visible(retrieved, mask)
    hit = (found.any(1)[:, None] & intents).any(-1)
    return hit.sum(-1) / intents.any(-1).sum(-1).clamp(min=1)


@objective(
    role="statistic",
    paper=LESER,
    feedback="verdict",
    signal="cost",
    data="on-policy",
    reference=False,
    modalities=("retrieval",),
)
def search_redundancy(retrieved: Bool[Tensor, "B E I"], mask: Bool[Tensor, "B E"] | None = None) -> Float[Tensor, " B"]:
    r"""How much expansions return the same: the mean Jaccard index ``|R_e ∩ R_f| / |R_e ∪ R_f|`` over their pairs.

    Args:
        retrieved: True for the results of each expansion.
        mask: True for the expansions that exist; None counts all.

    Returns:
        A cost in [0, 1] for each output; 0 with fewer than two expansions, and between two that return nothing.

    Reference:
        Ours, for LESER (arXiv 2509.05570), whose abstract asks for diversity.

    Example:
        Results {1, 2} and {2, 3}: 1/3.
    """
    found, exists = _visible(retrieved, mask)
    both = (found[:, :, None] & found[:, None]).sum(-1)
    either = (found[:, :, None] | found[:, None]).sum(-1)
    pairs = (exists[:, :, None] & exists[:, None]).triu(1)
    jaccard = both / either.clamp(min=1)
    return masked_mean(jaccard, pairs, dim=(-2, -1))


@objective(
    role="reward",
    paper=LESER,
    feedback="verdict",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("retrieval",),
)
def leser_reward(
    relevance: Float[Tensor, " B"],
    coverage: Float[Tensor, " B"],
    redundancy: Float[Tensor, " B"],
    format_share: Float[Tensor, " B"],
    keeps_rules: Bool[Tensor, " B"],
    *,
    relevance_weight: float = 1.0,
    coverage_weight: float = 1.0,
    redundancy_weight: float = 0.2,
    format_weight: float = 0.1,
) -> Float[Tensor, " B"]:
    r"""Reward of a query's expansions: ``r = g (w_r rel + w_c cov - w_d red) + w_f f``; broken rules leave the last term only.

    Args:
        relevance: from `search_precision`, in [0, 1]; not read where a rule is broken, as nothing was searched then.
        coverage: from `search_coverage`, `search_novelty` or `search_intent_coverage`, in [0, 1]; not read either.
        redundancy: from `search_redundancy`, in [0, 1]; not read either.
        format_share: f in [0, 1], the share of the rules that the output keeps.
        keeps_rules: g, True where the output keeps them all.
        relevance_weight: w_r >= 0; alone it rewards repeating the query.
        coverage_weight: w_c >= 0; alone it draws to popular categories.
        redundancy_weight: w_d >= 0; raising it asks for more different results.
        format_weight: w_f >= 0, so that outputs which break rules still differ.

    Returns:
        The reward of each output.

    Raises:
        ValueError: a weight is negative.

    Reference:
        Ours, in keeping with the abstract of LESER (arXiv 2509.05570). A search that timed out is no reward of 0: leave the
        output out.

    Example:
        rel 0.5, cov 0.4, red 0.1, f = 1, all rules kept: ``0.5 + 0.4 - 0.02 + 0.1 = 0.98``; one rule of five broken: 0.08.
    """
    check_not_negative("relevance_weight", relevance_weight)
    check_not_negative("coverage_weight", coverage_weight)
    check_not_negative("redundancy_weight", redundancy_weight)
    check_not_negative("format_weight", format_weight)
    found = relevance_weight * relevance + coverage_weight * coverage - redundancy_weight * redundancy
    return torch.where(keeps_rules, found, 0) + format_weight * format_share
