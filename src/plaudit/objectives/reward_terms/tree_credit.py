"""Credit from trees of outputs: values found by search become rewards of steps, and leaves share the credit of a prefix."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plaudit.objectives.arguments import check_choice, check_share, widened
from plaudit.objectives.catalogue import objective


class JudgedGroup(NamedTuple):
    """Rewards of groups, and which of them are real."""

    reward: Float[Tensor, "B K"]
    judged: Bool[Tensor, "B K"]


class SharedCredit(NamedTuple):
    """An advantage for each token of each leaf, and the share of its prefix that the leaf holds."""

    advantage: Float[Tensor, "B K T"]
    weight: Float[Tensor, "B K T"]


@objective(
    role="reward",
    paper="Jiang et al. 2025, arXiv 2511.10279",
    feedback="verdict",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("text", "images"),
)
def propa_step_reward(
    total: Float[Tensor, "B K"], visits: Int[Tensor, "B K"], *, unvisited: Literal["mask", "zero"] = "mask"
) -> JudgedGroup:
    r"""PROPA's reward of the steps sampled at one node: ``boost(W / N)`` with ``boost(x) = log(1 + 10 x) / log 11``.

    The boost lifts small values, 0.1 to 0.29: a step that led to success once is set apart from one that never did, and so
    is the noise of rarely visited steps. The siblings [B, K] are one group for `grpo_advantage`.

    Args:
        total: W, the sum of the rewards backed up through each child, between 0 and its number of visits.
        visits: N, how often each child was visited; `total` is not read where it is 0.
        unvisited: ``"mask"`` says that a child which was never tried is not judged; ``"zero"`` is the official code, which
            takes "not simulated" for "bad". The paper simulates every child, and then there is no difference.

    Returns:
        The reward in [0, 1], and which children it is known of.

    Raises:
        ValueError: `unvisited` is another word.

    Reference:
        Jiang et al., "PROPA", arXiv 2511.10279, and its official code. Which of its equations it is: not found.

    Example:
        ``W / N`` of 0, 1/10 and 1: 0, ``log 2 / log 11 = 0.289`` and 1.
    """
    check_choice("unvisited", unvisited, ("mask", "zero"))
    visited = visits > 0
    mean = widened(torch.where(visited, total, 0)) / visits.clamp(min=1)
    boosted = torch.where((mean > 0) & (mean < 1), torch.log1p(10 * mean.clamp(0, 1)) / math.log(11), mean)
    return JudgedGroup(boosted, visited if unvisited == "mask" else torch.ones_like(visited))


@objective(
    role="advantage",
    paper="Hou et al. 2025, arXiv 2506.11902",
    feedback="verdict",
    signal="advantage",
    data="on-policy",
    reference=False,
)
def tree_step_advantage(
    value: Float[Tensor, "B M"], parent: Int[Tensor, "B M"], mask: Bool[Tensor, "B M"]
) -> Float[Tensor, "B M"]:
    r"""What a step adds to the value of its tree's node: ``A(n) = V(n) - V(parent(n))``.

    Along a path the credits telescope: from the root to a leaf they sum to ``R_leaf - V(root)``, the advantage of the outcome.

    Args:
        value: V of each of M nodes: the mean reward of the leaves below it, or ``W / N``; a leaf's own reward. No gradient.
        parent: number of each node's parent, 0 to M - 1; -1 for a root.
        mask: False where there is no node, or where it was never visited; such a node's own credit is 0, and so is that
            of its children.

    Returns:
        The advantage of the step that leads to each node, without gradient; 0 for a root.

    Raises:
        ValueError: a parent's number that is none of the M.

    Reference:
        Hou et al., "TreeRL", arXiv 2506.11902, equation 3, the local advantage. Among siblings of equally many leaves it is
        the centred value, the numerator of PROPA's group advantage (arXiv 2511.10279).

    Example:
        A root of value 1/2 with leaves 1 and 0: (0, 1/2, -1/2).
    """
    nodes = value.shape[-1]
    if bool((mask & ((parent < -1) | (parent >= nodes))).any()):
        raise ValueError(f"parent: expected numbers in [-1, {nodes - 1}], one per node")
    exact = widened(torch.where(mask, value, 0)).detach()
    above = torch.where(mask, parent, -1).clamp(min=0).long()
    known = mask & (parent >= 0) & mask.gather(-1, above)
    return torch.where(known, exact - exact.gather(-1, above), 0)


@objective(
    role="advantage",
    paper="Hou et al. 2025, arXiv 2506.11902",
    feedback="verdict",
    signal="advantage",
    data="on-policy",
    reference=False,
)
def tree_process_advantage(
    value: Float[Tensor, "B M"], parent: Int[Tensor, "B M"], mask: Bool[Tensor, "B M"]
) -> Float[Tensor, "B M"]:
    r"""TreeRL's process reward: ``(V(n) - V(root)) + (V(n) - V(parent(n)))``, standing and progress in one.

    Args:
        value: as in `tree_step_advantage`.
        parent: as there; one root in each row.
        mask: as there. A row whose root does not count has no credit at all.

    Returns:
        The credit of the step that leads to each node, without gradient; 0 for the root, and where the parent is unknown.

    Raises:
        ValueError: a parent's number that is none of the M, or a row with several roots.

    Reference:
        Hou et al., "TreeRL", arXiv 2506.11902, equations 2 to 4, as quoted in issue 2 of its code, which adds ``V(n)`` once
        more. Whether the paper also weighs it by the number of leaves was not found.

    Example:
        A root of value 1/2, its child 3/4, a leaf 1 below that: (0, 1/4 + 1/4, 1/2 + 1/4).
    """
    roots = mask & (parent == -1)
    if bool((roots.sum(-1) > 1).any()):
        raise ValueError(f"parent: expected one root in a row, got up to {int(roots.sum(-1).max())}")
    local = tree_step_advantage(value, parent, mask)
    exact = widened(torch.where(mask, value, 0)).detach()
    of_root = torch.where(roots, exact, 0).sum(-1, keepdim=True)
    above = torch.where(mask, parent, -1).clamp(min=0).long()
    known = mask & (parent >= 0) & mask.gather(-1, above) & roots.any(-1, keepdim=True)
    return torch.where(known, exact - of_root + local, 0)


@objective(
    role="advantage",
    paper="Cao et al. 2026, arXiv 2601.03703",
    feedback="verdict",
    signal="advantage",
    data="on-policy",
    reference=False,
)
def shared_prefix_advantage(
    leaf_advantage: Float[Tensor, "B K"], node: Int[Tensor, "B K T"], mask: Bool[Tensor, "B K T"]
) -> SharedCredit:
    r"""A token that n leaves share gets the mean of their advantages, ``A_t = 1/n Σ_leaves A_leaf``, and weight 1/n.

    A tree of outputs is written as K rows, one per leaf, of which a shared prefix fills the same places. With weight 1/n the
    n copies of a prefix count as the one that was sampled, and each leaf has the same say in it. With weight 1 the sum
    ``Σ A_t log π`` is that of the rows taken as independent outputs: averaging alone changes nothing where the copies
    have equal log-probabilities.

    Args:
        leaf_advantage: advantage of each leaf within its group (`grpo_advantage` over all leaves of a root). No gradient.
        node: which node of its tree a token belongs to, the same number for the same node at the same place. Any numbers.
        mask: True for the tokens that the policy wrote. A row without any is no leaf, and its advantage is not read.

    Returns:
        Advantage and weight of each token, without gradients; 0 where masked. A shared token must be masked in all rows
        or in none.

    Reference:
        Cao et al., "TreeAdv", arXiv 2601.03703, redistributes the advantages of all leaves to internal segments; the weight is
        plaudit's for ReEx-SQL's trees (arXiv 2505.12768; ours).

    Example:
        Leaves of advantages 1 and -3 that share their first token: (-1, 1) and (-1, -3) with weights (1/2, 1) each.
    """
    exact = widened(torch.where(mask.any(-1), leaf_advantage, 0)).detach()
    together = (node[:, :, None] == node[:, None]) & mask[:, :, None] & mask[:, None]  # [B, K, K, T]
    leaves = together.sum(2).clamp(min=1)
    shared = torch.einsum("bijt,bj->bit", together.to(exact.dtype), exact)
    weight = torch.where(mask, 1 / leaves.to(exact.dtype), 0)
    return SharedCredit(shared / leaves, weight)


@objective(
    role="advantage",
    paper="plaudit (ours), for Jiang et al. 2025, arXiv 2511.10279",
    feedback="verdict",
    signal="advantage",
    data="on-policy",
    reference=False,
)
def mixed_step_advantage(
    outcome_advantage: Float[Tensor, " N"],
    step_advantage: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    step_share: float,
) -> Float[Tensor, "N T"]:
    r"""Credit for the whole and for the step: ``A_t = (1 - s) A_outcome + s A_step,t``.

    Args:
        outcome_advantage: advantage of the finished output in its group. No gradient.
        step_advantage: advantage of the step that a token belongs to. No gradient.
        mask: True for the tokens that the policy wrote.
        step_share: s in [0, 1]; raising it trusts the search more, and the final verdict less.

    Returns:
        The advantage of each token, without gradient; 0 where masked.

    Raises:
        ValueError: `step_share` is no share.

    Reference:
        (not found; ours.) PROPA (arXiv 2511.10279) trains on steps alone, s = 1; outcome GRPO, its baseline, is s = 0.

    Example:
        Outcome 1, steps (0, -1), s = 1/2: (1/2, 0).
    """
    check_share("step_share", step_share)
    whole = widened(torch.where(mask.any(-1), outcome_advantage, 0)).detach()[:, None]
    step = widened(torch.where(mask, step_advantage, 0)).detach()
    return torch.where(mask, (1 - step_share) * whole + step_share * step, 0)
