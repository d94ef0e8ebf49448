"""Objectives that weigh the likelihood of outputs or of steps: by rewards, outcomes, verifiers, process rewards."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.objectives.aggregation import Aggregation, aggregate
from plaudit.objectives.arguments import check_positive, check_share, widened
from plaudit.objectives.catalogue import objective
from plaudit.objectives.imitation.likelihood import negative_log_likelihood


@objective(
    paper="Peters and Schaal 2007; Peng et al. 2019, arXiv 1910.00177",
    feedback="rating",
    signal="advantage",
    data="off-policy",
    reference=False,
)
def reward_weighted(
    token_log_prob: Float[Tensor, "N T"],
    advantage: Float[Tensor, " N"],
    mask: Bool[Tensor, "N T"],
    *,
    temperature: float,
    max_weight: float = 20.0,
    aggregation: Aggregation = "token-mean",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""Reward- or advantage-weighted regression: ``L = -min(exp(A/τ), w_max) log π(y|x)``.

    Args:
        token_log_prob: log-probability of each token of an output.
        advantage: A, the reward (reward-weighted regression) or the reward minus a value of the context (AWR). Without
            gradient.
        mask: True for the tokens of the output.
        temperature: τ > 0; raising it treats outputs more alike, towards plain imitation.
        max_weight: w_max > 0, the largest weight of one output.
        aggregation: see `plaudit.objectives.aggregation.aggregate`. The weight multiplies the value: it is not normalised
            over the batch.

    Returns:
        (value, weight) per output.

    Raises:
        ValueError: a setting outside its range.

    Reference:
        Peters and Schaal, "Reinforcement learning by reward-weighted regression", ICML 2007; Peng et al., "Advantage-weighted
        regression", arXiv 1910.00177, Algorithm 1 (its β is τ; the authors' code clips weights at 20).

    Example:
        Token probability 1/2, A = log 3, τ = 1: ``3 log 2 = 2.0794``.
    """
    check_positive("temperature", temperature)
    check_positive("max_weight", max_weight)
    factor = (widened(advantage).detach() / temperature).clamp(max=math.log(max_weight)).exp()
    value, weight = negative_log_likelihood(token_log_prob, mask, aggregation=aggregation)
    return factor * value, weight


@objective(
    paper="Srivastava and Aggarwal 2025, arXiv 2507.04136",
    feedback="verdict",
    signal="reward",
    data="on-policy",
    reference=False,
)
def outcome_weighted(
    token_log_prob: Float[Tensor, "N T"],
    reward: Float[Tensor, " N"],
    mask: Bool[Tensor, "N T"],
    *,
    aggregation: Aggregation = "sequence-sum",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""Outcome-based reinforcement learning: ``L = -R(y) log π(y|x)``, REINFORCE without a baseline.

    Args:
        token_log_prob: log-probability of each token of a sample.
        reward: R of the whole output. Without gradient. Outputs of a negative reward become less likely, without bound.
        mask: True for the tokens of the sample.
        aggregation: see `plaudit.objectives.aggregation.aggregate`; the default is the log-probability of the whole output.

    Returns:
        (value, weight) per sample. Its expected gradient over samples of π is that of minus the expected reward.

    Raises:
        ValueError: `aggregation` is unknown.

    Reference:
        Srivastava and Aggarwal, "A technical survey of reinforcement learning techniques for large language models",
        arXiv 2507.04136, outcome-based RL; Williams, Machine Learning 8 (1992). With a reward of 0 or 1 it is
        `rejection_fine_tuning` on fresh samples, but for the aggregation.

    Example:
        Token probabilities (1/2, 1/8), reward 2: ``2 · 4 log 2 = 5.5452``.
    """
    value, weight = negative_log_likelihood(token_log_prob, mask, aggregation=aggregation)
    return widened(reward).detach() * value, weight


@objective(
    paper="Srivastava and Aggarwal 2025, arXiv 2507.04136",
    feedback="verdict",
    signal="reward",
    data="on-policy",
    reference=False,
)
def verifier_weighted(
    token_log_prob: Float[Tensor, "N T"],
    verifier_score: Float[Tensor, " N"],
    mask: Bool[Tensor, "N T"],
    *,
    aggregation: Aggregation = "sequence-sum",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""Verifier-guided reinforcement learning: ``L = -V_φ(x, y) log π(y|x)`` with a learned verifier's score.

    Args:
        token_log_prob: log-probability of each token of a sample.
        verifier_score: V_φ, such as the verifier's probability that the output is correct. The verifier gets no gradient:
            it would learn to call everything good.
        mask: True for the tokens of the sample.
        aggregation: see `plaudit.objectives.aggregation.aggregate`.

    Returns:
        (value, weight) per sample.

    Raises:
        ValueError: `aggregation` is unknown.

    Reference:
        Srivastava and Aggarwal, arXiv 2507.04136, verifier-based RL. `outcome_weighted` with another source of the reward.

    Example:
        Token probabilities (1/2, 1/8), score 0.75: ``0.75 · 4 log 2 = 2.0794``.
    """
    return outcome_weighted(token_log_prob, verifier_score, mask, aggregation=aggregation)


@objective(
    paper="Srivastava and Aggarwal 2025, arXiv 2507.04136",
    feedback="spans",
    signal="reward",
    data="on-policy",
    reference=False,
)
def step_weighted(
    token_log_prob: Float[Tensor, "N T"],
    step_reward: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    discount: float = 1.0,
    aggregation: Aggregation = "sequence-sum",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""Chain-of-thought reward optimisation: ``L = -Σ_t γ^(t-1) r_t log π(y_t | x, y_<t)`` with a process reward per step.

    Args:
        token_log_prob: log-probability of each step, a token or a step of reasoning.
        step_reward: r_t of a process reward model; for tokens, each has the reward of its step. Without gradient.
        mask: True for the steps that count; t counts these only.
        discount: γ in [0, 1]; lowering it gives early steps more say.
        aggregation: see `plaudit.objectives.aggregation.aggregate`.

    Returns:
        (value, weight) per sample.

    Raises:
        ValueError: `discount` is outside [0, 1], or `aggregation` unknown.

    Reference:
        Srivastava and Aggarwal, arXiv 2507.04136, chain-of-thought reward optimisation. A step answers for its own reward
        only: it is no policy gradient of the sum of rewards, which would have the reward-to-go here.

    Example:
        Two steps of probability 1/2 with rewards (1, 2) and γ = 0.5: ``log 2 + 0.5 · 2 log 2 = 2 log 2``.
    """
    check_share("discount", discount)
    log_prob, reward = (
        torch.where(mask, widened(token_log_prob), 0),
        torch.where(mask, widened(step_reward), 0).detach(),
    )
    before = (mask.cumsum(-1) - 1).clamp(min=0).to(log_prob.dtype)
    return aggregate(-(discount**before) * reward * log_prob, mask, aggregation)
