"""Rewards for steps that are differences of a score: shaping that leaves the best policy alone, and gains that add up."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.objectives.arguments import check_share, widened
from plaudit.objectives.catalogue import objective


@objective(
    role="reward",
    paper="Ng, Harada and Russell 1999",
    feedback="any",
    signal="reward",
    data="either",
    reference=False,
)
def potential_shaping(
    potential: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    discount: float,
    terminal_potential: float = 0.0,
) -> Float[Tensor, "N T"]:
    r"""Potential-based shaping: ``F_t = γ Φ(s_{t+1}) - Φ(s_t)``, to be added to the reward of step t.

    Along an episode the discounted sum telescopes, ``Σ_t γ^t F_t = γ^T Φ(s_T) - Φ(s_0)``: with ``Φ(s_T) = 0`` at the end it
    depends on the first state only, so every policy keeps its rank, and ``Q'(s, a) = Q(s, a) - Φ(s)``. No other function
    of (s, a, s') has this property for all worlds.

    Args:
        potential: ``Φ(s_t)`` of the state before step t, such as a guess of its value. No restriction on its values.
        mask: True for the steps of the episode; the others are deleted, also in the middle.
        discount: γ in [0, 1], the discount of the method that maximises the reward. Another one breaks the invariance.
        terminal_potential: ``Φ(s_T)`` after the last step. It must be one constant for all ends; where an episode is
            only cut off, the cut state has its own potential: append it as a last step and drop that step's reward.

    Returns:
        The shaping reward of each step, 0 where masked.

    Raises:
        ValueError: discount is no share.

    Reference:
        Ng, Harada and Russell, "Policy invariance under reward transformations", ICML 1999, theorem 1. That the end needs
        potential 0 in finite episodes: Grzes, "Reward shaping in episodic reinforcement learning", AAMAS 2017.

    Example:
        Potentials (1, 3) with γ = 1/2: ``(3/2 - 1, 0 - 3) = (1/2, -3)``, and ``1/2 + 1/2 · (-3) = -1 = -Φ(s_0)``.
    """
    check_share("discount", discount)
    value = widened(torch.where(mask, potential, 0))
    steps = value.shape[-1]
    position = torch.where(mask, torch.arange(steps, device=mask.device), steps)
    counted_from = position.flip(-1).cummin(-1).values.flip(-1)  # the first counted step at t or later
    after = torch.cat([counted_from[:, 1:], torch.full_like(counted_from[:, :1], steps)], -1)
    following = torch.cat([value, torch.full_like(value[:, :1], terminal_potential)], -1).gather(-1, after)
    return torch.where(mask, discount * following - value, 0)


@objective(
    role="reward",
    paper="Ding et al. 2025, arXiv 2505.11893",
    feedback="verdict",
    signal="reward",
    data="either",
    reference=False,
)
def score_gain_reward(
    score: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"], *, initial: float = 0.0
) -> Float[Tensor, "N T"]:
    r"""Each step earns what it adds to the score: ``r_t = f_t - f_{t-1}``, which sums to the final score.

    Undiscounted, maximising the sum is maximising the final score, whatever the order of the steps; a step that spoils the
    result pays for it.

    Args:
        score: ``f_t``, the score of the result after step t, such as the F1 of the slots filled so far.
        mask: True for the steps of the episode; the others are deleted, also in the middle.
        initial: ``f_{-1}``, the score before the first step.

    Returns:
        The gain of each step, 0 where masked.

    Reference:
        plaudit's default for RLAP (Ding et al., arXiv 2505.11893), whose own reward was not found (ours). Its predecessors
        pay a binary match of each step's answer (arXiv 2406.11455): `verdict_reward` per step.

    Example:
        Scores (0.25, 1, 0.5): gains (0.25, 0.75, -0.5), which sum to 0.5.
    """
    value = widened(torch.where(mask, score, 0))
    position = torch.where(mask, torch.arange(1, value.shape[-1] + 1, device=mask.device), 0)
    counted_until = position.cummax(-1).values  # the last counted step at t or earlier, as an index into `padded`
    before = torch.cat([torch.zeros_like(counted_until[:, :1]), counted_until[:, :-1]], -1)
    padded = torch.cat([torch.full_like(value[:, :1], initial), value], -1)
    return torch.where(mask, value - padded.gather(-1, before), 0)
