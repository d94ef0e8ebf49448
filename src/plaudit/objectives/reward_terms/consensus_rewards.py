"""Rewards without a verifier: outputs that give the answer of the many. Answers are class numbers, -1 for none.

Whoever extracts answers decides what is equal: "1/2" and "0.5" must be one class, or the vote splits. An output without an
answer has no vote and reward 0, and a group that cannot decide is not judged.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plaudit.objectives.arguments import check_group, widened
from plaudit.objectives.catalogue import objective


class Consensus(NamedTuple):
    """1 for the outputs that gave the winning answer, and whether there was one: a tie, or no vote at all, decides nothing."""

    reward: Float[Tensor, "B K"]
    decided: Bool[Tensor, " B"]


class CollectiveConsensus(NamedTuple):
    """The same for the outputs of several models."""

    reward: Float[Tensor, "B G K"]
    decided: Bool[Tensor, " B"]


@objective(
    role="reward",
    paper="Zuo et al. 2025, arXiv 2504.16084",
    feedback="none",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("text",),
)
def majority_reward(answer: Int[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None) -> Consensus:
    r"""TTRL's majority reward: ``R_k = 1[o_k = argmax_a Σ_j 1[o_j = a]]``.

    Args:
        answer: class of each output's final answer; -1 if it has none.
        mask: False where an output does not count.

    Returns:
        1 for the outputs with the most frequent answer, 0 for the others; where answers tie for the first place nothing is
        decided, and all rewards are 0.

    Reference:
        Zuo et al., "TTRL", arXiv 2504.16084. Its official code lets the answer that came first win a tie, which makes
        the reward depend on the order of the samples, and lets the word "None" win where there is no answer.

    Example:
        Answers (7, 3, 7, none): rewards (1, 0, 1, 0). Answers (7, 3): not decided.
    """
    votes = _votes(_alike(answer, mask))
    winner, decided = _winner(votes, votes > 0, _alike(answer, mask))
    return Consensus(winner.float(), decided)


@objective(
    role="reward",
    paper="Tang et al. 2025, arXiv 2507.15024",
    feedback="critique",
    signal="reward",
    data="either",
    reference=False,
    modalities=("text",),
)
def filtered_majority_reward(
    answer: Int[Tensor, "B K"], accepted: Bool[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None
) -> Consensus:
    r"""Majority of the outputs that a critic let through; of all, if it let none through.

    Args:
        answer: class of each output's final answer; -1 if it has none.
        accepted: False where the critic called the output wrong.
        mask: False where an output does not count.

    Returns:
        1 for every output that gave the winning answer, accepted or not, and whether there was one.

    Reference:
        Tang et al., "RefCritic", arXiv 2507.15024 (majority voting over filtered solutions); that all vote if none is
        left is ours.

    Example:
        Answers (7, 7, 3) of which only the last is accepted: (0, 0, 1).
    """
    alike = _alike(answer, mask)
    present = alike.diagonal(dim1=-2, dim2=-1)
    voters = present & accepted
    voters = torch.where(voters.any(-1, keepdim=True), voters, present)
    votes = (alike & voters[:, None]).sum(-1)
    winner, decided = _winner(votes, votes > 0, alike)
    return Consensus(winner.float(), decided)


@objective(
    role="reward",
    paper="Dai et al. 2025, arXiv 2505.12768 (rule: ours)",
    feedback="verdict",
    signal="reward",
    data="either",
    reference=False,
    modalities=("text",),
)
def scored_majority_reward(
    answer: Int[Tensor, "B K"], score: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None
) -> Consensus:
    r"""Majority in which a tie goes to the answer whose outputs have the higher mean score.

    Args:
        answer: class of each output's answer, such as its query's result; -1 if it has none.
        score: what decides a tie, such as the mean log-probability. Not read where there is no answer. No gradient.
        mask: False where an output does not count.

    Returns:
        1 for the outputs that gave the winning answer; not decided where the mean scores are equal, too.

    Reference:
        plaudit's vote over the leaves of ReEx-SQL's trees (arXiv 2505.12768; the paper's was not found; ours).

    Example:
        Answers (7, 3) with scores (-1, -2): (1, 0).
    """
    alike = _alike(answer, mask)
    votes = _votes(alike)
    known = widened(torch.where(alike.diagonal(dim1=-2, dim2=-1), score, 0)).detach().double()
    mean = (alike * known[:, None]).sum(-1) / votes.clamp(min=1)
    most_votes = (votes > 0) & _is_highest(votes.double(), votes > 0)
    winner, decided = _winner(mean, most_votes, alike)
    return Consensus(winner.float(), decided)


@objective(
    role="reward",
    paper="Zhang et al. 2025, arXiv 2504.05812",
    feedback="none",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("text",),
)
def agreement_reward(answer: Int[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None) -> Float[Tensor, "B K"]:
    r"""The share of the group that gives the same answer: ``R_k = 1/K Σ_j 1[o_j = o_k]``; a vote without a winner.

    Ties need no rule. Its mean over the group is ``Σ_a p(a)²``, so raising it sharpens the distribution of answers, right or
    wrong: stop before it collapses.

    Args:
        answer: class of each output's final answer; -1 if it has none, which earns 0 but counts in K.
        mask: False where an output does not count.

    Returns:
        The reward in [0, 1], 0 where masked.

    Reference:
        Zhang et al., "EMPO", arXiv 2504.05812: it minimises the entropy over meaning clusters; that its reward is the
        cluster's share is from memory.

    Example:
        Answers (7, 3, 7, none): (1/2, 1/4, 1/2, 0).
    """
    alike = _alike(answer, mask)
    size = torch.full_like(answer[:, :1], answer.shape[-1]) if mask is None else mask.sum(-1, keepdim=True)
    return _votes(alike).float() / size.clamp(min=1)


@objective(
    role="statistic",
    paper="Yuan et al. 2025, arXiv 2508.12338",
    feedback="none",
    signal="none",
    data="on-policy",
    reference=False,
    modalities=("text",),
)
def self_consistency(answer: Int[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None) -> Float[Tensor, " B"]:
    r"""How much one model agrees with itself: ``SC = max_a 1/K Σ_k 1[o_k = a]``.

    Args:
        answer: class of each output's final answer; -1 if it has none, which counts in K but is no answer.
        mask: False where an output does not count.

    Returns:
        The share in [0, 1]; 0 without any answer.

    Raises:
        ValueError: groups without any place for an output.

    Reference:
        Yuan et al., "RLCCF", arXiv 2508.12338 (the weight of a model's votes).

    Example:
        Answers (7, 3, 7, none): 1/2.
    """
    check_group("answer", answer, at_least=1)
    size = torch.full_like(answer[:, 0], answer.shape[-1]) if mask is None else mask.sum(-1)
    return _votes(_alike(answer, mask)).amax(-1).float() / size.clamp(min=1)


@objective(
    role="reward",
    paper="Yuan et al. 2025, arXiv 2508.12338",
    feedback="none",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("text",),
)
def rlccf_reward(answer: Int[Tensor, "B G K"], mask: Bool[Tensor, "B G K"] | None = None) -> CollectiveConsensus:
    r"""RLCCF's collective vote: ``R_gk = 1[o_gk = argmax_a Σ_g SC_g Σ_k 1[o_gk = a]]``, models weighted by self-consistency.

    Each of G models takes its own row of the reward for its own update. With one model the weight cancels: `majority_reward`.

    Args:
        answer: class of each output's final answer, the same classes for all models; -1 if it has none.
        mask: False where an output does not count.

    Returns:
        1 for the outputs with the winning answer. A tie goes to the answer that was given more often; if that ties,
        too, nothing is decided and all rewards are 0: leave the context out.

    Raises:
        ValueError: groups without any place for an output.

    Reference:
        Yuan et al., "Wisdom of the Crowd" (RLCCF), arXiv 2508.12338. Its rule for ties was not found; this one is ours.

    Example:
        Model 1 says (7, 7, 7), model 2 (3, 3, 5): ``1 · 3`` against ``2/3 · 2``: 7 wins.
    """
    flat, counts, vote, alike = _collective_votes(answer, mask)
    winner, decided = _winner(counts, (counts > 0) & _is_highest(vote, counts > 0), alike)
    return CollectiveConsensus(winner.float().reshape(answer.shape), decided & (flat >= 0).any(-1))


@objective(
    role="statistic",
    paper="Yuan et al. 2025, arXiv 2508.12338",
    feedback="none",
    signal="none",
    data="on-policy",
    reference=False,
    modalities=("text",),
)
def collective_consistency(
    answer: Int[Tensor, "B G K"], mask: Bool[Tensor, "B G K"] | None = None
) -> Float[Tensor, " B"]:
    r"""How united several models are: the winner's share of the weighted votes, ``CC = Σ_g SC_g n_g(â) / Σ_g SC_g K_g``.

    Training on `rlccf_reward` raises it. Where it rises while the labels on a few questions with known answers get worse, the
    models agree on errors: stop.

    Args:
        answer: as in `rlccf_reward`.
        mask: False where an output does not count.

    Returns:
        The share in [0, 1]; ties do not matter to it. 0 without any answer.

    Raises:
        ValueError: groups without any place for an output.

    Reference:
        Yuan et al., arXiv 2508.12338, maximises it; its exact definition was not found, and this one is ours.

    Example:
        Model 1 says (7, 7, 7), model 2 (3, 3, 5): ``3 / (1 · 3 + 2/3 · 3) = 3/5``.
    """
    _, _, vote, _ = _collective_votes(answer, mask)
    size = torch.full_like(answer[..., 0], answer.shape[-1]) if mask is None else mask.sum(-1)
    everything = (_model_weights(answer, mask) * size).sum(-1)
    return (vote.amax(-1) / torch.where(everything > 0, everything, 1)).float()


def _alike(answer: Tensor, mask: Tensor | None) -> Tensor:
    """[B, K, K]: True where two outputs that count gave one answer; the diagonal says who gave one at all."""
    present = answer >= 0 if mask is None else (answer >= 0) & mask
    return (answer[..., :, None] == answer[..., None, :]) & present[..., :, None] & present[..., None, :]


def _votes(alike: Tensor) -> Tensor:
    """How many outputs share each output's answer, itself included."""
    return alike.sum(-1)


def _is_highest(value: Tensor, candidate: Tensor) -> Tensor:
    """True where a candidate has the highest value of its row, up to rounding."""
    if not value.shape[-1]:
        return candidate
    highest = torch.where(candidate, value, -torch.inf).amax(-1, keepdim=True)
    return candidate & (value >= highest - 1e-9 * highest.abs().clamp(min=1))


def _winner(value: Tensor, candidate: Tensor, alike: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs of the one answer with the highest value among the candidates; none where two answers have it."""
    first = _is_highest(value.double(), candidate)
    rivals = first[:, :, None] & first[:, None] & ~alike
    decided = first.any(-1) & ~rivals.any((-2, -1))
    return first & decided[:, None], decided


def _model_weights(answer: Tensor, mask: Tensor | None) -> Tensor:
    """Self-consistency of each model, [B, G]."""
    check_group("answer", answer, at_least=1)
    size = torch.full_like(answer[..., 0], answer.shape[-1]) if mask is None else mask.sum(-1)
    return _votes(_alike(answer, mask)).amax(-1).double() / size.clamp(min=1)


def _collective_votes(answer: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All models' answers in a row, how often each was given, its weighted votes, and which are alike."""
    models, outputs = answer.shape[1:]
    present = answer >= 0 if mask is None else (answer >= 0) & mask
    flat = torch.where(present, answer, -1).reshape(len(answer), models * outputs)
    alike = _alike(flat, None)
    weight = _model_weights(answer, mask)[..., None].expand(answer.shape).reshape(flat.shape)
    return flat, _votes(alike), (alike * weight[:, None]).sum(-1), alike
