"""Rewards from votes: outputs whose final answers agree, without anybody who knows the right one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from plaudit.objectives.arguments import check_group
from plaudit.objectives.catalogue import objective


class Vote(NamedTuple):
    """What a vote came to.

    Attributes:
        reward: 1 for each output whose answer won, else 0.
        winner: the answer that won; -1 where nothing did.
        share: the winner's share of all votes, abstentions counted: the collective's consistency.
    """

    reward: Float[Tensor, "B M K"]
    winner: Int[Tensor, " B"]
    share: Float[Tensor, " B"]


@objective(
    role="statistic",
    paper="Wang et al. 2022, arXiv 2203.11171; Yuan et al. 2025, arXiv 2508.12338",
    feedback="none",
    signal="label",
    data="on-policy",
    reference=False,
)
def self_consistency(answer: Int[Tensor, "B K"]) -> Float[Tensor, " B"]:
    r"""How much a model agrees with itself: ``SC = max_a (1/K) sum_k 1[o_k = a]``, the share of its most frequent answer.

    Args:
        answer: the class of each output's final answer (equal answers, equal numbers); negative where none could be read,
            which is no vote for anything, but counts in K.

    Returns:
        A share in [0, 1] per context, float32; 0 where no answer could be read.

    Raises:
        ValueError: no outputs.

    Reference:
        Wang et al., "Self-consistency improves chain of thought reasoning", arXiv 2203.11171; as a weight in RLCCF, arXiv
        2508.12338 (through a reading note; the paper's body was not to be had).

    Example:
        Answers (4, 4, 7, none) have 1/2.
    """
    check_group("answer", answer, at_least=1)
    equal = (answer[:, :, None] == answer[:, None, :]) & (answer >= 0)[:, :, None]
    return equal.sum(-1).amax(-1).float() / answer.shape[-1]


@objective(
    role="reward",
    paper="Yuan et al. 2025, arXiv 2508.12338; Zuo et al. 2025, arXiv 2504.16084",
    feedback="none",
    signal="label",
    data="on-policy",
    reference=False,
)
def collective_vote(answer: Int[Tensor, "B M K"], weight: Float[Tensor, "B M"] | None = None) -> Vote:
    r"""Reward by the vote of several models: 1 for the outputs that gave the answer with the most weight.

    ``â = argmax_a sum_m w_m sum_k 1[o_mk = a]`` and ``R_mk = 1[o_mk = â]``.

    With one model it is the majority reward of test-time reinforcement learning, whatever the weight.

    Args:
        answer: the class of each output's final answer, K outputs of each of M models; the same number for equal answers of
            all models, negative where none could be read: no vote, and reward 0.
        weight: ``w_m >= 0``, each model's weight in each context, such as its `self_consistency` (RLCCF); None is 1 each.

    Returns:
        `Vote`: the reward of each output, the winner, and its share of the weights. Of answers with equal weight (to 1e-6)
        the one with more votes wins; if these are equal too, or nothing could be read, all rewards are 0 and the winner is
        -1: leave the context out.

    Raises:
        ValueError: no outputs.

    Reference:
        RLCCF, "Wisdom of the crowd", arXiv 2508.12338 (through a reading note; its rule for ties and its exact collective
        consistency were not found and are ours); TTRL, arXiv 2504.16084, is M = 1.

    Example:
        Two models with answers (1, 1) and (2, 3) and weights 1 and 1/2: answer 1 wins with a share of ``2/3``.
    """
    check_group("answer", answer, at_least=1)
    flat = answer.flatten(1)
    equal = (flat[:, :, None] == flat[:, None, :]) & (flat >= 0)[:, :, None]
    count = (
        equal.view(*equal.shape[:2], *answer.shape[1:]).sum(-1).double()
    )  # [B, M K, M]: each model's votes for an answer
    weights = count.new_ones(answer.shape[:2]) if weight is None else weight.detach().double()
    support, votes = (count * weights[:, None, :]).sum(-1), count.sum(-1)
    leads = (support > 0) & (support >= support.amax(-1, keepdim=True) * (1 - 1e-6))
    leads &= votes == torch.where(leads, votes, 0).amax(-1, keepdim=True)
    lowest = torch.where(leads, flat, torch.iinfo(flat.dtype).max).amin(-1)
    decided = leads.any(-1) & (lowest == torch.where(leads, flat, -1).amax(-1))
    winner = torch.where(decided, lowest, -1)
    won = (flat == winner[:, None]) & decided[:, None]
    total = weights.sum(-1) * answer.shape[-1]
    share = torch.where(won, support, 0).amax(-1) / torch.where(total > 0, total, 1)
    return Vote(won.float().view(answer.shape), winner, share.float())
