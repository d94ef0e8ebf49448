"""Learning to branch: rewards of a solved tree, their redistribution over the steps of a path, and targets of several children.

A path is a sequence: its steps are the branching decisions from the root to a leaf of the search tree, each with the graph and
the candidates it had; "revived" means that a network encodes the stored graphs again, which is the policy's business.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import huber_loss

from plaudit.objectives.arguments import check_not_negative, check_positive, check_share, masked_mean, widened
from plaudit.objectives.catalogue import objective


@objective(
    role="reward",
    paper="Scavuzzo et al. 2022, arXiv 2205.11107; ReviBranch 2025, arXiv 2508.17452",
    feedback="verdict",
    signal="return",
    data="on-policy",
    reference=False,
    modalities=("solvers",),
)
def tree_return(
    reward: Float[Tensor, "N T"], parent: Int[Tensor, "N T"], mask: Bool[Tensor, "N T"], *, discount: float = 1.0
) -> Float[Tensor, "N T"]:
    r"""Return of each node of a search tree: ``G_i = r_i + γ Σ_{children j of i} G_j``.

    With -1 for each node it is minus the size of the subtree below a branching decision, which under depth-first search is what
    the decision can answer for; a path is a tree in which each node has one child. A target: no gradient flows through it.

    Args:
        reward: reward of each node, mostly -1.
        parent: the index of each node's parent, smaller than its own (nodes in order of creation); -1 for a root.
        mask: True for the nodes that the tree has. The children of a hidden node are roots.
        discount: γ in [0, 1].

    Returns:
        The return of each node, 0 where `mask` is False.

    Raises:
        ValueError: `discount` is no share, or a parent does not come before its child.

    Reference:
        Scavuzzo et al., "Learning to branch with tree MDPs", arXiv 2205.11107, section 4.

    Example:
        Root, two children, one grandchild (parents -1, 0, 0, 1), rewards -1, γ = 1: returns (-4, -2, -1, -1).
    """
    check_share("discount", discount)
    nodes = torch.arange(parent.shape[-1], device=parent.device)
    if bool((mask & (parent >= nodes)).any()):
        raise ValueError("parent: expected each parent to come before its child")
    returns = torch.where(mask, widened(reward.detach()), 0)
    for node in range(parent.shape[-1] - 1, 0, -1):
        above = parent[:, node].clamp(min=0).long()[:, None]
        belongs = mask[:, node] & (parent[:, node] >= 0) & mask.gather(-1, above).squeeze(-1)
        gain = torch.where(belongs, discount * returns[:, node], 0)
        returns = returns.scatter_add(-1, above, gain[:, None])
    return returns


@objective(
    role="reward",
    paper="ReviBranch 2025, arXiv 2508.17452",
    feedback="verdict",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("solvers",),
)
def tree_size_reward(nodes: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    r"""Terminal reward of a solved (sub)tree, ``R = -log(1 + nodes)``: tree sizes are heavy-tailed, their logarithms are not.

    Args:
        nodes: number of nodes, >= 0; LP iterations alike.

    Returns:
        The reward, <= 0. Its mean over instances is minus the logarithm of their 1-shifted geometric mean.

    Reference:
        Ours, for ReviBranch's terminal reward (its form was not found); the 1-shifted geometric mean is the field's metric.

    Example:
        No node gives 0, e - 1 nodes give -1.
    """
    return -nodes.log1p()


@objective(
    role="reward",
    paper="Parsonson et al. 2023, arXiv 2205.14345",
    feedback="verdict",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("solvers",),
)
def fathoming_reward(step_cost: Float[Tensor, "N T"], fathomed: Bool[Tensor, "N T"]) -> Float[Tensor, "N T"]:
    r"""Reward of a branching decision: minus its cost, and 0 where it closed its subtree.

    Args:
        step_cost: cost >= 0 of a decision, 1 in the paper.
        fathomed: True where all children of the node were fathomed at once.

    Returns:
        The reward of each decision, <= 0; along a path it adds up to 1 - length for cost 1.

    Reference:
        Parsonson, Laterre and Barrett, "Reinforcement learning for branch-and-bound optimisation using retrospective
        trajectories", arXiv 2205.14345; ``BinaryFathomed`` in their code.

    Example:
        Costs (1, 1), the second one fathomed: (-1, 0).
    """
    return torch.where(fathomed, 0, -step_cost)


@objective(
    role="weight",
    paper="ReviBranch 2025, arXiv 2508.17452",
    feedback="verdict",
    signal="return",
    data="either",
    reference=False,
)
def sensitivity_importance(
    prediction: Float[Tensor, " N"],
    changed_prediction: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    floor: float = 1e-3,
) -> Float[Tensor, "N T"]:
    r"""Importance of a step by how much a prediction of the path's return changes without it.

    ``w_i ∝ |g(τ) - g(τ without i)| + ε``.

    Args:
        prediction: the return head's ``g(τ)``.
        changed_prediction: ``g`` with step i's representation replaced by the mean one.
        mask: True for the steps of the path.
        floor: ε > 0 in units of the return; raising it spreads the reward evenly.

    Returns:
        Weights that add up to 1 over the steps, 0 where `mask` is False; constants, no gradient flows through them.

    Raises:
        ValueError: `floor` is not positive.

    Reference:
        ReviBranch, arXiv 2508.17452, names "importance-weighted reward redistribution" and "trajectory sensitivity
        analysis"; its formula was not found (ours).

    Example:
        Prediction 1, changed ones (1, 3), ε = 1: weights proportional to (0 + 1, 2 + 1), so (1/4, 3/4).
    """
    check_positive("floor", floor)
    change = torch.where(mask, widened(changed_prediction.detach()), 0) - widened(prediction.detach())[:, None]
    return shares(change.abs() + floor, mask)


@objective(
    role="weight",
    paper="ReviBranch 2025, arXiv 2508.17452",
    feedback="verdict",
    signal="return",
    data="either",
    reference=False,
)
def attention_importance(logit: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"]) -> Float[Tensor, "N T"]:
    r"""Importance of a step as the return head's attention, ``w = softmax(logit)`` over the steps of the path.

    Args:
        logit: the attention's score of each step.
        mask: True for the steps of the path.

    Returns:
        Weights that add up to 1 over the steps, 0 where `mask` is False; differentiable, so that the return head can be trained
        through them. `redistributed_reward` takes them as constants.

    Reference:
        Ours (variant B of the redistribution), as ReviBranch's formula was not found.

    Example:
        Logits (0, log 3): (1/4, 3/4).
    """
    some = mask.any(-1, keepdim=True)
    kept = torch.where(mask | ~some, torch.where(mask, widened(logit), 0), -torch.inf)
    return torch.where(mask, kept.softmax(-1), 0)


@objective(
    role="weight",
    paper="ReviBranch 2025, arXiv 2508.17452",
    feedback="verdict",
    signal="return",
    data="either",
    reference=False,
    modalities=("solvers",),
)
def subtree_importance(subtree_size: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"]) -> Float[Tensor, "N T"]:
    r"""Importance of a branching decision by what it left to do, ``w_i ∝ log(1 + size of the subtree below it)``.

    Args:
        subtree_size: number of nodes below each step, >= 0.
        mask: True for the steps of the path.

    Returns:
        Weights that add up to 1 over the steps, 0 where `mask` is False; equal ones if all subtrees are empty. Constants.

    Reference:
        Ours (variant C of the redistribution), a cheap baseline for the learned ones.

    Example:
        Sizes (3, 1): logarithms (2 log 2, log 2), weights (2/3, 1/3).
    """
    return shares(torch.where(mask, widened(subtree_size.detach()), 0).log1p(), mask)


def shares(amount: Tensor, mask: Tensor) -> Tensor:
    """Amounts >= 0 as shares of their sum over the last axis; equal shares where the sum is 0."""
    amount = torch.where(mask, amount, 0)
    amount = torch.where((amount.sum(-1, keepdim=True) > 0) | ~mask, amount, 1)
    total = amount.sum(-1, keepdim=True)
    return amount / torch.where(total > 0, total, 1)


@objective(
    role="reward",
    paper="ReviBranch 2025, arXiv 2508.17452; Arjona-Medina et al. 2019, arXiv 1806.07857",
    feedback="verdict",
    signal="return",
    data="either",
    reference=False,
)
def redistributed_reward(
    reward: Float[Tensor, "N T"], importance: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"], *, mix: float = 0.5
) -> Float[Tensor, "N T"]:
    r"""A path's return spread over its steps by importance: ``r̃_i = (1 - κ) r_i + κ w_i Σ_j r_j``.

    The sum over the path stays what it was (return equivalence), so that with γ = 1 the best policy stays the best.

    Args:
        reward: reward of each step, a terminal one included.
        importance: weights that add up to 1 over the path's steps, see `sensitivity_importance`, `attention_importance`,
            `subtree_importance`; constants.
        mask: True for the steps of the path.
        mix: κ in [0, 1]; 0 keeps the rewards, 1 spreads all of the return.

    Returns:
        The reward of each step, 0 where `mask` is False; no gradient flows through it.

    Raises:
        ValueError: `mix` is no share.

    Reference:
        Arjona-Medina et al. (RUDDER), arXiv 1806.07857, for return equivalence. ReviBranch's form was
        not found; the mix is ours.

    Example:
        Rewards (0, -4), importance (1/4, 3/4), κ = 1/2: (-0.5, -3.5).
    """
    check_share("mix", mix)
    reward, importance = (torch.where(mask, widened(x.detach()), 0) for x in (reward, importance))
    return (1 - mix) * reward + mix * importance * reward.sum(-1, keepdim=True)


@objective(
    paper="ReviBranch 2025, arXiv 2508.17452",
    feedback="verdict",
    signal="reward",
    data="off-policy",
    reference=False,
    modalities=("solvers",),
)
def revibranch(
    action_value: Float[Tensor, "N T"],
    target: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    return_prediction: Float[Tensor, " N"],
    path_return: Float[Tensor, " N"],
    *,
    huber_width: float = 1.0,
    return_weight: float = 0.5,
) -> Float[Tensor, " N"]:
    r"""Q-learning on revived paths: mean of ``Huber(Q(s_i, a_i) - y_i)`` over a path's steps + ``c (g(τ) - R)²``.

    Args:
        action_value: ``Q(s_i, a_i)`` of the candidate that was branched on.
        target: ``y_i``: `n_step_return` on `redistributed_reward`, with the double choice's ``Q_target`` as value; a constant.
        mask: True for the steps of the path.
        return_prediction: ``g(τ)``, the return head that the sensitivity is read from.
        path_return: R of the path; a constant.
        huber_width: > 0; Huber's loss is ``δ²/2`` up to it and linear beyond.
        return_weight: c >= 0.

    Returns:
        The loss of each path, >= 0.

    Raises:
        ValueError: a setting outside its range.

    Reference:
        ReviBranch, arXiv 2508.17452, trains a DQN with replay; the form of the loss is ours, after its relatives
        (retro_branching).

    Example:
        Errors (1, 3) and a return missed by 2: ``(0.5 + 2.5) / 2 + 0.5 · 4 = 3.5``.
    """
    check_positive("huber_width", huber_width)
    check_not_negative("return_weight", return_weight)
    value, target = torch.where(mask, action_value, 0), torch.where(mask, target.detach(), 0)
    step = huber_loss(value, target, reduction="none", delta=huber_width)
    missed = return_prediction - path_return.detach()
    return masked_mean(step, mask) + return_weight * missed.square()
