"""Rewards that a language model carries in itself: its log-ratio to a reference, read as a reward and trained as one."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from plaudit.objectives.arguments import check_positive
from plaudit.objectives.catalogue import objective


@objective(
    role="reward",
    paper="Rafailov et al. 2024, arXiv 2404.12358",
    feedback="any",
    signal="reward",
    data="either",
    reference=True,
)
def implicit_token_reward(
    token_log_prob: Float[Tensor, "N T"],
    ref_token_log_prob: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    beta: float,
) -> Float[Tensor, "N T"]:
    r"""The reward that a model's log-ratio stands for, token by token: ``r_t = β ( log π(y_t) - log π_ref(y_t) )``.

    The rewards up to token t add up to a value ``q_t``, and ``r_t = q_t - q_{t-1}``; over the whole output they add up to
    DPO's implicit reward ``β log-ratio``.

    Args:
        token_log_prob: log-probability of each token under the model whose reward is read.
        ref_token_log_prob: the same under its reference.
        mask: True for the tokens of the output.
        beta: β > 0, the unit of the reward; PRIME's recipe trains with 0.05.

    Returns:
        A reward per token, 0 where `mask` is False. Gradients flow to both log-probabilities; PRIME's policy step takes
        none.

    Raises:
        ValueError: `beta` is not positive.

    Reference:
        Rafailov et al., "From r to Q*", arXiv 2404.12358; Yuan et al., "Free process rewards without process labels",
        arXiv 2412.01981; Cui et al., "Process reinforcement through implicit rewards" (PRIME), arXiv 2502.01456.

    Example:
        Log-probabilities (-1, -2) against a reference's (-2, -1.5) at β = 2 give rewards (2, -1).
    """
    check_positive("beta", beta)
    log_ratio = torch.where(mask, token_log_prob, 0) - torch.where(mask, ref_token_log_prob, 0)
    return beta * log_ratio


@objective(
    role="reward",
    paper="Cui et al. 2025, arXiv 2502.01456",
    feedback="any",
    signal="reward",
    data="either",
    reference=True,
)
def implicit_step_reward(
    token_log_prob: Float[Tensor, "N T"],
    ref_token_log_prob: Float[Tensor, "N T"],
    step_end: Bool[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    beta: float,
) -> Float[Tensor, "N T"]:
    r"""`implicit_token_reward` summed over each step and placed on the step's last token.

    ``r_j = β sum over the tokens t of step j of ( log π(y_t) - log π_ref(y_t) )``.

    Args:
        token_log_prob: log-probability of each token under the model whose reward is read.
        ref_token_log_prob: the same under its reference.
        step_end: True on the last token of each step. The output's last token ends a step in any case, so that no reward
            is lost; all False gives one reward for the whole output, all True gives `implicit_token_reward`.
        mask: True for the tokens of the output.
        beta: β > 0, the unit of the reward.

    Returns:
        The step's reward on its last token, 0 elsewhere, in float32 at least; a row's sum is ``β`` times its log-ratio.

    Raises:
        ValueError: `beta` is not positive.

    Reference:
        Cui et al., "Process reinforcement through implicit rewards" (PRIME), arXiv 2502.01456, section 3. PRIME's code has
        the two ends of this scale, ``token`` and ``whole``, and leaves out β; so its rewards are ours at β = 1.

    Example:
        Log-ratios (1, 2, 4) with a step's end after the second token give (0, 3, 4) at β = 1.
    """
    check_positive("beta", beta)
    dtype = torch.promote_types(token_log_prob.dtype, torch.float32)
    log_ratio = (torch.where(mask, token_log_prob, 0) - torch.where(mask, ref_token_log_prob, 0)).to(dtype)
    is_last = mask & (mask.flip(-1).cumsum(-1).flip(-1) == 1)
    end = (step_end & mask) | is_last
    step = end.cumsum(-1) - end.long()  # the number of steps that ended before this token
    total = torch.zeros_like(log_ratio).scatter_add(-1, step, log_ratio)
    return beta * torch.where(end, total.gather(-1, step), 0)


@objective(
    paper="Cui et al. 2025, arXiv 2502.01456",
    feedback="verdict",
    signal="label",
    data="either",
    reference=True,
)
def prime(log_ratio: Float[Tensor, " N"], label: Float[Tensor, " N"], *, beta: float) -> Float[Tensor, " N"]:
    r"""PRIME's loss: an implicit reward, trained on verdicts alone by cross-entropy.

    ``L = -y log σ(β u) - (1 - y) log σ(-β u)`` with the log-ratio ``u``. The steps' rewards (`implicit_step_reward`) come for
    free, without labels of steps.

    Args:
        log_ratio: ``u = log π(y|x) - log π_ref(y|x)`` of the reward model, summed over the output's tokens.
        label: y in [0, 1], whether the output was right. No gradient.
        beta: β > 0; the paper's recipe uses 0.05. Raising it lets smaller log-ratios tell right from wrong.

    Returns:
        The loss of each output, >= 0.

    Raises:
        ValueError: `beta` is not positive.

    Reference:
        Cui et al., arXiv 2502.01456; Yuan et al., arXiv 2412.01981. ``compute_ce_dpo_loss_rm`` of PRIME's code takes the
        cross-entropy of a sigmoid, which torch cuts off at 100 and which has no gradient there; this has one everywhere.

    Example:
        ``u = 2 log 3`` and β = 1/2: a right output costs ``log(4/3)``, a wrong one ``log 4``.
    """
    check_positive("beta", beta)
    label = label.detach()
    return -label * logsigmoid(beta * log_ratio) - (1 - label) * logsigmoid(-beta * log_ratio)
