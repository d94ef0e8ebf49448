"""Rewards for reflecting: RefCritic's critic, paid for its verdict and its effect, and SRPO's second look at an answer."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plaudit.objectives.arguments import check_not_negative, check_positive, masked_mean, widened
from plaudit.objectives.catalogue import objective
from plaudit.objectives.reward_terms.reward_composition import JudgedReward, only_judged


@objective(
    role="reward",
    paper="Tang et al. 2025, arXiv 2507.15024",
    feedback="critique",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("text",),
)
def refcritic_judgement_reward(
    says_correct: Bool[Tensor, " N"], solution_correct: Bool[Tensor, " N"], parsed: Bool[Tensor, " N"]
) -> Float[Tensor, " N"]:
    r"""A critic's first reward: ``R_judge = 1[v = z]``.

    Args:
        says_correct: the critique's verdict v.
        solution_correct: the verifier's verdict z. Leave out solutions that it could not judge.
        parsed: False where the critique holds no verdict, or two: the critic's own fault, and so a fail.

    Returns:
        1 or 0.

    Reference:
        Tang et al., "RefCritic", arXiv 2507.15024, abstract: the first of its two rule-based rewards.

    Example:
        "Correct" about a wrong solution: 0; "incorrect" about it: 1; neither word: 0.
    """
    return (parsed & (says_correct == solution_correct)).float()


@objective(
    role="reward",
    paper="Tang et al. 2025, arXiv 2507.15024",
    feedback="critique",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("text",),
)
def refcritic_refinement_reward(
    refined_correct: Bool[Tensor, "N M"], judged: Bool[Tensor, "N M"] | None = None
) -> JudgedReward:
    r"""A critic's second reward: the share of refinements that are right, ``R_refine = 1/M Σ_j 1[y'_j right]``.

    The M refinements are drawn from the frozen policy, which reads problem, solution and critique. For a right solution
    the same number says how often it stays right, so that a misleading critique of a right solution costs, too.

    Args:
        refined_correct: True where a refinement's final answer is right.
        judged: False where a refinement was not drawn or could not be judged.

    Returns:
        The share in [0, 1], and where any refinement was judged.

    Reference:
        Tang et al., "RefCritic", arXiv 2507.15024, abstract: "refinement accuracies of the policy model based on critiques".
        That right solutions get it as well is ours (not found). Critique-trained refiners such as CTRL have M = 1.

    Example:
        Of four refinements one is right and one timed out: 1/3.
    """
    known = torch.ones_like(refined_correct) if judged is None else judged
    return JudgedReward(masked_mean(refined_correct.float(), known), known.any(-1))


@objective(
    role="reward",
    paper="Tang et al. 2025, arXiv 2507.15024",
    feedback="critique",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("text",),
)
def refcritic_reward(
    verdict_right: Bool[Tensor, " N"],
    refinement: Float[Tensor, " N"],
    judged: Bool[Tensor, " N"] | None = None,
    *,
    refinement_weight: float = 1.0,
) -> JudgedReward:
    r"""A critic's reward: ``R = R_judge + λ 1[v = z] R_refine``; a lucky refinement under a wrong verdict earns nothing.

    Args:
        verdict_right: ``v = z``, True where ``R_judge`` is 1.
        refinement: ``R_refine`` in [0, 1]; not read where the verdict was wrong, so that it need not be computed there.
        judged: False where no refinement could be judged; it only matters where the verdict was right.
        refinement_weight: λ >= 0; 0 is the first stage, on verdicts only. Raising it makes usefulness count more.

    Returns:
        The reward in [0, 1 + λ], and where it could be judged.

    Raises:
        ValueError: `refinement_weight` is negative.

    Reference:
        Tang et al., "RefCritic", arXiv 2507.15024. How the two are combined was not found; the gate and λ = 1 are ours.

    Example:
        Right verdict, half of the refinements right: 1.5; wrong verdict, all of them right: 0.
    """
    check_not_negative("refinement_weight", refinement_weight)
    known = torch.ones_like(verdict_right) if judged is None else judged
    share = widened(torch.where(verdict_right & known, refinement, 0))
    reward = verdict_right.to(share.dtype) + refinement_weight * share
    return only_judged(reward, known | ~verdict_right | (refinement_weight == 0))


@objective(
    role="reward",
    paper="Wan et al. 2025, arXiv 2506.01713",
    feedback="verdict",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("text", "images"),
)
def srpo_effect_reward(
    first_correct: Bool[Tensor, " N"],
    second_correct: Bool[Tensor, " N"],
    *,
    kept: float = 0.25,
    repaired: float = 0.5,
    failed: float = 0.0,
    spoiled: float = -0.25,
) -> Float[Tensor, " N"]:
    r"""What a reflection did to the answer, ``I_eff``: kept it right, repaired it, failed to, or spoiled it.

    Args:
        first_correct: the answer before the reflection is right.
        second_correct: the answer after it is right.
        kept: right, then right.
        repaired: wrong, then right.
        failed: wrong, then wrong.
        spoiled: right, then wrong.

    Returns:
        The entry of the table.

    Reference:
        Wan et al., "SRPO", arXiv 2506.01713, equation 8: the defaults. The official OpenRLHF code has one table for effect
        and accuracy together: 0.75, 1, 0, 0.25 in this order; its verl file means -0.25 for the last.

    Example:
        Wrong then right: 0.5. Right then wrong: -0.25.
    """
    if_right = torch.where(second_correct, float(kept), float(spoiled))
    return torch.where(first_correct, if_right, torch.where(second_correct, float(repaired), float(failed)))


@objective(
    role="reward",
    paper="Wan et al. 2025, arXiv 2506.01713",
    feedback="none",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("text", "images"),
)
def srpo_length_score(
    length: Int[Tensor, " N"], first_length: Int[Tensor, " N"], *, target: float = 2.0, maximum: float = 2.5
) -> Float[Tensor, " N"]:
    r"""A reflection's length score: ``f = exp(-((L - T_target) / (T_max - T_target))²)``, 1 at the target length.

    ``T_target = 2 ℓ_1`` and ``T_max = 2.5 ℓ_1``, with ``ℓ_1`` the length of the first thought and answer.

    Args:
        length: L, tokens of the whole response.
        first_length: ``ℓ_1``, tokens of its first thought and answer; 0 where they are missing. It is the policy's own: a
            longer first part raises the allowance, so watch it.
        target: > 0, the target in units of ``ℓ_1``.
        maximum: > target, where the score has fallen to 1/e.

    Returns:
        The score in (0, 1]; 0 without a first part.

    Raises:
        ValueError: a setting out of range.

    Reference:
        Wan et al., "SRPO", arXiv 2506.01713, equation 7; the official OpenRLHF code is the same, but gives a malformed response
        a total reward of 0 by an error (it unpacks three values of two).

    Example:
        A first part of 40: 80 tokens score 1, 100 and 60 score 1/e.
    """
    check_positive("target", target)
    if not maximum > target:
        raise ValueError(f"maximum: expected more than target = {target}, got {maximum}")
    first = first_length.float()
    distance = (length.float() - target * first) / (torch.where(first > 0, first, 1) * (maximum - target))
    return torch.where(first > 0, torch.exp(-distance.square()), 0)


@objective(
    role="reward",
    paper="Wan et al. 2025, arXiv 2506.01713",
    feedback="verdict",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("text", "images"),
)
def srpo_reward(
    well_formed: Bool[Tensor, " N"],
    reflected: Bool[Tensor, " N"],
    answered_twice: Bool[Tensor, " N"],
    first_correct: Bool[Tensor, " N"],
    second_correct: Bool[Tensor, " N"],
    length_score: Float[Tensor, " N"],
    *,
    length_weight: float = 0.1,
) -> Float[Tensor, " N"]:
    r"""SRPO's reward: ``0.5 format + 0.5 first right`` for the task, ``I_eff + 0.25 reflected + α f`` for the reflection.

    A right first answer that is kept earns 0.75 by its answers, a repaired one 0.5: holding the right answer back does
    not pay. Drop questions whose gold answer cannot be parsed.

    Args:
        well_formed: the response has the form asked for.
        reflected: ``I_ref``: its reflection stands in well-formed tags.
        answered_twice: there is an answer before and one after the reflection; without, no ``I_eff`` and no f.
        first_correct: the first answer is right.
        second_correct: the second answer is right; not read without one.
        length_score: f, see `srpo_length_score`; not read without two answers.
        length_weight: α >= 0; raising it makes brevity count more.

    Returns:
        The reward, in [-0.25, 1.6] for the paper's α.

    Raises:
        ValueError: `length_weight` is negative.

    Reference:
        Wan et al., "SRPO", arXiv 2506.01713, equations 4 to 8.

    Example:
        All in form, at the target length: right, right ``0.5 + 0.5 + 0.25 + 0.25 + 0.1 = 1.6``; wrong, right 1.35.
    """
    check_not_negative("length_weight", length_weight)
    task = 0.5 * well_formed.float() + 0.5 * first_correct.float()
    effect = torch.where(answered_twice, srpo_effect_reward(first_correct, second_correct), 0)
    brevity = widened(torch.where(answered_twice, length_score, 0))
    return task + effect + 0.25 * reflected.float() + length_weight * brevity


@objective(
    role="reward",
    paper="Wan et al. 2025, arXiv 2506.01713 (official code)",
    feedback="verdict",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("text", "images"),
)
def srpo_released_reward(
    well_formed: Bool[Tensor, " N"],
    answered_twice: Bool[Tensor, " N"],
    first_correct: Bool[Tensor, " N"],
    second_correct: Bool[Tensor, " N"],
    length_score: Float[Tensor, " N"],
    *,
    length_weight: float = 0.1,
) -> Float[Tensor, " N"]:
    r"""The reward of SRPO's released code: ``accuracy + 0.5 format + α f``, which pays a repaired answer above a right one.

    The accuracy is 0.75 (right, right), 1 (wrong, right), 0.25 (right, wrong), 0 (wrong, wrong), 0.5 for a single right
    answer. The best policy answers wrongly first. It is here to show that; use `srpo_reward`.

    Args:
        well_formed: exactly two thoughts, two answers and one reflection, in order.
        answered_twice: there are two answers.
        first_correct: the first answer, or the only one, is right.
        second_correct: the second answer is right; not read without one.
        length_score: f; not read without two answers.
        length_weight: α >= 0.

    Returns:
        The reward, in [0, 1.6].

    Raises:
        ValueError: `length_weight` is negative.

    Reference:
        Official code of arXiv 2506.01713 (OpenRLHF version), with its error repaired that gives 0 to single answers. Its verl
        version weighs 0.5 accuracy + 0.5 format + 0.1 f.

    Example:
        In form, at the target length: wrong, right ``1 + 0.5 + 0.1 = 1.6``; right, right 1.35.
    """
    check_not_negative("length_weight", length_weight)
    table = srpo_effect_reward(first_correct, second_correct, kept=0.75, repaired=1.0, failed=0.0, spoiled=0.25)
    accuracy = torch.where(answered_twice, table, 0.5 * first_correct.float())
    brevity = widened(torch.where(answered_twice, length_score, 0))
    return accuracy + 0.5 * well_formed.float() + length_weight * brevity
