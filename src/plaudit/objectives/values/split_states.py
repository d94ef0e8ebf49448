"""Targets of decisions that lead to several states at once: the children of a search tree, or an environment that splits."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.objectives.arguments import check_positive, check_share, masked_mean, widened
from plaudit.objectives.catalogue import objective


def valued_choice(
    action_value: Tensor, target_action_value: Tensor, mask: Tensor, *, lowest: bool = False
) -> tuple[Tensor, Tensor]:
    """The target's value of the best allowed action of each state, 0 without one, and whether there is one."""
    sign = -1 if lowest else 1
    best = torch.where(mask, sign * action_value, -torch.inf).argmax(-1, keepdim=True)
    return torch.where(mask, target_action_value, 0).gather(-1, best).squeeze(-1), mask.any(-1)


@objective(
    role="value",
    paper="RLAP 2025, arXiv 2505.11893; arXiv 2306.10787; arXiv 2406.11455",
    feedback="verdict",
    signal="reward",
    data="off-policy",
    reference=False,
)
def split_state_target(
    reward: Float[Tensor, " B"],
    next_action_value: Float[Tensor, "B J K"],
    next_target_action_value: Float[Tensor, "B J K"],
    state_mask: Bool[Tensor, "B J"],
    action_mask: Bool[Tensor, "B J K"],
    *,
    discount: float = 0.5,
) -> Float[Tensor, " B"]:
    r"""Double Q-learning where a step splits the state: ``y = r + γ mean_j Q_target(s'_j, argmax_a Q(s'_j, a))``.

    A language model as environment may answer a sub-task several times over; each answer is a state of its own. A target: no
    gradient flows through it.

    Args:
        reward: reward of the step, such as the gain in F1.
        next_action_value: ``Q(s'_j, a)``, which chooses. Give the target's values here too for plain Q-learning.
        next_target_action_value: ``Q_target(s'_j, a)``, which values.
        state_mask: True for the successors that there are; none means that the episode ended.
        action_mask: True for the sub-tasks that a successor has left; a successor without any is worth 0.
        discount: γ in [0, 1]; the predecessor's code has 0.5.

    Returns:
        The target of each transition; with one successor, `double_q_target`.

    Raises:
        ValueError: `discount` is no share, or no successor has room for an action.

    Reference:
        RLAP (arXiv 2505.11893) could not be read; the mean over successors is its predecessor's (arXiv 2306.10787), the double
        choice that of arXiv 2406.11455.

    Example:
        Reward 1, two successors worth 4 and 0, γ = 1/2: ``1 + (4 + 0) / 4 = 2``.
    """
    check_share("discount", discount)
    if next_action_value.shape[-1] == 0:
        raise ValueError("next_action_value: expected at least 1 action, got 0")
    allowed = action_mask & state_mask[..., None]
    value, _ = valued_choice(next_action_value.detach(), next_target_action_value.detach(), allowed)
    return reward.detach() + discount * masked_mean(value, state_mask)


@objective(
    paper="Sorokin and Kostin 2023, arXiv 2306.05905",
    feedback="verdict",
    signal="cost",
    data="off-policy",
    reference=False,
    modalities=("solvers",),
)
def tree_dqn(
    log_cost: Float[Tensor, " B"],
    child_log_cost: Float[Tensor, "B J K"],
    child_target_log_cost: Float[Tensor, "B J K"],
    child_mask: Bool[Tensor, "B J K"],
    *,
    step_cost: float = 1.0,
    discount: float = 1.0,
) -> Float[Tensor, " B"]:
    r"""TreeDQN: Q-learning of the logarithm of a tree's size, ``L = (q(s, a) - log(c + γ Σ_j exp q_target(s_j, a*_j)))²``.

    The target sums over the children of the node, ``a*_j`` is the candidate of the smallest ``q(s_j, ·)``, and the square of
    logarithms makes the prediction the geometric mean of the size, which a few huge trees do not rule.

    Args:
        log_cost: ``q(s, a)``, the predicted logarithm of the subtree's size below the decision that was taken.
        child_log_cost: ``q(s_j, ·)`` of each child's candidates under the trained network, which chooses.
        child_target_log_cost: ``q_target(s_j, ·)``, which values; a constant.
        child_mask: True for the candidates of the children that are open; a child that was fathomed has none and costs nothing.
        step_cost: c > 0, what a node costs.
        discount: γ in (0, 1]; the paper has 1.

    Returns:
        The loss of each decision, >= 0.

    Raises:
        ValueError: `step_cost` is not positive, `discount` is not in (0, 1], or no child has room for a candidate.

    Reference:
        Sorokin and Kostin, "TreeDQN: learning to minimize branch-and-bound tree", arXiv 2306.05905, and its official code,
        which has the reward -c and ``log|·|`` of a negative value; ours is the same in log space, without overflow.

    Example:
        Two open children of predicted size 2 and 5: the target is ``log(1 + 2 + 5) = log 8``; with none it is log 1 = 0.
    """
    check_positive("step_cost", step_cost)
    check_share("discount", discount)
    if discount == 0:
        raise ValueError("discount: expected a number in (0, 1], got 0")
    if child_log_cost.shape[-1] == 0:
        raise ValueError("child_log_cost: expected at least 1 candidate, got 0")
    chosen_cost, is_open = valued_choice(
        child_log_cost.detach(), widened(child_target_log_cost.detach()), child_mask, lowest=True
    )
    children = torch.where(is_open, chosen_cost + math.log(discount), -torch.inf)
    node = children.new_full((children.shape[0], 1), math.log(step_cost))
    return (log_cost - torch.cat([node, children], -1).logsumexp(-1)).square()
