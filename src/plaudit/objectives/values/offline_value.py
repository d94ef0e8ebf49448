"""Values learned from a fixed log by expectiles, without ever asking for an action that the log does not hold."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.objectives.aggregation import Aggregation, aggregate
from plaudit.objectives.arguments import check_not_negative, check_positive, check_share, widened
from plaudit.objectives.catalogue import objective
from plaudit.objectives.values.value import following


def check_level(name: str, level: float) -> None:
    """Raise unless the level of an expectile is in (0, 1)."""
    if not 0 < level < 1:
        raise ValueError(f"{name}: expected a level in (0, 1), got {level}")


def side_weight(below: Tensor, level: float, dtype: torch.dtype) -> Tensor:
    """``1 - τ`` below, ``τ`` above; `torch.where` on two numbers would round them to float32."""
    return level + (1 - 2 * level) * below.to(dtype)


def asymmetric_square(error: Tensor, level: float) -> Tensor:
    """``|τ - 1{u < 0}| u²``."""
    return side_weight(error < 0, level, error.dtype) * error.square()


@objective(
    role="statistic",
    paper="Newey and Powell 1987",
    feedback="any",
    signal="none",
    data="either",
    reference=False,
)
def expectile(
    values: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None, *, level: float
) -> Float[Tensor, " B"]:
    r"""The τ-expectile of K numbers: the m at which ``τ Σ (x - m)₊ = (1 - τ) Σ (m - x)₊``; exact, and differentiable.

    It is what minimising `iql_value` converges to: the mean at τ = 1/2, the maximum at τ → 1. With the numbers sorted, m is
    a weighted mean that weighs what lies above it by τ and what lies below by 1 - τ; the right cut is found among the K.

    Args:
        values: the numbers.
        mask: True for the numbers that count.
        level: τ in (0, 1); raising it moves from the minimum over the mean to the maximum.

    Returns:
        The expectile of each row; 0 where nothing counts.

    Raises:
        ValueError: `level` outside (0, 1), or rows without numbers.

    Reference:
        Newey and Powell, "Asymmetric least squares estimation and testing", Econometrica 55 (1987);
        scipy.stats.expectile is the same.

    Example:
        Numbers (0, 1) at τ = 0.9: ``0.9 (1 - m) = 0.1 m`` gives ``m = 0.9``.
    """
    check_level("level", level)
    if values.shape[-1] == 0:
        raise ValueError("values: expected at least 1 number a row, got 0")
    values = widened(values)
    counts = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
    x = torch.where(counts, values, 0)
    # candidate i: the i-th number and those that sort below it lie under the cut; the right cut keeps them on their sides
    with torch.no_grad():
        below = counts[:, None, :] & (x[:, None, :] <= x[:, :, None])
        weight = side_weight(below, level, x.dtype) * counts[:, None, :]
        total = weight.sum(-1)
        candidate = (weight * x[:, None, :]).sum(-1) / torch.where(total > 0, total, 1)
        # the weighted mean is least at the true cut for τ <= 1/2 and greatest for τ >= 1/2
        worst = -math.inf if level >= 0.5 else math.inf
        candidate = torch.where(counts, candidate, worst)
        best = candidate.argmax(-1) if level >= 0.5 else candidate.argmin(-1)
        weight = weight.gather(1, best[:, None, None].expand(-1, 1, x.shape[-1])).squeeze(1)
        total = weight.sum(-1, keepdim=True)
    return (weight / torch.where(total > 0, total, 1) * x).sum(-1)


@objective(
    paper="Kostrikov et al. 2022, arXiv 2110.06169",
    feedback="any",
    signal="reward",
    data="off-policy",
    reference=False,
)
def iql_value(
    value: Float[Tensor, " B"], target_action_value: Float[Tensor, " B"], *, level: float = 0.7
) -> Float[Tensor, " B"]:
    r"""Implicit Q-learning's value: expectile regression ``L = |τ - 1{u < 0}| u²`` with ``u = Q_target(s, a) - V(s)``.

    Over the actions that the log took in a state, V tends to the τ-expectile of Q: to the best action of the log as τ → 1,
    without a maximum over actions that nobody tried.

    Args:
        value: ``V(s)``.
        target_action_value: ``Q_target(s, a)`` of the action in the log, the smaller one of two critics; a constant.
        level: τ in (0, 1); 1/2 is half the squared error. The paper uses 0.7 for locomotion and 0.9 for mazes.

    Returns:
        The loss of each transition, >= 0.

    Raises:
        ValueError: `level` outside (0, 1).

    Reference:
        Kostrikov, Nair and Levine, "Offline reinforcement learning with implicit Q-learning", arXiv 2110.06169, equation 5;
        CPL's official P-IQL is the same.

    Example:
        At τ = 0.7 an error of +2 costs ``0.7 · 4 = 2.8``, one of -2 ``0.3 · 4 = 1.2``.
    """
    check_level("level", level)
    return asymmetric_square(target_action_value.detach() - value, level)


@objective(
    paper="Kostrikov et al. 2022, arXiv 2110.06169",
    feedback="any",
    signal="reward",
    data="off-policy",
    reference=False,
)
def iql_q(
    action_value: Float[Tensor, " B"],
    reward: Float[Tensor, " B"],
    next_value: Float[Tensor, " B"],
    terminal: Bool[Tensor, " B"],
    *,
    discount: float,
) -> Float[Tensor, " B"]:
    r"""Implicit Q-learning's action value, ``L = (r + γ V(s') - Q(s, a))²``.

    Args:
        action_value: ``Q(s, a)`` of the action in the log.
        reward: reward of the step.
        next_value: ``V(s')`` from `iql_value`; a constant.
        terminal: True where the step ended the episode; `next_value` is not read there.
        discount: γ in [0, 1].

    Returns:
        The loss of each transition, >= 0.

    Raises:
        ValueError: `discount` is no share.

    Reference:
        Kostrikov et al., arXiv 2110.06169, equation 6.

    Example:
        ``Q = 1``, reward 1, next value 2, γ = 1/2: ``(2 - 1)² = 1``; at the end of an episode ``(1 - 1)² = 0``.
    """
    check_share("discount", discount)
    target = reward + discount * torch.where(terminal, 0, next_value)
    return (target.detach() - action_value).square()


@objective(
    role="weight",
    paper="Kostrikov et al. 2022, arXiv 2110.06169; Peng et al. 2019, arXiv 1910.00177",
    feedback="any",
    signal="advantage",
    data="off-policy",
    reference=False,
)
def advantage_weight(
    action_value: Float[Tensor, " B"], value: Float[Tensor, " B"], *, beta: float, cap: float = 100.0
) -> Float[Tensor, " B"]:
    r"""The weight of an action in advantage-weighted imitation, ``w = min(exp((Q - V) / β), cap)``; a constant.

    Args:
        action_value: ``Q(s, a)``; for advantage-weighted regression (AWR) the return.
        value: ``V(s)``.
        beta: β > 0, in reward units, the pull to the policy of the log; as it grows all weights tend to 1. It is AWR's β
            and the inverse of IQL's (whose β = 3 is 1/3 here).
        cap: the largest weight, > 0. IQL 100, AWR 20.

    Returns:
        The weight of each action, in (0, cap].

    Raises:
        ValueError: `beta` or `cap` is not positive.

    Reference:
        Kostrikov et al., arXiv 2110.06169, equation 7, the cap in the official code; Peng et al., arXiv 1910.00177, algorithm
        1. The exponent is cut at ``log cap`` before it is raised, so that it cannot overflow.

    Example:
        ``Q - V = log 2``, β = 1/2, cap 3: ``min(e^{2 log 2}, 3) = 3``; with cap 100, 4.
    """
    check_positive("beta", beta)
    check_positive("cap", cap)
    return ((action_value - value).detach() / beta).clamp(max=math.log(cap)).exp()


@objective(
    paper="Kostrikov et al. 2022, arXiv 2110.06169",
    feedback="any",
    signal="advantage",
    data="off-policy",
    reference=False,
)
def iql_policy(
    log_prob: Float[Tensor, " B"],
    action_value: Float[Tensor, " B"],
    value: Float[Tensor, " B"],
    *,
    beta: float,
    cap: float = 100.0,
) -> Float[Tensor, " B"]:
    r"""Policy extraction: imitation of the log, weighted by advantage, ``L = -min(exp((Q - V) / β), cap) log π(a|s)``.

    Args:
        log_prob: ``log π(a|s)`` of the action in the log, summed over its steps.
        action_value: ``Q(s, a)``; a constant.
        value: ``V(s)``; a constant.
        beta: β > 0, the pull to the log's policy, see `advantage_weight`; the optimum is ``π ∝ π_log exp((Q - V) / β)``.
        cap: the largest weight.

    Returns:
        The loss of each action.

    Raises:
        ValueError: `beta` or `cap` is not positive.

    Reference:
        Kostrikov et al., arXiv 2110.06169, equation 7.

    Example:
        Probability 1/e and ``(Q - V) / β = log 4``: ``4 · 1 = 4``.
    """
    return -advantage_weight(action_value, value, beta=beta, cap=cap) * log_prob


@objective(
    paper="Snell et al. 2023, arXiv 2206.11871",
    feedback="any",
    signal="reward",
    data="off-policy",
    reference=False,
    modalities=("text",),
)
def ilql(
    action_value: Float[Tensor, "N T"],
    log_sum_action_value: Float[Tensor, "N T"],
    value: Float[Tensor, "N T"],
    target_action_value: Float[Tensor, "N T"],
    reward: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    bootstrap: Float[Tensor, " N"] | None = None,
    *,
    alpha: float,
    level: float = 0.7,
    discount: float = 0.99,
    aggregation: Aggregation = "token-mean",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""Implicit language Q-learning: IQL's two losses per token, plus CQL's term for the vocabulary.

    ``L_t = (r_t + γ V_{t+1} - Q_t)² + |τ - 1{u < 0}| u² + α (log Σ_a exp Q(s_t, a) - Q_t)`` with ``u = Q_target,t - V_t``.
    In the first term V is a constant, in the second ``Q_target`` is.

    Args:
        action_value: ``Q_t``, the value of the token that was written.
        log_sum_action_value: ``log Σ_a exp Q(s_t, a)`` over the vocabulary, computed where the logits are, in chunks.
        value: ``V_t``, the value of the text before the token.
        target_action_value: ``Q_target,t`` of the written token, the smaller one of two target heads; a constant.
        reward: reward of each token, mostly 0 but at the end.
        mask: True for the tokens that the policy wrote. ``V_{t+1}`` is that of the next such token, so that the user's turns
            are part of the step.
        bootstrap: value after the last token; None is 0, a text that ended.
        alpha: α >= 0, the weight of CQL's term; 0 is IQL.
        level: τ in (0, 1), as in `iql_value`.
        discount: γ in [0, 1].
        aggregation: see `plaudit.objectives.aggregation.aggregate`.

    Returns:
        (value, weight) per sequence.

    Raises:
        ValueError: a setting outside its range.

    Reference:
        Snell et al., "Offline RL for natural language generation with implicit language Q learning", arXiv 2206.11871,
        section 4; the same terms in the official code and in trlx, which have two Q heads (add both) and token-mean.
        Decoding is `ilql_log_prob`.

    Example:
        One token, ``Q = 1``, log-sum 3, ``V = 0``, target 2, reward 1: ``0 + 0.7 · 4 + α · 2 = 2.8 + 2 α``.
    """
    check_not_negative("alpha", alpha)
    check_level("level", level)
    check_share("discount", discount)
    given = (action_value, log_sum_action_value, value, target_action_value, reward)
    action_value, log_sum_action_value, value, target_action_value, reward = (
        torch.where(mask, widened(x), 0) for x in given
    )
    after = None if bootstrap is None else bootstrap.detach()
    target = reward.detach() + discount * following(value.detach(), mask, after)
    q_loss = (target - action_value).square()
    v_loss = asymmetric_square(target_action_value.detach() - value, level)
    return aggregate(q_loss + v_loss + alpha * (log_sum_action_value - action_value), mask, aggregation)


@objective(
    role="value",
    paper="Snell et al. 2023, arXiv 2206.11871",
    feedback="any",
    signal="advantage",
    data="off-policy",
    reference=True,
)
def ilql_log_prob(
    ref_log_prob: Float[Tensor, "B K"], action_value: Float[Tensor, "B K"], value: Float[Tensor, " B"], *, beta: float
) -> Float[Tensor, "B K"]:
    r"""ILQL's way of decoding: ``log π(a|s) = log π_ref(a|s) + (Q(s, a) - V(s)) / β - log Z``.

    Args:
        ref_log_prob: log-probabilities of the next token under the imitation of the log.
        action_value: ``Q(s, a)`` of each token, the smaller one of two target heads.
        value: ``V(s)``; it cancels in log Z and only keeps the numbers small.
        beta: β > 0, the pull to the reference; the inverse of the paper's β.

    Returns:
        Log-probabilities that sum to 1 over the K tokens.

    Raises:
        ValueError: `beta` is not positive.

    Reference:
        Snell et al., arXiv 2206.11871, section 4.2. trlx adds top-k afterwards.

    Example:
        Two tokens of probability 1/2, values (log 3, 0), β = 1: probabilities (3/4, 1/4).
    """
    check_positive("beta", beta)
    return (ref_log_prob + (action_value - value.detach()[:, None]) / beta).log_softmax(-1)
