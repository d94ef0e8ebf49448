"""Objectives on single outputs that have a reward or a score: the log-ratio is fitted to it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from plaudit.objectives.arguments import check_positive
from plaudit.objectives.catalogue import objective


@objective(
    paper="Richemond et al. 2024, arXiv 2405.19107",
    feedback="rating",
    signal="reward",
    data="off-policy",
    reference=True,
)
def dro_v_policy(
    log_ratio: Float[Tensor, " N"],
    value: Float[Tensor, " N"],
    reward: Float[Tensor, " N"],
    *,
    beta: float,
) -> Float[Tensor, " N"]:
    r"""Direct reward optimisation, the policy's part: the log-ratio is fitted to the reward's advantage.

    ``L = 0.5 (r - V(x) - β u)^2``, V held constant. It is 0 for every output at once where the policy is the best one,
    ``π = π_ref exp(r / β) / Z`` and ``V = β log Z``.

    Args:
        log_ratio: u of each output, summed over its steps.
        value: ``V(x)`` of each output's context, from `dro_v_value`; no gradient.
        reward: r of each output.
        beta: > 0, strength of the pull to the reference (the paper's τ).

    Returns:
        The loss of each output, >= 0. Its slope in u is ``-β (r - V - β u)``: divide by β for a step whose size does not
        fall with it, as Tinker's ``dro`` loss does.

    Raises:
        ValueError: beta is not positive.

    Reference:
        Richemond et al., "Offline regularised reinforcement learning for large language models alignment", arXiv 2405.19107,
        the DRO-V loss. The paper has one loss for policy and value; its two gradients are those of the two parts.

    Example:
        ``r = 2``, ``V = 1`` and ``u = 1`` at β = 0.5: ``0.5 * 0.5^2 = 0.125``.
    """
    check_positive("beta", beta)
    return 0.5 * (reward - value.detach() - beta * log_ratio) ** 2


@objective(
    role="value",
    paper="Richemond et al. 2024, arXiv 2405.19107",
    feedback="rating",
    signal="reward",
    data="off-policy",
    reference=True,
)
def dro_v_value(
    log_ratio: Float[Tensor, " N"],
    value: Float[Tensor, " N"],
    reward: Float[Tensor, " N"],
    *,
    beta: float,
) -> Float[Tensor, " N"]:
    r"""Direct reward optimisation, the value's part: ``V(x)`` is fitted to the reward less what the log-ratio explains.

    ``L = 0.5 (r - V(x) - β u)^2``, u held constant; the best V is the mean of ``r - β u`` over the context's outputs.

    Args:
        log_ratio: u of each output, summed over its steps; no gradient.
        value: ``V(x)`` of each output's context.
        reward: r of each output.
        beta: > 0, strength of the pull to the reference (the paper's τ).

    Returns:
        The loss of each output, >= 0.

    Raises:
        ValueError: beta is not positive.

    Reference:
        Richemond et al., arXiv 2405.19107, the DRO-V loss; see `dro_v_policy`.

    Example:
        ``r = 2``, ``V = 1`` and ``u = 1`` at β = 0.5: ``0.5 * 0.5^2 = 0.125``.
    """
    check_positive("beta", beta)
    return 0.5 * (reward - value - beta * log_ratio.detach()) ** 2


@objective(
    paper="Wang et al. 2024, arXiv 2408.15339",
    feedback="rating",
    signal="reward",
    data="either",
    reference=True,
)
def una_reward_mse(log_ratio: Float[Tensor, " N"], reward: Float[Tensor, " N"], *, beta: float) -> Float[Tensor, " N"]:
    r"""Unified alignment with rewards: the implicit reward is fitted to the explicit one, ``L = (r - β u)^2``.

    Args:
        log_ratio: u of each output, summed over its steps.
        reward: r of each output, on any scale; centred rewards spare the policy a constant that no log-ratio can have.
        beta: > 0, strength of the pull to the reference.

    Returns:
        The loss of each output, >= 0.

    Raises:
        ValueError: beta is not positive.

    Reference:
        Wang et al., "UNA: unifying alignments of RLHF/PPO, DPO and KTO by a generalized implicit reward function", arXiv
        2408.15339, equation 7 with the squared difference. UNA's loss on pairs (equation 10, once
        it is taken through log σ) is `dpo`.

    Example:
        ``r = 1`` and ``u = 1`` at β = 0.5: 0.25.
    """
    check_positive("beta", beta)
    return (reward - beta * log_ratio) ** 2


@objective(
    paper="Wang et al. 2024, arXiv 2408.15339",
    feedback="rating",
    signal="label",
    data="either",
    reference=True,
)
def una_score_mse(log_ratio: Float[Tensor, " N"], score: Float[Tensor, " N"], *, beta: float) -> Float[Tensor, " N"]:
    r"""Unified alignment with scores: ``L = (s - σ(β u))^2``.

    Args:
        log_ratio: u of each output, summed over its steps.
        score: s in [0, 1] of each output: a rating on a bounded scale, or 1 for good and 0 for bad.
        beta: > 0, strength of the pull to the reference.

    Returns:
        The loss of each output in [0, 1]; its gradient fades where the implicit score is far off, unlike `una_score_bce`'s.

    Raises:
        ValueError: beta is not positive.

    Reference:
        Wang et al., "UNA", arXiv 2408.15339, equations 11 (binary; printed with a minus sign, which the code
        does not have) and 13 (scores of a model). The authors' online code puts
        a reward model's reward through σ as well and then takes this loss.

    Example:
        ``β u = log 3`` and ``s = 1``: ``0.25^2 = 0.0625``.
    """
    check_positive("beta", beta)
    return (score - torch.sigmoid(beta * log_ratio)) ** 2


@objective(
    paper="Wang et al. 2024, arXiv 2408.15339",
    feedback="reaction",
    signal="label",
    data="either",
    reference=True,
)
def una_score_bce(log_ratio: Float[Tensor, " N"], score: Float[Tensor, " N"], *, beta: float) -> Float[Tensor, " N"]:
    r"""Unified alignment with good and bad outputs: ``L = -s log σ(β u) - (1 - s) log σ(-β u)``.

    Args:
        log_ratio: u of each output, summed over its steps.
        score: s in [0, 1] of each output: 1 for good and 0 for bad, or the probability that it is good.
        beta: > 0, strength of the pull to the reference.

    Returns:
        The loss of each output, >= 0; ``log 2`` where the policy is the reference.

    Raises:
        ValueError: beta is not positive.

    Reference:
        Wang et al., "UNA", arXiv 2408.15339, equation 12. It is `bco` without a shift; the authors' code takes the logarithm
        of σ, which is -infinity where β u is far off.

    Example:
        ``β u = 1``: 0.3133 at ``s = 1``, 1.3133 at ``s = 0``.
    """
    check_positive("beta", beta)
    return -score * logsigmoid(beta * log_ratio) - (1 - score) * logsigmoid(-beta * log_ratio)
