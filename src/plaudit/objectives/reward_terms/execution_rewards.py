"""Rewards of SQL that was executed: ReEx-SQL's composite with its exploration, and SQL-R1's."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plaudit.objectives.arguments import check_positive, masked_mean, widened
from plaudit.objectives.catalogue import objective
from plaudit.objectives.reward_terms.reward_composition import JudgedReward, component_weights, only_judged

REEX_WEIGHTS = (2.0, 1.0, 3.0, 1.0, 2.0)
Weights = tuple[float, float, float, float, float]


@objective(
    role="reward",
    paper="Dai et al. 2025, arXiv 2505.12768",
    feedback="verdict",
    signal="reward",
    data="either",
    reference=False,
    modalities=("text",),
)
def reex_sql_reward(
    well_formed: Bool[Tensor, " N"],
    exact_match: Bool[Tensor, " N"],
    execution: Float[Tensor, " N"],
    entity: Float[Tensor, " N"],
    exploration: Float[Tensor, " N"],
    judged: Bool[Tensor, " N"] | None = None,
    *,
    weights: Weights = REEX_WEIGHTS,
) -> JudgedReward:
    r"""ReEx-SQL's composite: ``R = 2 r_format + 1 r_match + 3 r_execution + 1 r_entity + 2 r_exploration``.

    It pays exploration in a wrong answer, too: a wrong answer can reach 5, a right one with neither entities nor exploration
    gets 5. `gated_reex_sql_reward` keeps them apart.

    Args:
        well_formed: ``r_format``: the tags parse, with exactly one final query and no result that the model wrote itself.
        exact_match: ``r_match``: normalised syntax trees of the query and the gold query are equal.
        execution: ``r_execution`` in [0, 1]: 1 if both results are equal as multisets (ordered if the gold query orders); a
            small number such as 0.1 may be paid if it runs with another result.
        entity: ``r_entity`` in [0, 1], overlap of the tables, columns and literals used with the gold query's.
        exploration: ``r_exploration`` in [0, 1], see `exploration_score`.
        judged: False where the engine failed or the gold query has no result, so that nothing is known.
        weights: of the five, in this order. Raising the third makes the result count more.

    Returns:
        The reward, in [0, 9] for the paper's weights, and where it could be judged.

    Raises:
        ValueError: not five finite weights.

    Reference:
        Dai et al., "ReEx-SQL", arXiv 2505.12768: components and weights. Their exact definitions: not found; those above
        are ours.

    Example:
        Well-formed and wrong, with all entities and full exploration: ``2 + 0 + 0 + 1 + 2 = 5``; right with all entities and no
        exploration and no exact match: ``2 + 0 + 3 + 1 + 0 = 6``.
    """
    known = torch.ones_like(well_formed) if judged is None else judged
    scores = [well_formed.to(execution.dtype), exact_match.to(execution.dtype), execution, entity, exploration]
    stacked = widened(torch.where(known[:, None], torch.stack(scores, -1), 0))
    return only_judged((stacked * component_weights(weights, stacked)).sum(-1), known)


@objective(
    role="reward",
    paper="Dai et al. 2025, arXiv 2505.12768 (gate: ours)",
    feedback="verdict",
    signal="reward",
    data="either",
    reference=False,
    modalities=("text",),
)
def gated_reex_sql_reward(
    well_formed: Bool[Tensor, " N"],
    exact_match: Bool[Tensor, " N"],
    execution: Float[Tensor, " N"],
    entity: Float[Tensor, " N"],
    exploration: Float[Tensor, " N"],
    judged: Bool[Tensor, " N"] | None = None,
    *,
    weights: Weights = REEX_WEIGHTS,
) -> JudgedReward:
    r"""`reex_sql_reward` that pays exploration only in a right answer: exploring cannot make up for being wrong.

    ``R = w_1 r_format + w_2 r_match + w_3 r_execution + w_4 r_entity + w_5 r_exploration 1[r_execution = 1]``.

    Args:
        well_formed: as in `reex_sql_reward`.
        exact_match: as there.
        execution: as there; the gate is open where it is 1.
        entity: as there.
        exploration: as there; not read where the gate is closed.
        judged: as there.
        weights: as there. A right, well-formed answer stays above every wrong one while ``w_3 > w_4``.

    Returns:
        The reward, and where it could be judged.

    Raises:
        ValueError: not five finite weights.

    Reference:
        Dai et al., arXiv 2505.12768; the gate is plaudit's option (ours).

    Example:
        Wrong with all entities and full exploration: ``2 + 1 = 3``; right with none of them: ``2 + 3 = 5``.
    """
    paid = torch.where(execution == 1, exploration, 0)
    return reex_sql_reward(well_formed, exact_match, execution, entity, paid, judged, weights=weights)


@objective(
    role="reward",
    paper="Dai et al. 2025, arXiv 2505.12768 (definition: ours)",
    feedback="verdict",
    signal="reward",
    data="either",
    reference=False,
    modalities=("text",),
)
def exploration_score(
    useful: Bool[Tensor, "N T"], repeated: Bool[Tensor, "N T"], mask: Bool[Tensor, "N T"]
) -> Float[Tensor, " N"]:
    r"""Share of a trajectory's intermediate queries that found something new: ``Σ_t useful_t ¬repeated_t / T``.

    Args:
        useful: True where a query ran and returned at least one row.
        repeated: True where the same query, after normalisation, stood earlier in the trajectory.
        mask: True for the intermediate queries; False beyond the last one, and where the engine gave up.

    Returns:
        The score in [0, 1]; 0 without any query. ``SELECT 1`` asked n times is worth 1/n.

    Reference:
        ReEx-SQL (arXiv 2505.12768) rewards exploration; its definition was not found. The share of useful queries is ours,
        and so is that a repetition counts as useless, rather than cancelling the others.

    Example:
        A useful query, its repetition, a failing one and another useful one: 2/4.
    """
    return masked_mean((useful & ~repeated).float(), mask)


@objective(
    role="reward",
    paper="Ma et al. 2025, arXiv 2504.08600",
    feedback="verdict",
    signal="reward",
    data="either",
    reference=False,
    modalities=("text",),
)
def sql_r1_reward(
    well_formed: Bool[Tensor, " N"],
    executed: Bool[Tensor, " N"],
    matched: Bool[Tensor, " N"],
    judged: Bool[Tensor, " N"] | None = None,
    *,
    format_reward: float = 1.0,
    execution_reward: float = 2.0,
    result_reward: float = 3.0,
) -> JudgedReward:
    r"""SQL-R1's sum of three verdicts: format ±1, execution ±2 and result ±3, each 0 where the one before it failed.

    In all: -1 for a bad format, -1 for a query that does not run, 0 for a wrong result, 6 for a right one.

    Args:
        well_formed: the answer has the form asked for.
        executed: the query runs; not read in a bad format.
        matched: its result is the gold query's; not read if it does not run.
        judged: False where the gold query fails, so that nothing is known.
        format_reward: > 0, plus or minus.
        execution_reward: > 0, plus or minus.
        result_reward: > 0, plus or minus. Raising it widens the gap between wrong and right results.

    Returns:
        The reward, and where it could be judged. `sql_r1_length_reward` is added to it.

    Raises:
        ValueError: a setting is not positive.

    Reference:
        Ma et al., "SQL-R1", arXiv 2504.08600, and its official code, which pays a failing gold query like a bad
        one of the model that was not executed, 0; here that is `judged`.

    Example:
        Right: ``1 + 2 + 3 = 6``. Runs with another result: ``1 + 2 - 3 = 0``. Does not run: ``1 - 2 = -1``.
    """
    check_positive("format_reward", format_reward)
    check_positive("execution_reward", execution_reward)
    check_positive("result_reward", result_reward)
    for_format = torch.where(well_formed, float(format_reward), -float(format_reward))
    for_execution = torch.where(executed, float(execution_reward), -float(execution_reward))
    for_result = torch.where(matched, float(result_reward), -float(result_reward))
    ran = well_formed & executed
    reward = for_format + torch.where(well_formed, for_execution, 0) + torch.where(ran, for_result, 0)
    return only_judged(reward, judged)


@objective(
    role="reward",
    paper="Ma et al. 2025, arXiv 2504.08600",
    feedback="verdict",
    signal="reward",
    data="either",
    reference=False,
    modalities=("text",),
)
def sql_r1_length_reward(
    length: Int[Tensor, " N"],
    sql_length: Int[Tensor, " N"],
    answer_length: Int[Tensor, " N"],
    matched: Bool[Tensor, " N"],
    *,
    maximum: int = 2048,
) -> Float[Tensor, " N"]:
    r"""SQL-R1's length reward for right answers: think up to the limit, and put little beside the query in the answer.

    ``R = min(|thought| + |answer|, L_max) / (2 L_max) + |query| / |answer|`` if the result is right, else 0.

    Args:
        length: ``|thought| + |answer|``.
        sql_length: ``|query|``, the query within the answer.
        answer_length: ``|answer|``, at least `sql_length`; an empty answer has share 0.
        matched: True where the result is right (and the format good).
        maximum: ``L_max > 0``, in the unit of the lengths.

    Returns:
        The reward in [0, 3/2].

    Raises:
        ValueError: `maximum` is not positive.

    Reference:
        Ma et al., "SQL-R1", arXiv 2504.08600; the official code measures characters. Beyond the limit it pays the
        constant 1/2, the value at the limit, as here.

    Example:
        1024 of 2048 long, with a query of 30 in an answer of 40: ``1/4 + 3/4 = 1``.
    """
    check_positive("maximum", maximum)
    thinking = length.float().clamp(max=maximum) / (2 * maximum)
    concise = sql_length.float() / answer_length.clamp(min=1)
    return torch.where(matched, thinking + concise, 0)
