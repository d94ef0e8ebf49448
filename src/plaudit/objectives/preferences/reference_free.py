"""Objectives on pairs without a reference: log-probabilities of the policy alone, summed or averaged over the steps."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from plaudit.objectives.arguments import check_not_negative, check_positive
from plaudit.objectives.catalogue import objective
from plaudit.objectives.preferences.pairwise import per_step
from plaudit.objectives.preferences.pairwise_divergences import box_cox


def log_odds(log_prob: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """``log(p / (1 - p))`` of ``p = e^log_prob``, in float32 at least.

    The odds of certainty are infinite: a log-probability of 0 counts as the largest below it, and has no gradient.
    """
    log_prob = log_prob.to(torch.promote_types(log_prob.dtype, torch.float32))
    log_prob = log_prob.clamp(max=-torch.finfo(log_prob.dtype).tiny)
    return log_prob - torch.log(-torch.expm1(log_prob))


@objective(
    paper="Hong et al. 2024, arXiv 2403.07691",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=False,
)
def orpo(
    mean_log_prob_chosen: Float[Tensor, " B"],
    mean_log_prob_rejected: Float[Tensor, " B"],
    *,
    odds_weight: float,
) -> Float[Tensor, " B"]:
    r"""Odds ratio preference optimisation: likelihood of the preferred output, and its odds against the other's.

    ``L = -a_w - λ log σ(log odds(a_w) - log odds(a_l))`` with the mean log-probabilities a and ``odds(a) = p / (1 - p)``,
    ``p = e^a``.

    Args:
        mean_log_prob_chosen: ``a_w <= 0``, log-probability of the preferred output, averaged over its steps.
        mean_log_prob_rejected: ``a_l <= 0``, the same of the other output.
        odds_weight: λ >= 0; 0 is supervised fine-tuning. Raising it separates the two outputs more.

    Returns:
        The loss of each pair, >= 0, in float32 at least.

    Raises:
        ValueError: odds_weight is negative.

    Reference:
        Hong, Lee and Thorne, "ORPO: monolithic preference optimization without reference model", arXiv 2403.07691, equations 6
        and 7. TRL's ORPOTrainer calls λ ``beta``, averages the likelihood over all tokens of the batch, and counts the
        context's tokens in it; here it is the preferred output's own.

    Example:
        Probabilities 0.5 and 0.25 at λ = 1: odds 1 and 1/3, ``log 2 - log σ(log 3) = 0.6931 + 0.2877``.
    """
    check_not_negative("odds_weight", odds_weight)
    ratio = log_odds(mean_log_prob_chosen) - log_odds(mean_log_prob_rejected)
    return -mean_log_prob_chosen - odds_weight * logsigmoid(ratio)


@objective(
    paper="Xu et al. 2024, arXiv 2401.08417",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=False,
)
def cpo(
    log_prob_chosen: Float[Tensor, " B"],
    log_prob_rejected: Float[Tensor, " B"],
    *,
    beta: float,
    likelihood_weight: float = 1.0,
    length_chosen: Int[Tensor, " B"] | None = None,
) -> Float[Tensor, " B"]:
    r"""Contrastive preference optimisation: DPO with a uniform reference, held up by the preferred output's likelihood.

    ``L = -log σ(β (log π(y_w|x) - log π(y_l|x))) - λ log π(y_w|x)``.

    Args:
        log_prob_chosen: ``log π(y_w|x)``, summed over the steps.
        log_prob_rejected: ``log π(y_l|x)``.
        beta: > 0, scale of the difference; the reference that it pulls to is the uniform one.
        likelihood_weight: λ >= 0; raising it keeps the policy nearer to the preferred outputs.
        length_chosen: number of steps of the preferred output. None is the paper's loss; with lengths, the likelihood is
            the mean over the steps, and the preference still the sum.

    Returns:
        The loss of each pair, >= 0.

    Raises:
        ValueError: beta or likelihood_weight outside its range.

    Reference:
        Xu et al., "Contrastive preference optimization", arXiv 2401.08417, equations 3 and 5. TRL's CPOTrainer calls λ
        ``cpo_alpha`` and averages the likelihood over all tokens of the batch.

    Example:
        Log-probabilities -1 and -2 at β = 1: ``-log σ(1) + 1 = 1.3133``; with 2 steps ``0.3133 + 0.5``.
    """
    check_positive("beta", beta)
    check_not_negative("likelihood_weight", likelihood_weight)
    likelihood = log_prob_chosen if length_chosen is None else per_step(log_prob_chosen, length_chosen)
    return -logsigmoid(beta * (log_prob_chosen - log_prob_rejected)) - likelihood_weight * likelihood


@objective(
    paper="Meng et al. 2024, arXiv 2405.14734",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=False,
)
def simpo(
    mean_log_prob_chosen: Float[Tensor, " B"],
    mean_log_prob_rejected: Float[Tensor, " B"],
    *,
    beta: float,
    margin: float,
) -> Float[Tensor, " B"]:
    r"""Simple preference optimisation: the mean log-probability is the reward, and has to win by a margin.

    ``L = -log σ(β a_w - β a_l - γ)`` with the mean log-probabilities a.

    Args:
        mean_log_prob_chosen: ``a_w``, log-probability of the preferred output, averaged over its steps.
        mean_log_prob_rejected: ``a_l``, the same of the other output.
        beta: > 0, scale of the reward (2 to 10 in the paper); there is no reference to pull to.
        margin: γ >= 0, by how much the rewards should differ; raising it separates the outputs more.

    Returns:
        The loss of each pair, >= 0.

    Raises:
        ValueError: beta or margin outside its range.

    Reference:
        Meng, Xia and Chen, "SimPO: simple preference optimization with a reference-free reward", arXiv 2405.14734, equation 6.
        TRL's CPOTrainer with ``loss_type="simpo"``, ``simpo_gamma`` = γ and ``cpo_alpha=0``.

    Example:
        Mean log-probabilities -0.5 and -1 at β = 2 and γ = 1: ``log 2``.
    """
    check_positive("beta", beta)
    check_not_negative("margin", margin)
    return -logsigmoid(beta * (mean_log_prob_chosen - mean_log_prob_rejected) - margin)


@objective(
    paper="Gupta et al. 2025, arXiv 2501.03884",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=False,
)
def alpha_po(
    mean_log_prob_chosen: Float[Tensor, " B"],
    mean_log_prob_rejected: Float[Tensor, " B"],
    *,
    beta: float,
    margin: float,
    alpha: float,
) -> Float[Tensor, " B"]:
    r"""AlphaPO: `simpo` with a reward of another shape, ``(1 - p^{-α}) / α`` in place of ``log p``.

    ``L = -log σ(β (1 - p_w^{-α}) / α - β (1 - p_l^{-α}) / α - γ)`` with ``p = e^a`` of the mean log-probabilities a.

    Args:
        mean_log_prob_chosen: ``a_w``, log-probability of the preferred output, averaged over its steps.
        mean_log_prob_rejected: ``a_l``, the same of the other output.
        beta: > 0, scale of the reward; there is no reference to pull to.
        margin: γ >= 0, by how much the rewards should differ.
        alpha: α, any number; 0 is `simpo`. Raising it makes the reward steeper where an output is unlikely, flatter where
            it is likely. Where ``-α a`` is above 80 the reward stands still, without a gradient.

    Returns:
        The loss of each pair, >= 0, in float32 at least.

    Raises:
        ValueError: beta or margin outside its range.

    Reference:
        Gupta et al., "AlphaPO: reward shape matters for LLM alignment", arXiv 2501.03884. TRL's CPOTrainer with
        ``loss_type="alphapo"``, which takes ``p^{-α}`` of the probability itself, and overflows where it underflows.

    Example:
        Probabilities 0.5 and 0.25 at α = β = 1 and γ = 0: rewards -1 and -3, ``-log σ(2) = 0.1269``.
    """
    check_positive("beta", beta)
    check_not_negative("margin", margin)
    reward_chosen = box_cox(mean_log_prob_chosen, power=-alpha)
    reward_rejected = box_cox(mean_log_prob_rejected, power=-alpha)
    return -logsigmoid(beta * (reward_chosen - reward_rejected) - margin)


@objective(
    paper="Zhao et al. 2023, arXiv 2305.10425",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=False,
)
def slic_hf(
    log_prob_chosen: Float[Tensor, " B"],
    log_prob_rejected: Float[Tensor, " B"],
    log_prob_target: Float[Tensor, " B"],
    *,
    margin: float,
    likelihood_weight: float,
) -> Float[Tensor, " B"]:
    r"""Sequence likelihood calibration with human feedback: a hinge on log-probabilities, and a target's likelihood.

    ``L = max(0, δ - log π(y_w|x) + log π(y_l|x)) - λ log π(y_target|x)``.

    Args:
        log_prob_chosen: ``log π(y_w|x)``, summed over the steps.
        log_prob_rejected: ``log π(y_l|x)``.
        log_prob_target: ``log π(y_target|x)`` of the demonstration that supervised fine-tuning learned from (the paper's
            ``y_ref``), or of the preferred output.
        margin: δ >= 0, the gap of log-probabilities beyond which the hinge is satisfied; raising it separates them more.
        likelihood_weight: λ >= 0; raising it keeps the policy nearer to the targets.

    Returns:
        The loss of each pair, >= 0.

    Raises:
        ValueError: margin or likelihood_weight is negative.

    Reference:
        Zhao et al., "SLiC-HF: sequence likelihood calibration with human feedback", arXiv 2305.10425, equation 1. The same
        hinge on log-ratios is `hinge`; TRL's CPOTrainer with ``loss_type="hinge"`` is δ = 1 with ``β`` times the difference.

    Example:
        Log-probabilities -1, -1.5 and -2 at δ = 1 and λ = 0.1: ``max(0, 1 + 1 - 1.5) + 0.2 = 0.7``.
    """
    check_not_negative("margin", margin)
    check_not_negative("likelihood_weight", likelihood_weight)
    return torch.relu(margin - log_prob_chosen + log_prob_rejected) - likelihood_weight * log_prob_target
