"""Q-learning: targets, and losses of action values on transitions from a replay buffer or a log."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plaudit.objectives.arguments import check_not_negative, check_positive, check_share
from plaudit.objectives.catalogue import objective


@objective(
    role="value",
    paper="Watkins 1989; Mnih et al. 2015",
    feedback="any",
    signal="reward",
    data="off-policy",
    reference=False,
)
def q_target(
    reward: Float[Tensor, " B"],
    next_action_value: Float[Tensor, "B J"],
    terminal: Bool[Tensor, " B"],
    next_mask: Bool[Tensor, "B J"] | None = None,
    *,
    discount: float,
) -> Float[Tensor, " B"]:
    r"""Q-learning's target ``y = r + γ max_a' Q_target(s', a')``, and ``y = r`` where the episode ended.

    A target: no gradient flows through it.

    Args:
        reward: reward of the step.
        next_action_value: ``Q_target(s', a')`` of each action of the next state, under the target network.
        terminal: True where the step ended the episode; what stands in `next_action_value` there is not read. A time limit
            is no end: leave it False.
        next_mask: True for the actions that the next state really has; a state without any is worth 0.
        discount: γ in [0, 1].

    Returns:
        The target of each transition.

    Raises:
        ValueError: `discount` is no share, or `next_action_value` has no actions.

    Reference:
        Mnih et al., "Human-level control through deep reinforcement learning", Nature 518 (2015), algorithm 1.

    Example:
        Reward 1, next values (2, 3), γ = 1/2: ``1 + 3/2 = 2.5``; at the end of an episode, 1.
    """
    return double_q_target(reward, next_action_value, next_action_value, terminal, next_mask, discount=discount)


@objective(
    role="value",
    paper="van Hasselt et al. 2016, arXiv 1509.06461",
    feedback="any",
    signal="reward",
    data="off-policy",
    reference=False,
)
def double_q_target(
    reward: Float[Tensor, " B"],
    next_action_value: Float[Tensor, "B J"],
    next_target_action_value: Float[Tensor, "B J"],
    terminal: Bool[Tensor, " B"],
    next_mask: Bool[Tensor, "B J"] | None = None,
    *,
    discount: float,
) -> Float[Tensor, " B"]:
    r"""Double Q-learning's target ``y = r + γ Q_target(s', argmax_a' Q(s', a'))``: one network chooses, the other values.

    Taking the maximum of noisy values is biased upwards; a second network's value of the chosen action is not. A target:
    no gradient flows through it.

    Args:
        reward: reward of the step.
        next_action_value: ``Q(s', a')`` under the trained network, which chooses; of equal ones the first.
        next_target_action_value: ``Q_target(s', a')`` under the target network, which values.
        terminal: True where the step ended the episode.
        next_mask: True for the actions that the next state really has; a state without any is worth 0.
        discount: γ in [0, 1].

    Returns:
        The target of each transition.

    Raises:
        ValueError: `discount` is no share, or the next states have no actions.

    Reference:
        van Hasselt, Guez and Silver, "Deep reinforcement learning with double Q-learning", arXiv 1509.06461, section 3.

    Example:
        Reward 1, values (2, 3), target values (8, 4), γ = 1/2: the second is chosen, ``y = 1 + 4/2 = 3``.
    """
    check_share("discount", discount)
    if next_action_value.shape[-1] == 0:
        raise ValueError("next_action_value: expected at least 1 action, got 0")
    counts = ~terminal[:, None].expand_as(next_action_value)
    if next_mask is not None:
        counts = counts & next_mask
    best = torch.where(counts, next_action_value.detach(), -torch.inf).argmax(-1, keepdim=True)
    valued = torch.where(counts, next_target_action_value.detach(), 0).gather(-1, best).squeeze(-1)
    return reward.detach() + discount * valued


def chosen(action_value: Tensor, action: Tensor) -> Tensor:
    """The value of the action that was taken, [B]; the others are not read, so that they may be NaN."""
    return action_value.gather(-1, action[:, None].long()).squeeze(-1)


def clipped_square(error: Tensor, error_clip: float | None) -> Tensor:
    """``δ²``, or with the slope clipped at ``2c``: ``2 (c |δ| - c²/2)`` beyond c, twice Huber's loss."""
    if error_clip is None:
        return error.square()
    check_positive("error_clip", error_clip)
    inside = error.clamp(-error_clip, error_clip)
    return inside * (2 * error - inside)


@objective(
    paper="Mnih et al. 2015, Nature 518",
    feedback="any",
    signal="reward",
    data="off-policy",
    reference=False,
)
def dqn(
    action_value: Float[Tensor, "B K"],
    action: Int[Tensor, " B"],
    reward: Float[Tensor, " B"],
    next_target_action_value: Float[Tensor, "B J"],
    terminal: Bool[Tensor, " B"],
    next_mask: Bool[Tensor, "B J"] | None = None,
    *,
    discount: float,
    error_clip: float | None = None,
) -> Float[Tensor, " B"]:
    r"""Deep Q-learning: ``L = (Q(s, a) - y)²`` with `q_target`'s ``y = r + γ max_a' Q_target(s', a')``.

    The gradient flows through ``Q(s, a)`` only (a semi-gradient). With a replay buffer by priority, multiply each loss by
    its importance weight; leaving it out is biased.

    Args:
        action_value: ``Q(s, ·)`` of the present state's actions; what is padded is not read.
        action: index of the action that was taken.
        reward: reward of the step.
        next_target_action_value: ``Q_target(s', ·)`` of the next state's actions; their number may differ.
        terminal: True where the step ended the episode.
        next_mask: True for the actions that the next state really has.
        discount: γ in [0, 1].
        error_clip: c > 0 clips the slope at ``±2c``; the Nature paper clips the error at 1. None is the plain square.

    Returns:
        The loss of each transition, >= 0.

    Raises:
        ValueError: a setting outside its range.

    Reference:
        Mnih et al., Nature 518 (2015), equation 1 and "Training details" for the clip. Stable-Baselines3 and CleanRL:
        ``smooth_l1_loss`` (half of ours at c = 1) and ``mse_loss`` (ours).

    Example:
        Values (1, 0), first action, reward 1, next values (2, 3), γ = 1/2: ``(1 - 2.5)² = 2.25``; clipped at 1,
        ``2 (1.5 - 0.5) = 2``.
    """
    target = q_target(reward, next_target_action_value, terminal, next_mask, discount=discount)
    return clipped_square(chosen(action_value, action) - target, error_clip)


@objective(
    paper="van Hasselt et al. 2016, arXiv 1509.06461",
    feedback="any",
    signal="reward",
    data="off-policy",
    reference=False,
)
def double_dqn(
    action_value: Float[Tensor, "B K"],
    action: Int[Tensor, " B"],
    reward: Float[Tensor, " B"],
    next_action_value: Float[Tensor, "B J"],
    next_target_action_value: Float[Tensor, "B J"],
    terminal: Bool[Tensor, " B"],
    next_mask: Bool[Tensor, "B J"] | None = None,
    *,
    discount: float,
    error_clip: float | None = None,
) -> Float[Tensor, " B"]:
    r"""Double deep Q-learning: ``L = (Q(s, a) - y)²`` with ``y = r + γ Q_target(s', argmax_a' Q(s', a'))``.

    Args:
        action_value: ``Q(s, ·)``, as in `dqn`.
        action: index of the action that was taken.
        reward: reward of the step.
        next_action_value: ``Q(s', ·)`` under the trained network, which chooses.
        next_target_action_value: ``Q_target(s', ·)``, which values the choice.
        terminal: True where the step ended the episode.
        next_mask: True for the actions that the next state really has.
        discount: γ in [0, 1].
        error_clip: as in `dqn`.

    Returns:
        The loss of each transition, >= 0; the gradient flows through ``Q(s, a)`` only.

    Raises:
        ValueError: a setting outside its range.

    Reference:
        van Hasselt et al., arXiv 1509.06461, section 3.

    Example:
        Values (1, 0), first action, reward 1, next values (2, 3), target values (8, 4), γ = 1/2: ``(1 - 3)² = 4``.
    """
    target = double_q_target(
        reward, next_action_value, next_target_action_value, terminal, next_mask, discount=discount
    )
    return clipped_square(chosen(action_value, action) - target, error_clip)


def masked_log_sum_exp(values: Tensor, mask: Tensor | None) -> Tensor:
    """``log Σ exp`` over the entries of the last axis that count; 0 where none does."""
    if mask is None:
        return values.logsumexp(-1)
    some = mask.any(-1, keepdim=True)
    return torch.where(mask | ~some, torch.where(mask, values, 0), -torch.inf).logsumexp(-1) * some.squeeze(-1)


@objective(
    paper="Kumar et al. 2020, arXiv 2006.04779",
    feedback="any",
    signal="reward",
    data="off-policy",
    reference=False,
)
def cql(
    action_value: Float[Tensor, "B K"],
    action: Int[Tensor, " B"],
    target: Float[Tensor, " B"],
    mask: Bool[Tensor, "B K"] | None = None,
    *,
    alpha: float,
    error_clip: float | None = None,
) -> Float[Tensor, " B"]:
    r"""Conservative Q-learning: ``L = α (log Σ_a exp Q(s, a) - Q(s, a_data)) + (Q(s, a_data) - y)² / 2``.

    The first term presses the values of all actions down, the more the larger they are, and the action of the log up, so that
    an action nobody tried is not overrated. Its gradient in the values is ``α (softmax(Q) - 1{a_data})``.

    Args:
        action_value: ``Q(s, ·)`` of the state's actions.
        action: index of the action in the log; `mask` must be True there.
        target: y, from `q_target` or `double_q_target`; a constant.
        mask: True for the actions that the state really has.
        alpha: α >= 0; raising it makes values of untried actions more pessimistic. 0 is half of `dqn`.
        error_clip: as in `dqn`, for the second term.

    Returns:
        The loss of each transition.

    Raises:
        ValueError: a setting outside its range.

    Reference:
        Kumar et al., "Conservative Q-learning for offline reinforcement learning", arXiv 2006.04779, equation 4 (CQL(H)), with
        the factor 1/2 of its Bellman error. d3rlpy's DiscreteCQL has no 1/2 with a Huber loss; ILQL no 1/2 (`ilql`).

    Example:
        Values (0, log 3), first action, target 1, α = 2: ``2 log 4 + 1/2 = 3.2726``.
    """
    check_not_negative("alpha", alpha)
    if mask is not None:
        action_value = torch.where(mask, action_value, 0)
    value = chosen(action_value, action)
    soft_maximum = masked_log_sum_exp(action_value, mask)
    return alpha * (soft_maximum - value) + 0.5 * clipped_square(value - target.detach(), error_clip)
