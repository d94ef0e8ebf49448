"""Rewards of hardware descriptions that were compiled and simulated: VeriReason's tiers, structure scores and testbench."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plaudit.objectives.arguments import check_not_negative, check_positive, check_share, widened
from plaudit.objectives.catalogue import objective
from plaudit.objectives.reward_terms.reward_composition import JudgedReward, component_weights, only_judged


@objective(
    role="reward",
    paper="Wang et al. 2025, arXiv 2505.11849",
    feedback="verdict",
    signal="reward",
    data="either",
    reference=False,
    modalities=("text",),
)
def verireason_structure_score(
    similarity: Float[Tensor, " N"], coverage: Float[Tensor, " N"], redundancy: Float[Tensor, " N"]
) -> Float[Tensor, " N"]:
    r"""VeriReason's structure score as its code has it: ``clip(0.7 sim + 0.3 cov - 0.2 red, 0, 1)``.

    Args:
        similarity: ``sim`` in [0, 1], likeness of the two ordered lists of statements.
        coverage: ``cov = |G ∩ R| / |R|``, the share of the reference's statements that are in the output.
        redundancy: ``red = |G \ R| / |G|``, the share of the output's statements that are not in the reference; 1 if it
            has none.

    Returns:
        The score in [0, 1]. No gradient where it is clipped.

    Reference:
        Wang et al., "VeriReason", arXiv 2505.11849, official code (its class-wise form: `verireason_class_structure_score`).
        Likeness is not function: on a 4-bit adder an empty module with the right ports has 0.986, a subtraction 0.900.

    Example:
        The reference itself: ``0.7 + 0.3 - 0 = 1``. Nothing in common: ``clip(-0.2) = 0``.
    """
    total = 0.7 * widened(similarity) + 0.3 * widened(coverage) - 0.2 * widened(redundancy)
    return total.clamp(0, 1)


@objective(
    role="reward",
    paper="Wang et al. 2025, arXiv 2505.11849",
    feedback="verdict",
    signal="reward",
    data="either",
    reference=False,
    modalities=("text",),
)
def verireason_class_structure_score(
    similarity: Float[Tensor, "N C"],
    coverage: Float[Tensor, "N C"],
    redundancy: Float[Tensor, "N C"],
    *,
    weights: tuple[float, ...],
) -> Float[Tensor, " N"]:
    r"""VeriReason's structure score as its page has it: ``Σ_c w_c (0.6 sim_c + 0.5 cov_c - 0.3 red_c)``.

    Args:
        similarity: ``sim_c`` in [0, 1] within the component class c: ports, declarations, assignments, blocks, instances.
        coverage: ``cov_c``, as in `verireason_structure_score`.
        redundancy: ``red_c``, as there.
        weights: ``w_c``, whose sum makes the largest score ``1.1 Σ w_c``.

    Returns:
        The score, not clipped.

    Raises:
        ValueError: not one finite weight per class.

    Reference:
        Wang et al., "VeriReason", arXiv 2505.11849, project page. The classes' weights: not found, so that they have no
        default. The code disagrees with it.

    Example:
        One class, the reference itself, weight 1: ``0.6 + 0.5 = 1.1``.
    """
    per_class = 0.6 * widened(similarity) + 0.5 * widened(coverage) - 0.3 * widened(redundancy)
    return (per_class * component_weights(weights, per_class)).sum(-1)


@objective(
    role="reward",
    paper="Wang et al. 2025, arXiv 2505.11849",
    feedback="verdict",
    signal="reward",
    data="either",
    reference=False,
    modalities=("text",),
)
def verireason_reward(
    compiled: Bool[Tensor, " N"],
    functional: Bool[Tensor, " N"],
    structure: Float[Tensor, " N"],
    judged: Bool[Tensor, " N"] | None = None,
    *,
    functional_reward: float = 2.0,
    compile_reward: float = 0.1,
    structure_weight: float = 1.0,
) -> JudgedReward:
    r"""VeriReason's levels: works, compiles, or neither; between the last two the structure is paid.

    ``R = 2`` if it passes the testbench, ``0.1 + w · structure`` if it compiles, 0 otherwise.

    Args:
        compiled: the design compiles.
        functional: it passes the testbench; not read if it does not compile.
        structure: likeness to the reference; not read unless it compiles and fails the testbench.
        judged: False where simulator or testbench failed for a reason that is not the design's.
        functional_reward: > 0; the page's is 2, the code's 2.1.
        compile_reward: >= 0, for a design that compiles.
        structure_weight: w >= 0; raising it pays more for copying the header. With ``compile_reward + w ·`` (largest structure)
            below `functional_reward` every working design stays above every other one.

    Returns:
        The reward, and where it could be judged. The official run adds 0.1 for the format.

    Raises:
        ValueError: a setting out of range.

    Reference:
        Wang et al., "VeriReason", arXiv 2505.11849, project page; the official code has 2.1 for a working design.

    Example:
        Works: 2. Compiles with structure 0.9: ``0.1 + 0.9 = 1``. Does not compile: 0.
    """
    check_positive("functional_reward", functional_reward)
    check_not_negative("compile_reward", compile_reward)
    check_not_negative("structure_weight", structure_weight)
    alike = compiled & ~functional if judged is None else compiled & ~functional & judged
    partial = compile_reward + structure_weight * widened(torch.where(alike, structure, 0))
    reward = torch.where(functional, functional_reward, partial)
    return only_judged(torch.where(compiled, reward, 0), judged)


@objective(
    role="reward",
    paper="Wang et al. 2025, arXiv 2505.11849",
    feedback="verdict",
    signal="reward",
    data="either",
    reference=False,
    modalities=("text",),
)
def passes_testbench(
    equal: Int[Tensor, " N"], produced: Int[Tensor, " N"], expected: Int[Tensor, " N"], *, threshold: float = 0.99
) -> JudgedReward:
    r"""Whether a simulation wrote what was expected: 1 if the counts agree and ``equal / expected >= threshold``, else 0.

    Args:
        equal: number of vectors whose outputs are the reference's.
        produced: number of vectors that the simulation wrote.
        expected: number of vectors that the testbench has; 0 says that there is nothing to judge by.
        threshold: share in [0, 1] of vectors that must be equal.

    Returns:
        1 or 0, and False in `judged` where `expected` is 0. The rate itself, without a threshold, is ``equal / expected``.

    Raises:
        ValueError: `threshold` is no share.

    Reference:
        VeriReason's code (arXiv 2505.11849) passes from 99 % of the lines on, but compares only as many lines as both files
        have: a design that ends the simulation after one right line passes. The count is plaudit's repair (ours).

    Example:
        Of 256 vectors 254 are equal: ``254/256 = 0.992``, pass; 253: fail. One vector written, and equal: fail.
    """
    check_share("threshold", threshold)
    rate = equal.double() / expected.clamp(min=1)  # float32 would put 99 / 100 below 0.99
    return only_judged(((produced == expected) & (rate >= threshold)).float(), expected > 0)
