"""Rewards inferred from demonstrations, and a logged outcome's stand-in for calls of an expensive model."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from plaudit.objectives.arguments import check_group, check_positive, masked_mean, widened
from plaudit.objectives.catalogue import objective


@objective(
    paper="Ziebart et al. 2008; Finn et al. 2016, arXiv 1603.00448",
    feedback="demonstration",
    signal="none",
    data="either",
    reference=True,
)
def max_entropy_irl(
    reward_demonstration: Float[Tensor, " B"],
    reward_sample: Float[Tensor, "B K"],
    log_ref_over_sampler: Float[Tensor, "B K"],
    mask: Bool[Tensor, "B K"] | None = None,
    *,
    beta: float,
) -> Float[Tensor, " B"]:
    r"""Maximum-entropy inverse RL: negative log-likelihood of a demonstration under ``π_φ ∝ π_ref exp(R_φ / β)``.

    ``L = -R(y*)/β + log (1/K) Σ_k exp(R(y_k)/β + log π_ref(y_k) - log q(y_k))``, the second term an estimate of log Z from
    K samples of q. Its gradient is ``(-∇R(y*) + Σ_k w_k ∇R(y_k)) / β``: demonstration against policy, as in the position
    paper; with q = π_φ (online samples of the converged policy) the weights are equal.

    Args:
        reward_demonstration: ``R_φ(y*)`` of the demonstrated output.
        reward_sample: ``R_φ(y_k)`` of K outputs drawn from q.
        log_ref_over_sampler: ``log π_ref(y_k) - log q(y_k)``, 0 for samples of the reference; a constant.
        mask: True for the samples that exist.
        beta: β > 0, the pull to the reference.

    Returns:
        The loss of each demonstration, without the constant ``-log π_ref(y*)``; without samples it is 0.

    Raises:
        ValueError: `beta` is not positive, or there is no room for a sample.

    Reference:
        Ziebart et al., "Maximum entropy inverse reinforcement learning" (2008); Finn, Levine and Abbeel, "Guided cost
        learning", arXiv 1603.00448, its importance-sampled likelihood; for language models arXiv 2310.06147.

    Example:
        Reward 1 against samples of the reference with rewards (0, 0), β = 1: ``-1 + log 1 = -1``.
    """
    check_positive("beta", beta)
    check_group("reward_sample", reward_sample, at_least=1)
    counts = torch.ones_like(reward_sample, dtype=torch.bool) if mask is None else mask
    some = counts.any(-1)
    exponent = torch.where(counts, widened(reward_sample), 0) / beta + torch.where(
        counts, log_ref_over_sampler.detach(), 0
    )
    log_sum = torch.where(counts | ~some[:, None], exponent, -torch.inf).logsumexp(-1)
    log_z = log_sum - counts.sum(-1).clamp(min=1).to(log_sum.dtype).log()
    return torch.where(some, log_z - widened(reward_demonstration) / beta, 0)


@objective(
    paper="Ho and Ermon 2016, arXiv 1606.03476",
    feedback="demonstration",
    signal="none",
    data="on-policy",
    reference=False,
)
def adversarial_imitation(
    logit_demonstration: Float[Tensor, " B"],
    logit_sample: Float[Tensor, "B K"],
    mask: Bool[Tensor, "B K"] | None = None,
) -> Float[Tensor, " B"]:
    r"""The discriminator of adversarial imitation: ``L = -log σ(D(y*)) - (1/K) Σ_k log σ(-D(y_k))``.

    Args:
        logit_demonstration: D of the demonstrated output.
        logit_sample: D of K outputs of the current policy.
        mask: True for the samples that exist.

    Returns:
        The loss of each context, >= 0; least at ``D = log p_demo - log π``. The policy's reward is then D (AIRL) or
        ``-log σ(-D)`` (GAIL).

    Raises:
        ValueError: no room for a sample.

    Reference:
        Ho and Ermon, "Generative adversarial imitation learning", arXiv 1606.03476, with demonstrations as
        class 1; Fu et al. (AIRL), arXiv 1710.11248.

    Example:
        All logits 0: ``2 log 2``.
    """
    check_group("logit_sample", logit_sample, at_least=1)
    if mask is not None:
        logit_sample = torch.where(mask, logit_sample, 0)
    return -logsigmoid(logit_demonstration) - masked_mean(logsigmoid(-logit_sample), mask)


@objective(
    paper="Sun et al. 2024, arXiv 2309.06553",
    feedback="verdict",
    signal="label",
    data="off-policy",
    reference=False,
    modalities=("text",),
)
def prompt_oirl(
    logit: Float[Tensor, "B K"], correct: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None
) -> Float[Tensor, " B"]:
    r"""Prompt-OIRL's proxy of an expensive model: mean cross-entropy of "prompt k solves x" over the prompts tried on x.

    Args:
        logit: the scorer's logit of (question, prompt); its argmax over prompts is the choice at test time.
        correct: 1 where the logged call was right, 0 where not; the share of right calls where there were several.
        mask: True for the prompts that were tried on the question.

    Returns:
        The loss of each question, >= 0: one value a question, so that a split by rows of the batch cannot leak a question.

    Raises:
        ValueError: no room for a prompt.

    Reference:
        Sun et al., "Query-dependent prompt evaluation and optimization with offline inverse RL", arXiv 2309.06553, its proxy
        reward; the official code fits it by XGBoost's ``binary:logistic``.

    Example:
        Logits (0, log 3), correct (1, 1): ``(log 2 + log 4/3) / 2 = 0.4904``.
    """
    check_group("logit", logit, at_least=1)
    if mask is not None:
        logit, correct = torch.where(mask, logit, 0), torch.where(mask, correct, 0)
    entropy = binary_cross_entropy_with_logits(logit, correct.detach(), reduction="none")
    return masked_mean(entropy, mask)


@objective(
    role="statistic",
    paper="Sun et al. 2024, arXiv 2309.06553",
    feedback="verdict",
    signal="label",
    data="off-policy",
    reference=False,
    modalities=("text",),
)
def choice_regret(
    score: Float[Tensor, "B K"], outcome: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None
) -> Float[Tensor, " B"]:
    r"""What a choice by score leaves on the table: the best outcome of the row less the outcome of the highest score.

    Args:
        score: the scorer's value of each option; of equal ones the first is chosen.
        outcome: what each option really brought, such as correct or not.
        mask: True for the options that exist.

    Returns:
        The regret of each row, >= 0; 0 where there is no option. A constant.

    Raises:
        ValueError: no room for an option.

    Reference:
        Sun et al., arXiv 2309.06553, section 4 ("oracle" less chosen). With one noisy call an option, part of it is luck.

    Example:
        Scores (1, 2), outcomes (1, 0): regret 1.
    """
    check_group("score", score, at_least=1)
    counts = torch.ones_like(score, dtype=torch.bool) if mask is None else mask
    outcome = outcome.detach()
    best = torch.where(counts.any(-1, keepdim=True), torch.where(counts, outcome, -torch.inf), 0).amax(-1)
    choice = torch.where(counts, score.detach(), -torch.inf).argmax(-1, keepdim=True)
    return best - torch.where(counts, outcome, 0).gather(-1, choice).squeeze(-1)
