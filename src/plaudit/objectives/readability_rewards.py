"""Rewards for making a text simpler: how far its reading grade or its words moved, held against its meaning.

Grades and similarities are measured elsewhere; nothing here reads text.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.objectives.arguments import check_not_negative, check_positive
from plaudit.objectives.catalogue import objective
from plaudit.objectives.reward_composition import precise


@objective(
    role="reward",
    paper="Phatak et al. 2022 (TESLEA)",
    feedback="none",
    signal="reward",
    data="either",
    reference=False,
    modalities=("text",),
)
def relative_grade_drop(grade: Float[Tensor, " N"], target_grade: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    r"""TESLEA's reading-grade reward: ``R = (g_target - g) / g_target``.

    Args:
        grade: g, Flesch-Kincaid grade of the output.
        target_grade: ``g_target``, the grade of the human simplification; not 0.

    Returns:
        The reward; 0 at the target's grade, and without bound above as sentences get shorter. `grade_shift_score` is bounded.

    Raises:
        ValueError: a target grade of 0.

    Reference:
        Phatak et al., "Medical text simplification using reinforcement learning (TESLEA)", JMIR Medical Informatics 10 (2022),
        official code. The health paper (arXiv 2401.15043) competes with such rewards.

    Example:
        Grade 6 for a target of 8: 1/4.
    """
    if bool((target_grade == 0).any()):
        raise ValueError("target_grade: expected numbers other than 0, got 0")
    target = precise(target_grade)
    return (target - precise(grade)) / target


@objective(
    role="reward",
    paper="Laban et al. 2021, arXiv 2107.03444",
    feedback="none",
    signal="reward",
    data="either",
    reference=False,
    modalities=("text",),
)
def grade_shift_score(grade: Float[Tensor, " N"], source_grade: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    r"""Keep-it-Simple's syntactic score: the drop in reading grade, full at a target that grows with the source's.

    With the drop ``s = F_x - F_y`` and the target ``T = 0`` up to grade 4, ``(F_x - 3) / 2`` up to grade 12, and
    ``4.5 + 0.83 (F_x - 12)`` above: ``v = s / (T + 0.001)`` up to the target, then ``1 - 0.25 (s - T) / (T + 0.001)``; the
    score is ``0.05 + 0.95 clip(v, 0.02, 1)``.

    Args:
        grade: ``F_y``, Flesch-Kincaid grade of the output.
        source_grade: ``F_x``, the source's.

    Returns:
        The score in [0.069, 1]. No gradient where it is clipped.

    Reference:
        Laban et al., "Keep it Simple", arXiv 2107.03444; constants of the official code. The target jumps from 0 to 1/2 at
        grade 4, as there.

    Example:
        From grade 11 to 7: the target 4 is met, ``v = 4 / 4.001``, score ``0.05 + 0.95 v``. No drop: ``0.05 + 0.95 · 0.02``.
    """
    source = precise(source_grade)
    middle = torch.where(source <= 12, 0.5 * (source - 3), 4.5 + 0.83 * (source - 12))
    target = torch.where(source <= 4, 0, middle)
    return 0.05 + 0.95 * _shift_score(source - precise(grade), target).clamp(0.02, 1)


@objective(
    role="reward",
    paper="Laban et al. 2021, arXiv 2107.03444",
    feedback="none",
    signal="reward",
    data="either",
    reference=False,
    modalities=("text",),
)
def word_shift_score(frequency_gain: Float[Tensor, " N"], *, target: float = 0.4) -> Float[Tensor, " N"]:
    r"""Keep-it-Simple's lexical score: how much commoner the added words are than the removed ones.

    ``v = s / (T + 0.001)`` up to the target, then ``1 - 0.25 (s - T) / (T + 0.001)``; the score is
    ``0.3 + 0.7 clip(v, 0.05, 1)``.

    Args:
        frequency_gain: s, mean Zipf frequency of the added minus that of the removed content words.
        target: T > 0; raising it asks for commoner words.

    Returns:
        The score in [0.335, 1]. No gradient where it is clipped.

    Raises:
        ValueError: `target` is not positive.

    Reference:
        Laban et al., "Keep it Simple", arXiv 2107.03444; constants of the official code.

    Example:
        A gain of 0.2: ``v = 0.2 / 0.401``, score ``0.3 + 0.7 v``; one of 0: ``0.3 + 0.7 · 0.05``.
    """
    check_positive("target", target)
    gain = precise(frequency_gain)
    return 0.3 + 0.7 * _shift_score(gain, torch.full_like(gain, target)).clamp(0.05, 1)


@objective(
    role="reward",
    paper="Rahman et al. 2024, arXiv 2401.15043 (anchors: ours)",
    feedback="any",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("text",),
)
def anchored_simplicity_reward(
    simplicity: Float[Tensor, " N"],
    similarity: Float[Tensor, " N"],
    length_penalty: Float[Tensor, " N"],
    new_entity: Bool[Tensor, " N"],
    *,
    similarity_weight: float = 1.0,
    similarity_floor: float = 0.7,
    length_weight: float = 1.0,
    entity_weight: float = 1.0,
) -> Float[Tensor, " N"]:
    r"""A classifier's simplicity with anchors against its hacks: ``R = r_simple + w_m m - w_l l - w_h 1[new entity]``.

    ``m`` is the similarity to the source, or 0 below the floor. Without anchors a policy deletes numbers and doses to look
    simple.

    Args:
        simplicity: ``r_simple``, the difference ``f(y) - f(x)`` of an original-or-simplified classifier's logits, or σ(f(y)).
        similarity: cosine of the embeddings of output and source.
        length_penalty: ``l >= 0``, such as 1 - `length_window_score`.
        new_entity: True where the output names something that its source does not.
        similarity_weight: ``w_m >= 0``.
        similarity_floor: below it meaning is lost, and a little more or less earns nothing.
        length_weight: ``w_l >= 0``.
        entity_weight: ``w_h >= 0``.

    Returns:
        The reward; the pull to the reference is the method's, or `kl_penalised_reward`.

    Raises:
        ValueError: a negative weight.

    Reference:
        Rahman et al., arXiv 2401.15043: the classifier as reward. Its form was not found; anchors and weights are ours.

    Example:
        Simplicity 0.8, similarity 0.9, no penalties: 1.7. Similarity 0.5: 0.8.
    """
    check_not_negative("similarity_weight", similarity_weight)
    check_not_negative("length_weight", length_weight)
    check_not_negative("entity_weight", entity_weight)
    meaning = torch.where(similarity >= similarity_floor, precise(similarity), 0)
    reward = precise(simplicity) + similarity_weight * meaning - length_weight * precise(length_penalty)
    return reward - entity_weight * new_entity.float()


def _shift_score(shift: Tensor, target: Tensor) -> Tensor:
    """Rises to 1 at the target, then falls at a quarter of the slope."""
    below = shift / (target + 0.001)
    return torch.where(shift <= target, below, 1 - 0.25 * (shift - target) / (target + 0.001))
