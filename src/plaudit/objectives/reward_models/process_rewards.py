"""Objectives that judge an output step by step, and scores of outputs made from scores of steps.

Here T counts steps, not tokens: gather a model's scores at the steps' last tokens first.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from plaudit.objectives.aggregation import Aggregation, aggregate
from plaudit.objectives.catalogue import objective


@objective(
    paper="Wang et al. 2023, arXiv 2312.08935",
    feedback="verdict",
    signal="label",
    data="off-policy",
    reference=False,
)
def step_cross_entropy(
    step_logit: Float[Tensor, "N T"],
    label: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    aggregation: Aggregation = "token-mean",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""Process reward model with one score per step: ``-y log σ(r) - (1 - y) log σ(-r)``, aggregated over the steps.

    Args:
        step_logit: score r of each step; ``σ(r)`` is the probability that it is a good one.
        label: y in [0, 1]: 0 or 1 for hard labels (`step_value_hard`), a share for soft ones (`step_value`). No gradient.
        mask: True for the steps that have a label.
        aggregation: see `plaudit.objectives.aggregation.aggregate`; "token" reads "step" here. ``"token-mean"`` is what
            TRL and OpenRLHF do; Math-Shepherd's formula is the sum, ``"sequence-sum"``.

    Returns:
        (value, weight) per output; the batch's loss is ``sum(weight * value) / sum(weight)``.

    Reference:
        Wang et al., "Math-Shepherd", arXiv 2312.08935, equation 2; Lightman et al., "Let's verify step by step", arXiv
        2305.20050. OpenRLHF's PRMLoss takes the logits of two words, good and bad; give their difference as `step_logit`.

    Example:
        Scores (0, log 3) with labels (1, 1) give ``(log 2 + log(4/3)) / 2 = log(8/3) / 2`` with weight 2.
    """
    logit, label = torch.where(mask, step_logit, 0), torch.where(mask, label, 0).detach()
    return aggregate(-label * logsigmoid(logit) - (1 - label) * logsigmoid(-logit), mask, aggregation)


@objective(
    paper="Uesato et al. 2022, arXiv 2211.14275",
    feedback="spans",
    signal="label",
    data="off-policy",
    reference=False,
)
def step_classification(
    step_logits: Float[Tensor, "N T C"],
    label: Int[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    class_weight: Float[Tensor, " C"] | None = None,
    aggregation: Aggregation = "token-mean",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""Process reward model as a classifier of steps or segments: ``-v_y log p(y)``, aggregated over the steps.

    Args:
        step_logits: logits of the C classes at each step or segment, such as wrong, right (TRL), or no error, error, no
            such fact (FGAIF, one model for each kind of error).
        label: the class of each step, 0 to C - 1; anything where `mask` is False, such as -100.
        mask: True for the steps that have a label.
        class_weight: v > 0 per class, for rare classes; None is 1. No gradient. The sum is divided by the number of steps,
            not by the sum of weights as torch's ``cross_entropy`` does; so a class's weight does not shrink the others'.
        aggregation: see `plaudit.objectives.aggregation.aggregate`; "token" reads "step" here.

    Returns:
        (value, weight) per output; the batch's loss is ``sum(weight * value) / sum(weight)``.

    Reference:
        Uesato et al., "Solving math word problems with process- and outcome-based feedback", arXiv 2211.14275. TRL's
        PRMTrainer (gone in 1.16) is ``"token-mean"`` with two classes, through transformers' token classification. FGAIF,
        arXiv 2404.05046, is ``"sequence-sum"`` with three classes (from memory; the method section was not to be had).

    Example:
        Logits (0, log 3) of classes (wrong, right): a right step costs ``log(4/3)``, a wrong one ``log 4``.
    """
    dtype = torch.promote_types(step_logits.dtype, torch.float32)
    log_prob = torch.where(mask[..., None], step_logits, 0).log_softmax(-1, dtype=dtype)
    index = torch.where(mask, label, 0).long()
    loss = -log_prob.gather(-1, index[..., None]).squeeze(-1)
    if class_weight is not None:
        loss = loss * class_weight.detach()[index]
    return aggregate(loss, mask, aggregation)


@objective(
    paper="Jiang et al. 2025, arXiv 2511.10279",
    feedback="verdict",
    signal="return",
    data="off-policy",
    reference=False,
)
def step_regression(
    step_score: Float[Tensor, "N T"],
    target: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    step_weight: Float[Tensor, "N T"] | None = None,
    aggregation: Aggregation = "token-mean",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""Process reward model by regression on step values: ``v (r - q)^2``, aggregated over the steps.

    Args:
        step_score: score r of each step.
        target: value q of each step, such as `boosted_value` of `step_value`. No gradient.
        mask: True for the steps that count. PROPA keeps steps that were never visited, with value 0, which is a bias
            against late siblings; leave them out.
        step_weight: v >= 0 per step, such as its visits or their root, as values of little-visited steps are noisy; None
            is 1, as in PROPA. No gradient; the sum is divided by the number of steps.
        aggregation: see `plaudit.objectives.aggregation.aggregate`; "token" reads "step" here.

    Returns:
        (value, weight) per output; the batch's loss is ``sum(weight * value) / sum(weight)``.

    Reference:
        The official code of Jiang et al., "PROPA", arXiv 2511.10279, whose step reward model has one label and
        ``problem_type="regression"``. The weights are ours.

    Example:
        Scores (1, 0) against values (0.5, 1) give ``(0.25 + 1) / 2 = 0.625`` with weight 2.
    """
    score, target = torch.where(mask, step_score, 0), torch.where(mask, target, 0).detach()
    error = (score - target).square()
    if step_weight is not None:
        error = error * torch.where(mask, step_weight, 0).detach()
    return aggregate(error, mask, aggregation)


@objective(
    role="reward",
    paper="Lightman et al. 2023, arXiv 2305.20050",
    feedback="any",
    signal="reward",
    data="either",
    reference=False,
)
def product_of_steps(step_log_prob: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"]) -> Float[Tensor, " N"]:
    r"""An output's score as the probability that all its steps are right: ``sum_t log p_t``.

    Args:
        step_log_prob: ``log p_t``, such as ``logsigmoid`` of a process reward model's score.
        mask: True for the steps that exist.

    Returns:
        The logarithm of the product, <= 0, in float32 at least; 0 where there is no step. Long outputs score lower.

    Reference:
        Lightman et al., "Let's verify step by step", arXiv 2305.20050, section 2.6.

    Example:
        Step probabilities (1/2, 1/4) give ``log(1/8)``.
    """
    dtype = torch.promote_types(step_log_prob.dtype, torch.float32)
    return torch.where(mask, step_log_prob, 0).sum(-1, dtype=dtype)


@objective(
    role="reward",
    paper="Lightman et al. 2023, arXiv 2305.20050",
    feedback="any",
    signal="reward",
    data="either",
    reference=False,
)
def minimum_of_steps(step_log_prob: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"]) -> Float[Tensor, " N"]:
    r"""An output's score as that of its worst step: ``min_t log p_t``.

    Args:
        step_log_prob: ``log p_t`` of each step, or any other score.
        mask: True for the steps that exist.

    Returns:
        The least value, whose gradient is shared among equals; 0 where there is no step.

    Reference:
        Lightman et al., arXiv 2305.20050, appendix F; the choice of Math-Shepherd, arXiv 2312.08935.

    Example:
        Step probabilities (1/2, 1/4) give ``log(1/4)``.
    """
    least = torch.where(mask, step_log_prob, math.inf).amin(-1)
    return torch.where(mask.any(-1), least, 0)


@objective(
    role="reward",
    paper="Snell et al. 2024, arXiv 2408.03314",
    feedback="any",
    signal="reward",
    data="either",
    reference=False,
)
def last_of_steps(step_log_prob: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"]) -> Float[Tensor, " N"]:
    r"""An output's score as that of its last step, which has seen all the others: ``log p_T``.

    Args:
        step_log_prob: ``log p_t`` of each step, or any other score.
        mask: True for the steps that exist.

    Returns:
        The value of the last step that exists; 0 where there is none.

    Reference:
        Snell et al., "Scaling LLM test-time compute optimally", arXiv 2408.03314, section 5.1.

    Example:
        Step probabilities (1/2, 1/4) give ``log(1/4)``.
    """
    is_last = mask & (mask.flip(-1).cumsum(-1).flip(-1) == 1)
    return torch.where(is_last, step_log_prob, 0).sum(-1)


@objective(
    role="reward",
    paper="Jiang et al. 2025, arXiv 2511.10279",
    feedback="any",
    signal="reward",
    data="either",
    reference=False,
)
def mean_of_steps(step_log_prob: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"]) -> Float[Tensor, " N"]:
    r"""An output's score as the mean probability of its steps: ``log( (1/T) sum_t p_t )``.

    Args:
        step_log_prob: ``log p_t`` of each step.
        mask: True for the steps that exist.

    Returns:
        The logarithm of the mean probability, in float32 at least; 0 where there is no step. One bad step among many good
        ones hardly shows.

    Reference:
        The answer selection in the code of Jiang et al., "PROPA", arXiv 2511.10279, there on scores clipped to [0, 1] and
        with the question itself counted as a step of score 0, which favours long paths.

    Example:
        Step probabilities (1/2, 1/4) give ``log(3/8)``.
    """
    dtype = torch.promote_types(step_log_prob.dtype, torch.float32)
    some = mask.any(-1)
    kept = mask | ~some[:, None]  # a row without steps keeps all of them, as zeros: no -inf, no gradient
    log_prob = torch.where(kept, torch.where(mask, step_log_prob, 0).to(dtype), -math.inf)
    return log_prob.logsumexp(-1) - kept.sum(-1).to(dtype).log()


@objective(
    role="weight",
    paper="Lightman et al. 2023, arXiv 2305.20050",
    feedback="verdict",
    signal="label",
    data="either",
    reference=False,
)
def until_first_error(correct: Bool[Tensor, "N T"], mask: Bool[Tensor, "N T"]) -> Bool[Tensor, "N T"]:
    r"""The steps that a label can be trusted for: up to the first wrong one, and with it.

    After an error "right" has no clear meaning, and annotators stop there.

    Args:
        correct: True where a step was called right.
        mask: True for the steps that have a label.

    Returns:
        A mask for the losses of this module, within `mask`.

    Reference:
        Lightman et al., arXiv 2305.20050, section 2.6: supervision up to the first incorrect step.

    Example:
        Right, wrong, right, wrong: the first two steps are kept.
    """
    wrong = mask & ~correct
    earlier = wrong.cumsum(-1) - wrong.long()
    return mask & (earlier == 0)
