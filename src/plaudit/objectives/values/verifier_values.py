"""Values of a verifier that scores the steps of a text: bounded, and conservative about steps nobody sampled."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plaudit.objectives.arguments import check_not_negative
from plaudit.objectives.catalogue import objective
from plaudit.objectives.values.offline_value import check_level, expectile
from plaudit.objectives.values.q_learning import chosen


@objective(
    role="value",
    paper="Qi et al. 2024, arXiv 2410.08048",
    feedback="verdict",
    signal="reward",
    data="off-policy",
    reference=False,
    modalities=("text",),
)
def verifier_q_target(
    reward: Float[Tensor, " B"], next_value: Float[Tensor, " B"], terminal: Bool[Tensor, " B"]
) -> Float[Tensor, " B"]:
    r"""VerifierQ's bounded Bellman target, ``y = (r + V(s')) / 2``, and ``y = r`` at the last step.

    With rewards and values in [0, 1] it stays in [0, 1], so that a verifier's probability can be the value. A target: no
    gradient flows through it.

    Args:
        reward: reward of the step in [0, 1], such as a step's label.
        next_value: ``V(s')`` in [0, 1], the upper expectile of the next step's values; not read at the end.
        terminal: True for the last step.

    Returns:
        The target of each step.

    Reference:
        Qi, Tang and Zhu, "VerifierQ", arXiv 2410.08048. Only the abstracts could be read, which promise a "modified bounded
        Bellman update to keep Q-values in [0, 1]"; the mean of reward and next value, and the last step, are ours.

    Example:
        Reward 1 and next value 1/2 give 3/4; at the last step, 1.
    """
    return torch.where(terminal, reward, (reward + torch.where(terminal, 0, next_value)) / 2).detach()


@objective(
    paper="Qi et al. 2024, arXiv 2410.08048",
    feedback="verdict",
    signal="reward",
    data="off-policy",
    reference=False,
    modalities=("text",),
)
def verifier_q(
    action_value: Float[Tensor, "B K"],
    action: Int[Tensor, " B"],
    target: Float[Tensor, " B"],
    mask: Bool[Tensor, "B K"] | None = None,
    *,
    alpha: float,
    upper: float = 0.9,
    lower: float = 0.5,
) -> Float[Tensor, " B"]:
    r"""VerifierQ: Bellman error of the step taken, plus a conservative term between two expectiles of the steps at hand.

    ``L = (Q(s, a) - y)² / 2 + α (E^{τ_u}[Q(s, ·)] - E^{τ_l}[Q(s, ·)])``. CQL's maximum over all actions is impossible where an
    action is a sentence; the upper expectile of the K sampled steps stands for it, and the lower one for the log's mean.

    Args:
        action_value: the verifier's ``Q(s, ·)`` of the K steps sampled in the state, in [0, 1].
        action: index of the step that was taken; `mask` must be True there.
        target: y from `verifier_q_target`; a constant.
        mask: True for the steps that were sampled.
        alpha: α >= 0; raising it is more pessimistic about steps whose value stands out.
        upper: τ_u in (0, 1); → 1 is the maximum.
        lower: τ_l in (0, 1), at most `upper`; 1/2 is the mean.

    Returns:
        The loss of each state, >= 0.

    Raises:
        ValueError: a setting outside its range, or `lower` above `upper`.

    Reference:
        Qi et al., arXiv 2410.08048 ("adjustable two-expectile conservative Q-learning"); its equations could not be read
        (not found; ours), nor was code found.

    Example:
        Values (0, 1), second taken, target 1, α = 1: ``0 + (0.9 - 0.5) = 0.4``.
    """
    check_not_negative("alpha", alpha)
    check_level("upper", upper)
    check_level("lower", lower)
    if lower > upper:
        raise ValueError(f"lower: expected at most upper = {upper}, got {lower}")
    if mask is not None:
        action_value = torch.where(mask, action_value, 0)
    spread = expectile(action_value, mask, level=upper) - expectile(action_value, mask, level=lower)
    return 0.5 * (chosen(action_value, action) - target.detach()).square() + alpha * spread
