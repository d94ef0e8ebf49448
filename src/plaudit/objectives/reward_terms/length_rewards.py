"""Rewards for the length of an output: penalties for too much of it, and bonuses for brevity where it is right."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plaudit.objectives.arguments import check_group, check_not_negative, check_positive
from plaudit.objectives.catalogue import objective


@objective(
    role="reward",
    paper="Yu et al. 2025, arXiv 2503.14476",
    feedback="none",
    signal="reward",
    data="either",
    reference=False,
    modalities=("text",),
)
def overlong_penalty(
    length: Int[Tensor, " N"], *, maximum: int, buffer: int, factor: float = 1.0
) -> Float[Tensor, " N"]:
    r"""DAPO's soft penalty for overlong outputs, to be added to the reward.

    ``P = 0`` up to ``L_max - L_buffer``, then ``f (L_max - L_buffer - |y|) / L_buffer``, and ``-f`` beyond ``L_max``.

    Args:
        length: number of tokens ``|y|``.
        maximum: ``L_max > 0``; the longest output allowed.
        buffer: ``L_buffer`` in [0, L_max], the last stretch, in which the penalty grows; 0 punishes only beyond `maximum`.
        factor: ``f > 0``, the full penalty; the paper's is 1. Raising it makes length count more than being right.

    Returns:
        The penalty in [-f, 0]. It never pays for brevity.

    Raises:
        ValueError: a setting out of range.

    Reference:
        Yu et al., "DAPO", arXiv 2503.14476, equation 13 (20480 and 4096 tokens there). TRL's
        ``get_soft_overlong_punishment`` is the same; verl has the factor, and goes on falling beyond ``L_max``.

    Example:
        Maximum 16, buffer 4: lengths 10, 12, 13, 14, 16 give 0, 0, -0.25, -0.5, -1.
    """
    check_positive("maximum", maximum)
    check_positive("factor", factor)
    if not 0 <= buffer <= maximum:
        raise ValueError(f"buffer: expected a number in [0, maximum = {maximum}], got {buffer}")
    excess = (length - (maximum - buffer)).float()
    if buffer == 0:
        return torch.where(excess > 0, -float(factor), 0.0)
    return -factor * (excess / buffer).clamp(0, 1)


@objective(
    role="reward",
    paper="Yeo et al. 2025, arXiv 2502.03373",
    feedback="verdict",
    signal="reward",
    data="either",
    reference=False,
    modalities=("text",),
)
def cosine_length_reward(
    length: Int[Tensor, " N"],
    correct: Bool[Tensor, " N"],
    *,
    maximum: int,
    correct_short: float = 2.0,
    correct_long: float = 1.0,
    wrong_short: float = -10.0,
    wrong_long: float = 0.0,
    exceeded: float | None = -10.0,
) -> Float[Tensor, " N"]:
    r"""Cosine reward: among right outputs the shorter, among wrong ones the longer are paid better.

    ``R = r_long + (r_short - r_long) (1 + cos(π |y| / L_max)) / 2`` with the two ends for right or wrong outputs, and
    ``R = r_exceeded`` from ``L_max`` on.

    Args:
        length: number of tokens ``|y|``.
        correct: True where the output is right.
        maximum: ``L_max > 0``.
        correct_short: reward of a right output of length 0.
        correct_long: of a right output of length ``L_max``, below `correct_short`.
        wrong_short: of a wrong output of length 0.
        wrong_long: of a wrong output of length ``L_max``, above `wrong_short`: thinking on is worth trying.
        exceeded: reward of everything that reached ``L_max``; None keeps the value at ``L_max``, as TRL does.

    Returns:
        The reward.

    Raises:
        ValueError: `maximum` is not positive, or one of the ends is on the wrong side of the other.

    Reference:
        Yeo et al., "Demystifying Long Chain-of-Thought Reasoning in LLMs", arXiv 2502.03373, section 4.2 and appendix C.1;
        the default numbers are those of the official script of that section. TRL's ``get_cosine_scaled_reward`` has 1,
        0.5, -1, -0.5 and no `exceeded`. open-r1 counts characters, not tokens.

    Example:
        A right output of half the maximum: ``(2 + 1) / 2 = 1.5``; a wrong one: -5.
    """
    check_positive("maximum", maximum)
    if not correct_short >= correct_long:
        raise ValueError(f"correct_long: expected at most correct_short = {correct_short}, got {correct_long}")
    if not wrong_long >= wrong_short:
        raise ValueError(f"wrong_long: expected at least wrong_short = {wrong_short}, got {wrong_long}")
    progress = (length.float() / maximum).clamp(max=1)  # beyond half a turn the cosine would climb again
    towards_short = (1 + torch.cos(math.pi * progress)) / 2
    right = correct_long + (correct_short - correct_long) * towards_short
    wrong = wrong_long + (wrong_short - wrong_long) * towards_short
    reward = torch.where(correct, right, wrong)
    return reward if exceeded is None else torch.where(length >= maximum, exceeded, reward)


@objective(
    role="reward",
    paper="Kimi Team 2025, arXiv 2501.12599",
    feedback="verdict",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("text",),
)
def group_length_reward(
    length: Int[Tensor, "B K"], correct: Bool[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None
) -> Float[Tensor, "B K"]:
    r"""Kimi's length reward within a group: ``λ = 1/2 - (|y| - min) / (max - min)`` if right, ``min(0, λ)`` if wrong.

    Args:
        length: number of tokens of each output of a group.
        correct: True where the output is right.
        mask: False where an output does not count, neither for the shortest nor for the longest.

    Returns:
        The reward in [-1/2, 1/2], 0 where masked, and 0 for a whole group of equal lengths.

    Raises:
        ValueError: groups without any place for an output.

    Reference:
        Kimi Team, "Kimi k1.5", arXiv 2501.12599, section 2.3.3; it is added to the reward with a weight that is warmed up.
        open-r1's ``len_reward`` is the same on characters, over the whole batch that it is given.

    Example:
        Lengths (2, 4, 6), all right: (1/2, 0, -1/2); all wrong: (0, 0, -1/2).
    """
    check_group("length", length, at_least=1)
    counts = torch.ones_like(correct) if mask is None else mask
    tokens = length.float()
    shortest = torch.where(counts, tokens, torch.inf).amin(-1, keepdim=True)
    longest = torch.where(counts, tokens, -torch.inf).amax(-1, keepdim=True)
    spread = torch.where(longest > shortest, longest - shortest, 1)
    bonus = 0.5 - (torch.where(counts, tokens - shortest, 0)) / spread
    paid = counts & (longest > shortest)
    return torch.where(paid, torch.where(correct, bonus, bonus.clamp(max=0)), 0)


@objective(
    role="reward",
    paper="Laban et al. 2021, arXiv 2107.03444",
    feedback="none",
    signal="reward",
    data="either",
    reference=False,
    modalities=("text",),
)
def length_window_score(
    length: Int[Tensor, " N"],
    source_length: Int[Tensor, " N"],
    *,
    lowest: float = 0.6,
    highest: float = 1.3,
) -> Float[Tensor, " N"]:
    r"""1 if a rewriting keeps roughly its source's length, else 0: ``lowest <= |y| / |x| <= highest``.

    Args:
        length: number of words ``|y|`` of the rewriting.
        source_length: number of words ``|x|`` of its source; nothing fits an empty one.
        lowest: >= 0, the shortest allowed, as a share of the source.
        highest: > lowest, the longest allowed.

    Returns:
        The score, 0 or 1, for a product of scores or as a gate.

    Raises:
        ValueError: a setting out of range.

    Reference:
        Laban et al., "Keep it Simple", arXiv 2107.03444, brevity guard-rail: [0.6, 1.5] in the class, [0.6, 1.3] in the
        official training script.

    Example:
        6, 13 and 14 words for 10: scores (1, 1, 0).
    """
    check_not_negative("lowest", lowest)
    if not highest > lowest:
        raise ValueError(f"highest: expected more than lowest = {lowest}, got {highest}")
    ratio = length.double() / source_length.clamp(min=1)  # float32 would put 6 / 10 below 0.6
    return ((ratio >= lowest) & (ratio <= highest) & (source_length > 0)).float()
