"""Rewards for control from foundation models and people: preferences between segments, and similarity to a goal in words."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from plaudit.objectives.arguments import check_share, widened
from plaudit.objectives.catalogue import objective
from plaudit.objectives.values.control import check_discount, discounted_sum


@objective(
    paper="Christiano et al. 2017, arXiv 1706.03741; Lee et al. 2021, arXiv 2106.05091",
    feedback="comparison",
    signal="preference",
    data="either",
    reference=False,
    modalities=("control",),
)
def segment_preference(
    step_reward_a: Float[Tensor, "B T"],
    mask_a: Bool[Tensor, "B T"],
    step_reward_b: Float[Tensor, "B S"],
    mask_b: Bool[Tensor, "B S"],
    preference: Float[Tensor, " B"],
    *,
    label_smoothing: float = 0.0,
    discount: float = 1.0,
) -> Float[Tensor, " B"]:
    r"""Reward learning from segments: cross-entropy of ``P(a ≻ b) = σ(Σ γ^t r(s_t, a_t)|_a - Σ γ^t r(s_t, a_t)|_b)``.

    ``L = -μ' log P - (1 - μ') log(1 - P)`` with ``μ' = (1 - ε) μ + ε (1 - μ)``.

    Args:
        step_reward_a: the learned reward of each step of segment a (PEBBLE bounds it by tanh).
        mask_a: True for the steps of segment a.
        step_reward_b: the same of segment b, which may have another length: a positive offset of the reward then favours the
            longer segment, so centre the reward or cut segments to one length.
        mask_b: True for the steps of segment b.
        preference: μ in [0, 1], 1 if a is better, 0 if b is, 1/2 for a tie. Leave pairs out that could not be judged.
        label_smoothing: ε in [0, 0.5), the assumed share of wrong labels; 0.1 suits a noisy judge.
        discount: γ in (0, 1]; 1 is the papers'.

    Returns:
        The loss of each pair, >= 0.

    Raises:
        ValueError: a setting outside its range.

    Reference:
        Christiano et al., "Deep reinforcement learning from human preferences", arXiv 1706.03741, equation 1 and section 2.2.3;
        Lee et al. (PEBBLE), arXiv 2106.05091, equation 4. Christiano's answer to wrong labels is
        `segment_preference_with_errors`.

    Example:
        Rewards (1, 1) against (1), μ = 1: ``log(1 + e^-1) = 0.3133``.
    """
    check_share("label_smoothing", label_smoothing, below=0.5)
    check_discount(discount)
    difference = discounted_sum(step_reward_a, mask_a, discount) - discounted_sum(step_reward_b, mask_b, discount)
    target = (1 - label_smoothing) * preference + label_smoothing * (1 - preference)
    return -target * logsigmoid(difference) - (1 - target) * logsigmoid(-difference)


@objective(
    paper="Christiano et al. 2017, arXiv 1706.03741",
    feedback="comparison",
    signal="preference",
    data="either",
    reference=False,
    modalities=("control",),
)
def segment_preference_with_errors(
    step_reward_a: Float[Tensor, "B T"],
    mask_a: Bool[Tensor, "B T"],
    step_reward_b: Float[Tensor, "B S"],
    mask_b: Bool[Tensor, "B S"],
    preference: Float[Tensor, " B"],
    *,
    random_share: float = 0.1,
    discount: float = 1.0,
) -> Float[Tensor, " B"]:
    r"""`segment_preference` with a source that answers at random now and then: ``P = (1 - e) σ(d) + e/2``.

    The loss of a label that contradicts the reward is at most ``log(2/e)``, and its gradient vanishes where the reward is sure:
    a wrong label costs little, while smoothing the label only bounds the reward's size.

    Args:
        step_reward_a: the learned reward of each step of segment a.
        mask_a: True for the steps of segment a.
        step_reward_b: the same of segment b.
        mask_b: True for the steps of segment b.
        preference: μ in [0, 1], 1 if a is better, 1/2 for a tie.
        random_share: e in [0, 1), the share of random answers; the paper has 0.1. 0 is `segment_preference`.
        discount: γ in (0, 1].

    Returns:
        The loss of each pair, >= 0.

    Raises:
        ValueError: a setting outside its range.

    Reference:
        Christiano et al., arXiv 1706.03741, section 2.2.3, third modification.

    Example:
        Difference 0: ``log 2`` for any e. Difference 1, μ = 1, e = 0.1: ``-log(0.9 · 0.7311 + 0.05) = 0.3456``.
    """
    check_share("random_share", random_share)
    if random_share == 1:
        raise ValueError("random_share: expected a share below 1, got 1")
    check_discount(discount)
    d = discounted_sum(step_reward_a, mask_a, discount) - discounted_sum(step_reward_b, mask_b, discount)
    chance = d.new_tensor(random_share / 2).log()
    sure = math.log1p(-random_share)
    log_a = torch.logaddexp(sure + logsigmoid(d), chance)
    log_b = torch.logaddexp(sure + logsigmoid(-d), chance)
    return -preference * log_a - (1 - preference) * log_b


@objective(
    role="statistic",
    paper="Christiano et al. 2017, arXiv 1706.03741; Lee et al. 2021, arXiv 2106.05091",
    feedback="comparison",
    signal="preference",
    data="either",
    reference=False,
    modalities=("control",),
)
def preference_mean(return_difference: Float[Tensor, "B M"]) -> Float[Tensor, " B"]:
    r"""What an ensemble of reward models thinks of a pair: the mean of ``P_m(a ≻ b) = σ(d_m)`` over its M members.

    Args:
        return_difference: ``d_m``, the members' return of segment a less that of segment b.

    Returns:
        The probability that a is better, in [0, 1].

    Raises:
        ValueError: an ensemble without members.

    Reference:
        Christiano et al., arXiv 1706.03741, section 2.2.3; PEBBLE has 3 members.

    Example:
        Differences (log 3, -log 3): ``(3/4 + 1/4) / 2 = 1/2``.
    """
    if return_difference.shape[-1] == 0:
        raise ValueError("return_difference: expected at least 1 member, got 0")
    return widened(return_difference).sigmoid().mean(-1)


@objective(
    role="statistic",
    paper="Christiano et al. 2017, arXiv 1706.03741; Lee et al. 2021, arXiv 2106.05091",
    feedback="comparison",
    signal="preference",
    data="either",
    reference=False,
    modalities=("control",),
)
def preference_disagreement(return_difference: Float[Tensor, "B M"], *, ddof: int = 0) -> Float[Tensor, " B"]:
    r"""How much an ensemble of reward models disagrees on a pair: the standard deviation of ``σ(d_m)`` over its members.

    The pairs with most of it are those to ask about next. A statistic for choosing; no gradient flows through it.

    Args:
        return_difference: ``d_m``, the members' return of segment a less that of segment b.
        ddof: the divisor is M - ddof; 0 is NumPy's default, 1 torch's, which PEBBLE's code takes.

    Returns:
        The disagreement of each pair, in [0, 1/2] for ddof = 0.

    Raises:
        ValueError: fewer than ddof + 1 members, or a negative ddof.

    Reference:
        Christiano et al., arXiv 1706.03741, section 2.2.4 (the variance across the ensemble, which has the same order); Lee et
        al. (PEBBLE), arXiv 2106.05091, section 4.2.

    Example:
        Differences (log 3, -log 3): probabilities 3/4 and 1/4, disagreement 1/4.
    """
    if ddof < 0:
        raise ValueError(f"ddof: expected a number >= 0, got {ddof}")
    if return_difference.shape[-1] <= ddof:
        raise ValueError(f"return_difference: expected at least {ddof + 1} members, got {return_difference.shape[-1]}")
    probability = widened(return_difference.detach()).sigmoid()
    squares = (probability - probability.mean(-1, keepdim=True)).square()
    return (squares.sum(-1) / (squares.shape[-1] - ddof)).sqrt()


@objective(
    role="reward",
    paper="Rocamonde et al. 2024, arXiv 2310.12921",
    feedback="none",
    signal="reward",
    data="either",
    reference=False,
    modalities=("control", "images"),
)
def similarity_reward(embedding: Float[Tensor, "N D"], goal: Float[Tensor, "#N D"]) -> Float[Tensor, " N"]:
    r"""Cosine similarity of a frame's embedding and the goal text's: ``r = φ(frame) · φ(goal) / (|φ(frame)| |φ(goal)|)``.

    Args:
        embedding: the frame's embedding in the space shared with text.
        goal: the goal text's embedding, one for all or one a row.

    Returns:
        The reward in [-1, 1]; nearly flat close to the goal, so treat it as noisy. 0 for an embedding of zeros.

    Reference:
        Rocamonde et al., "Vision-language models are zero-shot reward models", arXiv 2310.12921, section 3.1.

    Example:
        Embeddings (3, 4) and (1, 0): 0.6.
    """
    return (normalize(widened(embedding), dim=-1) * normalize(widened(goal), dim=-1)).sum(-1)


@objective(
    role="reward",
    paper="Rocamonde et al. 2024, arXiv 2310.12921",
    feedback="none",
    signal="reward",
    data="either",
    reference=False,
    modalities=("control", "images"),
)
def goal_baseline_reward(
    embedding: Float[Tensor, "N D"],
    goal: Float[Tensor, "#N D"],
    baseline: Float[Tensor, "#N D"],
    *,
    regularisation: float,
) -> Float[Tensor, " N"]:
    r"""`similarity_reward` with what has nothing to do with the goal projected out.

    ``r = 1 - |α proj_L(x) + (1 - α) x - g|² / 2`` with unit embeddings x of the frame, g of the goal, b of the baseline text
    ("a robot"), and the line L through b and g.

    Args:
        embedding: the frame's embedding.
        goal: the goal text's embedding, one for all or one a row.
        baseline: the embedding of a text that describes the scene without the goal.
        regularisation: α in [0, 1]; 0 is the cosine similarity, 1 keeps only the place along the line.

    Returns:
        The reward, at most 1. A baseline equal to the goal gives no line: its projection is then the goal itself.

    Raises:
        ValueError: `regularisation` is no share.

    Reference:
        Rocamonde et al., arXiv 2310.12921, definition 1; the official code (vlmrm) projects ``x - g``, which is the same, as g
        lies on the line.

    Example:
        ``g = (1, 0)``, ``b = (0, 1)``, ``x = (0, -1)``, α = 1: the foot on the line is (1, 0), so r = 1; α = 0 gives 0.
    """
    check_share("regularisation", regularisation)
    x, g, b = (normalize(widened(part), dim=-1) for part in (embedding, goal, baseline))
    direction = g - b
    length = direction.square().sum(-1, keepdim=True)
    apart = length > 0
    along = ((x - g) * direction).sum(-1, keepdim=True) / torch.where(apart, length, 1) * direction
    rest = regularisation * torch.where(apart, along, 0) + (1 - regularisation) * (x - g)
    return 1 - rest.square().sum(-1) / 2
