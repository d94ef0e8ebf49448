"""Rewards of rewritten and commented texts, from measurements of the texts: readability, similarity, people's judgements."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.objectives.arguments import check_not_negative, check_positive, check_share
from plaudit.objectives.catalogue import objective

KIS = "Laban et al. 2021, arXiv 2107.03444"
HEALTH = "Rahman et al. 2024, arXiv 2401.15043"


@objective(
    role="reward",
    paper="Phatak et al. 2022, JMIR Medical Informatics",
    feedback="verdict",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("text",),
)
def grade_drop_reward(grade: Float[Tensor, " B"], target_grade: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    r"""Relative drop of the reading grade below a reference text's: ``r = (F_target - F) / F_target``.

    It is unbounded below and asks for ever shorter sentences: anchor it to the meaning.

    Args:
        grade: Flesch-Kincaid grade ``F`` of the output.
        target_grade: the grade ``F_target`` of the reference text, > 0.

    Returns:
        The reward of each output; 0 at the reference's grade, 1 at grade 0.

    Reference:
        TESLEA (Phatak et al., "Medical Text Simplification Using Reinforcement Learning"), official ``scoring.py``, a rival
        of the classifier reward of arXiv 2401.15043.

    Example:
        Grade 6 against 8: 1/4.
    """
    return (target_grade - grade) / target_grade


@objective(
    role="reward",
    paper=KIS,
    feedback="verdict",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("text",),
)
def shift_reward(
    shift: Float[Tensor, " B"],
    target_shift: Float[Tensor, " B"],
    *,
    overshoot_slope: float = 0.25,
    least: float = 0.02,
    base: float = 0.05,
) -> Float[Tensor, " B"]:
    r"""Keep It Simple's reward of a shift: it rises to 1 at the target, and falls more slowly beyond it.

    ``c = s / (t + 0.001)`` for ``s <= t``, else ``1 - a (s - t) / (t + 0.001)``, cut to [0, 1]; then
    ``r = b + (1 - b) max(c, least)``.

    Args:
        shift: ``s``, by how much the output is simpler than its source: grades, or Zipf frequencies of exchanged words.
        target_shift: ``t >= 0``, by how much it should be; `readability_target` for grades, 0.4 for Zipf frequencies.
        overshoot_slope: ``a >= 0``; raising it punishes texts that are simpler than asked for.
        least: in [0, 1], where c is cut, so that a product of rewards keeps its factors.
        base: ``b`` in [0, 1]; raising it makes the reward weigh less in a product.

    Returns:
        The reward of each output, in [b, 1].

    Raises:
        ValueError: a setting outside its range.

    Reference:
        Laban et al., "Keep It Simple: Unsupervised Simplification of Multi-Paragraph Text", arXiv 2107.03444; official
        ``model_simplicity.py``: the syntactic reward has (least, base) = (0.02, 0.05), the lexical one (0.05, 0.3).

    Example:
        t = 4: a shift of 4 gives 0.9998, 8 gives ``0.05 + 0.95 · 0.75 = 0.763``.
    """
    check_not_negative("overshoot_slope", overshoot_slope)
    check_share("least", least)
    check_share("base", base)
    scale = target_shift + 0.001
    rising, falling = shift / scale, 1 - overshoot_slope * (shift - target_shift) / scale
    reached = torch.where(shift <= target_shift, rising, falling).clamp(min=least, max=1)
    return base + (1 - base) * reached


@objective(
    role="statistic",
    paper=KIS,
    feedback="none",
    signal="none",
    data="either",
    reference=False,
    modalities=("text",),
)
def readability_target(grade: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    r"""By how many grades Keep It Simple wants a text of grade F simplified: 0, ``(F - 3)/2`` or ``4.5 + 0.83 (F - 12)``.

    The pieces hold to grade 4, to grade 12 and above; at 4 there is a step of 1/2, at 12 there is none.

    Args:
        grade: Flesch-Kincaid grade of the source.

    Returns:
        The target shift of each text, >= 0.

    Reference:
        Laban et al., arXiv 2107.03444; official ``rsource2target_shift``, fitted to Newsela.

    Example:
        Grade 12 gives 4.5.
    """
    middle, steep = (grade - 3) * 0.5, 4.5 + (grade - 12) * 0.83
    return torch.where(grade <= 4, 0, torch.where(grade <= 12, middle, steep))


@objective(
    role="reward",
    paper=KIS,
    feedback="verdict",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("text",),
)
def log_product_reward(
    score: Float[Tensor, "B S"], weight: Float[Tensor, " S"], violation: Bool[Tensor, "B V"]
) -> Float[Tensor, " B"]:
    r"""Keep It Simple's joint reward, a weighted product in logarithms: ``r = Σ_s w_s log c_s + Σ_v log(1 - p_v)``.

    Scores and violations are cut to [0.0001, 0.9999] first: a violated rule costs ``log 10^4``, a kept one almost nothing.

    Args:
        score: ``c_s`` in [0, 1]: simplicity, fluency, coverage.
        weight: ``w_s >= 0``; raising it makes a low score cost more.
        violation: ``p_v``, True where a rule is broken: length ratio, repetition, invented entities. Rules weigh 1 each.

    Returns:
        The reward of each output, <= 0. Where a score is cut, its gradient is 0.

    Reference:
        Laban et al., arXiv 2107.03444; official ``logsum_score``, which gives no weight to the penalties.

    Example:
        Scores (0.5, 0.5), weights (2, 1), no rule: ``-3 log 2``.
    """
    dtype = torch.promote_types(score.dtype, torch.float32)
    gained = (weight.detach().to(dtype) * score.to(dtype).clamp(1e-4, 1 - 1e-4).log()).sum(-1)
    kept = torch.where(violation, 1e-4, 1 - 1e-4).to(dtype)
    return gained + kept.log().sum(-1)


@objective(
    role="reward",
    paper=HEALTH,
    feedback="comparison",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("text",),
)
def simplification_reward(
    simplicity: Float[Tensor, " B"],
    similarity: Float[Tensor, " B"],
    length_ratio: Float[Tensor, " B"],
    new_entities: Float[Tensor, " B"],
    *,
    similarity_weight: float = 1.0,
    similarity_floor: float = 0.7,
    length_weight: float = 1.0,
    shortest: float = 0.6,
    longest: float = 1.3,
    entity_weight: float = 1.0,
) -> Float[Tensor, " B"]:
    r"""A learned simplicity with anchors: ``r = r_simp + w_m max(0, sim - m)/(1 - m) - w_l excess(ratio) - w_h new``.

    A classifier of original against simplified texts is easily fooled by deletion; the anchors hold length, meaning and
    entities. ``excess`` is how far the length ratio lies outside [shortest, longest].

    Args:
        simplicity: ``r_simp``, the reward model's ``f(y) - f(x)`` or ``σ(f(y))``; f is trained with `bradley_terry`.
        similarity: cosine of output and source.
        length_ratio: words of the output over words of the source.
        new_entities: number of entities and numbers of the output that its source lacks.
        similarity_weight: w_m >= 0; raising it holds the meaning.
        similarity_floor: m in [0, 1), below which similarity earns nothing.
        length_weight: w_l >= 0.
        shortest: the least ratio without a penalty, >= 0.
        longest: the largest, > 0.
        entity_weight: w_h >= 0; raising it punishes inventions.

    Returns:
        The reward of each output; the pull to the reference comes on top.

    Raises:
        ValueError: a setting outside its range.

    Reference:
        arXiv 2401.15043 has the classifier as a reward; its exact form and anchors were not found, and the sum is ours.

    Example:
        r_simp 1, similarity 0.85, ratio 0.5, one new entity: ``1 + 0.5 - 0.1 - 1 = 0.4``.
    """
    check_not_negative("similarity_weight", similarity_weight)
    check_not_negative("length_weight", length_weight)
    check_not_negative("entity_weight", entity_weight)
    check_not_negative("shortest", shortest)
    check_positive("longest", longest)
    if not 0 <= similarity_floor < 1:
        raise ValueError(f"similarity_floor: expected a share in [0, 1), got {similarity_floor}")
    meaning = (similarity - similarity_floor).clamp(min=0) / (1 - similarity_floor)
    excess = (shortest - length_ratio).clamp(min=0) + (length_ratio - longest).clamp(min=0)
    return simplicity + similarity_weight * meaning - length_weight * excess - entity_weight * new_entities


@objective(
    role="reward",
    paper="Baral et al. 2024, arXiv 2411.08910",
    feedback="rating",
    signal="reward",
    data="either",
    reference=False,
    modalities=("text",),
)
def comment_reward(
    accurate: Bool[Tensor, " B"],
    relevant: Bool[Tensor, " B"],
    motivation: Float[Tensor, " B"],
    *,
    accuracy_weight: float = 1.0,
    relevance_weight: float = 1.0,
    motivation_weight: float = 1.0,
) -> Float[Tensor, " B"]:
    r"""Reward of a comment on a pupil's answer, with accuracy as a gate: ``r = acc (w_a + w_r rel + w_m mot)``.

    Args:
        accurate: the teachers call the comment right for this answer; a wrong one earns 0, however kind.
        relevant: they call it relevant.
        motivation: -1 (demotivating), 0 or 1 (motivating), or a mean of such judgements.
        accuracy_weight: w_a >= 0; at least w_m, so that a right comment never earns less than a wrong one.
        relevance_weight: w_r >= 0.
        motivation_weight: w_m >= 0.

    Returns:
        The reward of each comment.

    Raises:
        ValueError: a weight is negative.

    Reference:
        Criteria of arXiv 2411.08910, section 5, where they evaluate; the reward is ours.

    Example:
        Right, irrelevant and demotivating: ``1 - 1 = 0``; right, relevant and motivating: 3.
    """
    check_not_negative("accuracy_weight", accuracy_weight)
    check_not_negative("relevance_weight", relevance_weight)
    check_not_negative("motivation_weight", motivation_weight)
    return torch.where(accurate, accuracy_weight + relevance_weight * relevant + motivation_weight * motivation, 0)


@objective(
    role="statistic",
    paper="Baral et al. 2024, arXiv 2411.08910; Lance and Williams 1967",
    feedback="rating",
    signal="none",
    data="either",
    reference=False,
    modalities=("text",),
)
def canberra_distance(a: Float[Tensor, "B D"], b: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
    r"""Canberra distance of two embeddings: ``Σ_i |a_i - b_i| / (|a_i| + |b_i|)``, where 0/0 is 0.

    The nearest answer of the past lends its score and comment to a new one. Each dimension counts up to 1, also near 0.

    Args:
        a: embedding of an answer.
        b: embedding of another answer to the same question.

    Returns:
        The distance of each pair, in [0, D].

    Reference:
        Baral et al., arXiv 2411.08910, section 3 (SBERT-Canberra); `scipy.spatial.distance.canberra`.

    Example:
        (1, 0, 2) and (3, 0, -1): ``2/4 + 0 + 3/3 = 1.5``.
    """
    dtype = torch.promote_types(a.dtype, torch.float32)
    a, b = a.to(dtype), b.to(dtype)
    size = a.abs() + b.abs()
    return ((a - b).abs() / torch.where(size > 0, size, 1)).sum(-1)
